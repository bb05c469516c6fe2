"""Sampling responses and measuring their log-probabilities, in batches sorted by length.

Both pad on the left with explicit positions. Sampling draws from a generator state of its
own: the same prompts, seed and batch size give the same responses, and no other randomness moves.
A prompt that is sampled several times is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from reward_harness.hashing import derive_seed
from reward_harness.models.batches import in_batches, pad_batch, position_ids
from reward_harness.models.chat import Turns, encode_prompt, encode_response, end_id, pad_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LOGPROB_BATCH_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Generated:
    """One sampled response; ``token_ids`` include the end token where it ``ended`` by itself."""

    text: str
    token_ids: tuple[int, ...]
    ended: bool


Sampler = Callable[[Any, Sequence[Sequence[int]], int], list[Generated]]
"""Of (policy, rows of token ids, seed): one response for each row, in order."""


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Turns],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int = 16,
    max_prompt_tokens: int | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Generated]:
    """One response for each prompt, in order; temperature 0 is greedy.

    ``max_prompt_tokens`` cuts longer prompts on their left. ``tell`` hears after each batch how
    many are done.
    """
    rows = [encode_prompt(tokenizer, prompt)[-(max_prompt_tokens or 0) :] for prompt in prompts]
    return generate_rows(
        model,
        tokenizer,
        rows,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        batch_size=batch_size,
        tell=tell,
    )


def generate_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
    tell: Callable[[int], None] = lambda done: None,
) -> list[Generated]:
    """The same for tokenised prompts, in batches by length; equal prompts stand together."""
    first = {tuple(row): index for index, row in reversed(list(enumerate(rows)))}
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]), first[tuple(rows[i])]))
    found: dict[int, Generated] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        sampled = generate_ids(
            model,
            tokenizer,
            [rows[index] for index in batch],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=derive_seed(seed, "generate", start),
        )
        found.update(zip(batch, sampled, strict=True))
        tell(len(found))
    return [found[index] for index in range(len(rows))]


def generate_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> list[Generated]:
    """One batch of responses to tokenised prompts."""
    ids, mask = pad_batch(rows, pad_id(tokenizer), "left")
    settings = _generation_config(tokenizer, max_new_tokens, temperature)
    devices = [model.device] if model.device.type == "cuda" else []
    training = model.training
    model.eval()
    with torch.inference_mode(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        output: Any = model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=settings,
            **_read_once(model, ids, mask),
        )
    model.train(training)
    new: list[list[int]] = output[:, ids.shape[1] :].tolist()
    return [generated_from(tokenizer, row) for row in new]


def _read_once(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
    """The cache (B, T-1) of all prompt tokens but the last, where rows of ``ids`` (B, T) repeat.

    Each different row is read once and its cache handed to its repetitions; nothing where all rows
    differ, so that ``model.generate`` reads them itself.
    """
    rows = [tuple(row) for row in ids.masked_fill(mask == 0, -1).tolist()]
    places = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    if len(places) == len(rows) or ids.shape[1] < 2:
        return {}
    different = torch.tensor([rows.index(row) for row in places])
    seen = mask[different]
    output = model(
        input_ids=ids[different, :-1].to(model.device),
        attention_mask=seen[:, :-1].to(model.device),
        position_ids=position_ids(seen)[:, :-1].to(model.device),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = output.past_key_values
    cache.batch_select_indices(torch.tensor([places[row] for row in rows], device=model.device))
    return {"past_key_values": cache}


def _generation_config(
    tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, temperature: float
) -> GenerationConfig:
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_id(tokenizer),
        eos_token_id=end_id(tokenizer),
        **sampling,
    )


def generated_from(tokenizer: PreTrainedTokenizerBase, row: list[int]) -> Generated:
    """What was generated up to and with the end token; the rest of the row is padding."""
    end = end_id(tokenizer)
    ended = end in row
    kept = row[: row.index(end) + 1] if ended else row
    text = tokenizer.decode(kept[:-1] if ended else kept, skip_special_tokens=True)
    return Generated(str(text), tuple(kept), ended)


def response_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Turns],
    responses: Sequence[str | Sequence[int]],
    *,
    batch_tokens: int = LOGPROB_BATCH_TOKENS,
    max_prompt_tokens: int | None = None,
) -> list[torch.Tensor]:
    """Log-probability of each response token given all before it: float32 (T,) tensors on the CPU.

    A response given as text is measured with its end token; given as ids, as it is.
    ``max_prompt_tokens`` cuts prompts as ``generate`` does.
    """
    heads = [encode_prompt(tokenizer, prompt)[-(max_prompt_tokens or 0) :] for prompt in prompts]
    tails = [encode_response(tokenizer, r) if isinstance(r, str) else list(r) for r in responses]
    lengths = [len(head) + len(tail) for head, tail in zip(heads, tails, strict=True)]

    def of(batch: list[int]) -> list[torch.Tensor]:
        return _batch_logprobs(model, tokenizer, [(heads[i], tails[i]) for i in batch])

    return in_batches(lengths, batch_tokens, of)


def _batch_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[tuple[list[int], list[int]]],
) -> list[torch.Tensor]:
    ids, mask = pad_batch([head + tail for head, tail in rows], pad_id(tokenizer), "left")
    longest = max(len(tail) for _, tail in rows)
    with torch.inference_mode():
        # only the last positions predict response tokens: the logits of the rest are never made
        logits = model(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            position_ids=position_ids(mask).to(model.device),
            logits_to_keep=longest + 1,
        ).logits[:, :-1]
        targets = ids[:, ids.shape[1] - longest :].to(model.device)
        scores = torch.log_softmax(logits.float(), dim=-1).gather(2, targets.unsqueeze(-1))
    return [scores[row, longest - len(tail) :, 0].cpu() for row, (_, tail) in enumerate(rows)]
