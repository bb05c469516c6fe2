"""Published reward models in the transformers layout: one way to read them all.

``open_published`` gives the backbone (ids to last hidden states) and the head (states to logits)
apart, so that a reward is read where it should be: at the last token that is not padding, or at
each step. Qwen2.5-Math's outcome and process models ship their class as remote code; the two are
small and are built here from their weights, so that no foreign code runs. Others that need remote
code (internlm2-reward) run it only with ``trust_remote_code=True``.

A folder whose weights lack the head is refused: transformers would fill it with random numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from transformers.models.qwen2 import Qwen2Config, Qwen2Model, Qwen2PreTrainedModel

from reward_harness.errors import ArtifactError, SpecError
from reward_harness.models.batches import first_position, position_ids
from reward_harness.models.embedded import load_tokenizer
from reward_harness.models.folders import existing_folder
from reward_harness.models.silence import quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HEADS = ("score", "v_head", "classifier")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class _TwoLayerHead(Qwen2PreTrainedModel):
    """Qwen2 with Linear, ReLU, Linear on its last hidden states, as Qwen2.5-Math publishes it."""

    labels = 1

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.model = Qwen2Model(config)
        self.score = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, self.labels))
        self.post_init()


class Qwen2ForRewardModel(_TwoLayerHead):
    """Outcome reward: one logit (Qwen2.5-Math-RM)."""


class Qwen2ForProcessRewardModel(_TwoLayerHead):
    """Process reward: logits of wrong and right at each step token (Qwen2.5-Math-PRM)."""

    labels = 2


NATIVE: dict[str, type[_TwoLayerHead]] = {
    "Qwen2ForRewardModel": Qwen2ForRewardModel,
    "Qwen2ForProcessRewardModel": Qwen2ForProcessRewardModel,
}


@dataclass(frozen=True, slots=True)
class Opened:
    """A model in evaluation mode, its tokenizer and its two halves.

    ``head`` maps states (N, H) to logits (N, labels); None for a model whose head reads more than
    one state (encoders), which is then asked as a whole. ``first`` is the position of a sequence's
    first token, None for a backbone that is told no positions.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    backbone: nn.Module
    head: Callable[[torch.Tensor], torch.Tensor] | None
    max_length: int
    first: int | None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def settings(self) -> Any:
        """The model's configuration."""
        return self.model.config

    def states(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Last hidden states (B, T, H); positions count real tokens, whichever side is padded."""
        more = {} if self.first is None else {"position_ids": position_ids(mask, self.first)}
        return self.backbone(input_ids=ids, attention_mask=mask, **more).last_hidden_state


def architecture_of(folder: Path, trust_remote_code: bool = False) -> str:
    """The class that ``config.json`` names; ``ArtifactError`` if the folder holds no model."""
    config = read_config(existing_folder(folder), trust_remote_code)
    return str((getattr(config, "architectures", None) or ["unknown"])[0])


def read_config(folder: Path, trust_remote_code: bool) -> Any:
    """The folder's configuration; ``SpecError`` where reading it needs remote code."""
    quiet_libraries()
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except ValueError as error:
        raise _needs_code(folder, error) from error


def open_published(
    folder: Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    max_length: int | None = None,
) -> Opened:
    """Load a folder; ``device`` defaults to the GPU if there is one, ``dtype`` to bf16 there."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("bfloat16" if device.startswith("cuda") else "float32")
    if dtype not in DTYPES:
        raise SpecError("unknown dtype", got=dtype, expected=f"one of: {', '.join(DTYPES)}")
    architecture = architecture_of(folder, trust_remote_code)
    loader, options = _loader(architecture, folder, trust_remote_code)
    try:
        model, told = loader.from_pretrained(
            folder, dtype=DTYPES[dtype], output_loading_info=True, **options
        )
    except ValueError as error:
        raise _needs_code(folder, error) from error
    lost = sorted(key for key in told["missing_keys"] if key.split(".")[0] in HEADS)
    if lost:
        raise ArtifactError(
            "the weights have no reward head",
            where=str(folder),
            got=f"nothing for {', '.join(lost)}",
            fix="Give a model that was trained as a reward model; this is its backbone only.",
        )
    model = model.to(torch.device(device)).eval()
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    longest = max_length or _positions(model, tokenizer)
    backbone = _backbone(model)
    positioned = "position_ids" in inspect.signature(backbone.forward).parameters
    first = first_position(backbone) if positioned else None
    return Opened(model, tokenizer, backbone, _head(model), longest, first)


def _loader(architecture: str, folder: Path, trusted: bool) -> tuple[Any, dict[str, Any]]:
    """The class that loads ``architecture``, and its options."""
    if architecture in NATIVE:
        return NATIVE[architecture], {}
    remote = {"trust_remote_code": trusted}
    if architecture.endswith("ForSequenceClassification"):
        return AutoModelForSequenceClassification, remote
    if architecture.endswith("ForTokenClassification"):
        return AutoModelForTokenClassification, remote
    if architecture.endswith("ForCausalLM"):
        return AutoModelForCausalLM, remote
    if "auto_map" not in read_config(folder, trusted).to_dict():
        raise SpecError(
            "not a reward model that can be loaded",
            where=str(folder),
            got=architecture,
            expected="…ForSequenceClassification with one label, …ForTokenClassification, "
            + ", ".join(NATIVE),
        )
    if not trusted:
        raise _needs_code(folder, architecture)
    return AutoModel, remote


def _needs_code(folder: Path, problem: object) -> SpecError:
    return SpecError(
        "the model cannot be loaded as it is",
        where=str(folder),
        got=str(problem).splitlines()[0],
        fix="If it brings code of its own, read that code, then pass trust_remote_code=True.",
    )


def _backbone(model: PreTrainedModel) -> nn.Module:
    return cast("nn.Module", getattr(model, model.base_model_prefix, model))


def _head(model: PreTrainedModel) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """The map from one state to logits, where the model has one."""
    for name in ("score", "v_head"):
        if isinstance(head := getattr(model, name, None), nn.Module):
            return head
    if type(model).__name__.endswith("ForTokenClassification"):
        return cast("nn.Module", model.classifier)
    return cast("Any", model.get_output_embeddings())


def _positions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    told = [getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length]
    return int(min(value for value in (*told, 1 << 20) if isinstance(value, int)))
