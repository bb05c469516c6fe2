"""The models of PPO as one object: policy, value head and frozen reference over shared weights.

``ActorCritic.measure`` is the pass without gradient after a rollout, ``ActorCritic.evaluate`` the
one that learns. Decisions:

- **Value head**: a Linear on the last hidden state, weights 0, bias set by the trainer. Its
  gradient stays out of the trunk: a small adapter serves the policy alone, the two losses need no
  common scale, and a value function costs neither memory nor a pass of its own (a separate value
  model would double both on a CPU). ``value_into_trunk=True`` lets the gradient through.
- **Reference**: the adapter switched off, so that the base weights exist once; a frozen copy where
  all weights train.
- **Temperature**: every log-prob (old, new, reference) is of softmax(logits / temperature), the
  distribution that responses are drawn from (no top-k, no top-p). So the ratio starts at 1 and the
  KL is between the samplers.
- **Dropout is off** in every pass: with it, the ratio is noise before the first update.
- **Layout**: prompt, response, padding. A causal model needs no mask for what follows; a batch
  is as long as its longest sequence, and logits are made for response tokens only.

Shapes: ``B`` sequences, ``S`` longest of a batch, ``N`` response tokens of a batch, one row after
the other, ``V`` vocabulary, ``H`` hidden size.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reward_harness.models.batches import pad_batch
from reward_harness.models.chat import Turns
from reward_harness.models.generation import Generated
from reward_harness.training.policy_model import frozen_copy
from reward_harness.training.ppo_losses import token_entropy, token_logprobs

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt as chat and as ids, and the response drawn for it."""

    chat: Turns
    prompt: Sequence[int]
    drawn: Generated

    @property
    def ids(self) -> list[int]:
        return [*self.prompt, *self.drawn.token_ids]


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass over sequences without their last token, which predicts nothing.

    ``tokens`` (B, S); ``keep`` (B, S) bool, where a response token is predicted; ``targets`` (N,).
    """

    tokens: Tensor
    keep: Tensor
    targets: Tensor

    @classmethod
    def of(cls, samples: Sequence[Sample], pad: int, device: torch.device) -> Batch:
        """Right-padded tokens of ``samples``, and the places that predict their responses."""
        tokens, _ = pad_batch([s.ids[:-1] for s in samples], pad)
        first = torch.tensor([len(s.prompt) - 1 for s in samples])[:, None]
        end = torch.tensor([len(s.ids) - 1 for s in samples])[:, None]
        place = torch.arange(tokens.shape[1])
        keep = (place >= first) & (place < end)
        targets = torch.tensor([token for s in samples for token in s.drawn.token_ids])
        return cls(tokens.to(device), keep.to(device), targets.to(device))


class ActorCritic:
    """Policy (LoRA or full weights) with its value head and reference.

    Args:
        policy: causal model or ``PeftModel``; its trainable parameters are what learns.
        pad: token id that fills batches.
        temperature: of sampling.
        autocast: compute in this dtype over float32 weights (GPU); None: in the weights' dtype.
        value_into_trunk: let the value loss train the policy's trunk too.
    """

    def __init__(
        self,
        policy: PreTrainedModel,
        *,
        pad: int,
        temperature: float,
        autocast: torch.dtype | None = None,
        value_into_trunk: bool = False,
    ) -> None:
        self.policy: Any = policy.eval()
        self.pad, self.temperature = pad, temperature
        self.autocast, self.value_into_trunk = autocast, value_into_trunk
        self.device = next(policy.parameters()).device
        has_adapter = hasattr(policy, "disable_adapter")
        mixed = autocast == torch.bfloat16
        self.frozen: Any = None if has_adapter else frozen_copy(policy, mixed=mixed)
        self.weights = {n: p for n, p in policy.named_parameters() if p.requires_grad}
        self.value_head = nn.Linear(self.policy.config.hidden_size, 1, device=self.device)
        nn.init.zeros_(self.value_head.weight)

    def measure(self, samples: Sequence[Sample]) -> Tensor:
        """Log-probs, reference log-probs, values and entropy of the response tokens: (4, N)."""
        batch = Batch.of(samples, self.pad, self.device)
        with torch.no_grad():
            logits, hidden = self._forward(self.policy, batch)
            logprobs, entropy = token_logprobs(logits, batch.targets), token_entropy(logits)
            del logits  # before the reference makes as many
            with self.policy.disable_adapter() if self.frozen is None else nullcontext():
                logits, _ = self._forward(self.frozen or self.policy, batch)
            reference = token_logprobs(logits, batch.targets)
            return torch.stack([logprobs, reference, self._values(hidden), entropy])

    def evaluate(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Log-probs and values of the response tokens, both (N,), with gradient."""
        batch = Batch.of(samples, self.pad, self.device)
        logits, hidden = self._forward(self.policy, batch)
        return token_logprobs(logits, batch.targets), self._values(hidden)

    def _forward(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits / temperature (N, V) in float32, and the last hidden states (N, H)."""
        enabled = self.autocast is not None
        with (
            torch.autocast(self.device.type, dtype=self.autocast, enabled=enabled),
            head_input(model) as seen,
        ):
            output = model(input_ids=batch.tokens, logits_to_keep=batch.keep, use_cache=False)
        # in place: the logits are the largest tensor of a step and have no other reader
        return output.logits.float().div_(self.temperature), seen[-1]

    def _values(self, hidden_NH: Tensor) -> Tensor:
        """Values (N,) of the states before each response token."""
        hidden = hidden_NH.float() if self.value_into_trunk else hidden_NH.detach().float()
        return self.value_head(hidden).squeeze(-1)


@contextmanager
def head_input(model: Any) -> Generator[list[Tensor]]:
    """Collect what the language-model head reads: the last hidden states of the kept places."""
    seen: list[Tensor] = []

    def collect(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    hook = model.get_output_embeddings().register_forward_pre_hook(collect)
    try:
        yield seen
    finally:
        hook.remove()
