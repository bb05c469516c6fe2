"""Deriving one record type from another, where that is meaningful; ``derive`` is the one entry.

| from | to | how |
|---|---|---|
| ranked prompts | preference pairs | candidates of different rank: all, or neighbours only |
| ranked prompts | SFT examples | the candidate of rank 1 (of several, the first) |
| preference pairs | ranked prompts | two candidates of rank 1 and 2, in a random order |
| preference pairs | SFT examples | the chosen response |
| stepwise examples | SFT examples | solutions without a wrong step |
| ranked prompts, pairs, SFT examples | RL prompts | each different prompt once |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any, Literal, TypeVar, cast

from reward_harness.data.files import record_id
from reward_harness.data.records import (
    Candidate,
    PreferencePair,
    RankedPrompt,
    Record,
    RLPrompt,
    SFTExample,
    StepwiseExample,
    prompt_key,
)
from reward_harness.errors import DataError
from reward_harness.hashing import unit_interval

R = TypeVar("R", bound=Record)
Pairing = Literal["all", "adjacent"]


def derive(records: Sequence[Record], wanted: type[R], *, pairs: Pairing = "all") -> list[R]:
    """``records`` as records of type ``wanted``; ``DataError`` where that would make no sense."""
    kinds = {type(r) for r in records}
    if kinds <= {wanted}:
        return list(cast("Sequence[R]", records))
    if kinds == {RankedPrompt} and wanted is PreferencePair:
        ranked = cast("Sequence[RankedPrompt]", records)
        return cast("list[R]", pairs_from_ranked(ranked, pairs))
    derived: Callable[[Any], list[Any]] | None = _DERIVATIONS.get((kinds.pop(), wanted))
    if derived is None or kinds:
        raise DataError(
            f"cannot make {wanted.__name__} records from these",
            got=type(records[0]).__name__,
            expected=f"one of: {', '.join(derivable_from(wanted))}",
            fix="Name a source of one of these types in the experiment's dataset section.",
        )
    return derived(records)


def derivable_from(wanted: type[Record]) -> list[str]:
    """Names of the record types that can become ``wanted``, itself first."""
    found = [source.__name__ for source, target in _DERIVATIONS if target is wanted]
    ranked = ["RankedPrompt"] if wanted is PreferencePair else []
    return [wanted.__name__, *ranked, *found]


def pairs_from_ranked(
    prompts: Iterable[RankedPrompt], pairing: Pairing = "all"
) -> list[PreferencePair]:
    """Pairs of candidates whose ranks differ.

    The margin is their difference in quality where both have one.
    """
    return [pair for prompt in prompts for pair in _pairs_of(prompt, pairing)]


def _pairs_of(prompt: RankedPrompt, pairing: Pairing) -> list[PreferencePair]:
    ordered = sorted(prompt.candidates, key=lambda c: (_rank(prompt, c), c.candidate_id))
    levels = sorted({_rank(prompt, c) for c in ordered})
    found: list[PreferencePair] = []
    for better, worse in combinations(ordered, 2):
        steps = levels.index(_rank(prompt, worse)) - levels.index(_rank(prompt, better))
        if steps == 0 or (pairing == "adjacent" and steps > 1) or better.text == worse.text:
            continue
        graded = better.quality is not None and worse.quality is not None
        found.append(
            PreferencePair(
                pair_id=f"{prompt.prompt_id}/{better.candidate_id}>{worse.candidate_id}",
                prompt=prompt.prompt,
                chosen=better.text,
                rejected=worse.text,
                source=f"{better.source}>{worse.source}",
                margin=(better.quality or 0.0) - (worse.quality or 0.0) if graded else None,
            )
        )
    return found


def _rank(prompt: RankedPrompt, candidate: Candidate) -> int:
    if candidate.rank is None:
        raise DataError(
            f"candidate {candidate.candidate_id!r} has no rank",
            where=f"prompt {prompt.prompt_id!r}",
            expected="an integer rank for every candidate, 1 for the best",
            fix="Add the ranks, or use this source for rl_prompts only.",
        )
    return candidate.rank


def sft_from_ranked(prompts: Iterable[RankedPrompt]) -> list[SFTExample]:
    """The best response of each prompt."""
    examples: list[SFTExample] = []
    for prompt in prompts:
        best = min(prompt.candidates, key=lambda c: _rank(prompt, c))
        examples.append(
            SFTExample(
                example_id=prompt.prompt_id,
                prompt=prompt.prompt,
                response=best.text,
                source=best.source,
            )
        )
    return examples


def ranked_from_pairs(pairs: Iterable[PreferencePair]) -> list[RankedPrompt]:
    """Each pair as a prompt of two candidates.

    Whether the chosen one stands first is a coin tossed by its id.
    """
    found: list[RankedPrompt] = []
    for pair in pairs:
        chosen = {"text": pair.chosen, "source": "chosen", "rank": 1}
        rejected = {"text": pair.rejected, "source": "rejected", "rank": 2}
        sides = [chosen, rejected]
        if unit_interval("candidate order", pair.pair_id) < 0.5:
            sides.reverse()
        candidates = [
            Candidate.model_validate({"candidate_id": name, **side})
            for name, side in zip("ab", sides, strict=True)
        ]
        found.append(
            RankedPrompt(prompt_id=pair.pair_id, prompt=pair.prompt, candidates=candidates)
        )
    return found


def sft_from_pairs(pairs: Iterable[PreferencePair]) -> list[SFTExample]:
    """The chosen response of each pair, to be imitated."""
    return [
        SFTExample(example_id=p.pair_id, prompt=p.prompt, response=p.chosen, source=p.source)
        for p in pairs
    ]


def rl_prompts(records: Iterable[RankedPrompt | PreferencePair | SFTExample]) -> list[RLPrompt]:
    """Each different prompt once, under the id of the first record that has it."""
    found: dict[str, RLPrompt] = {}
    for record in records:
        source = "" if isinstance(record, RankedPrompt) else record.source
        prompt = RLPrompt(prompt_id=record_id(record), prompt=record.prompt, source=source)
        found.setdefault(prompt_key(record.prompt), prompt)
    return list(found.values())


def right_solutions(examples: Iterable[StepwiseExample]) -> list[SFTExample]:
    """Solutions without a wrong step, one step a line."""
    return [
        SFTExample(
            example_id=e.example_id, prompt=e.prompt, response="\n".join(e.steps), source=e.source
        )
        for e in examples
        if -1 not in e.labels
    ]


def ranked_from_steps(examples: Iterable[StepwiseExample]) -> list[RankedPrompt]:
    """Prompts with right and wrong solutions, one step a line: rank 1 right, rank 2 wrong."""
    groups: dict[str, list[StepwiseExample]] = {}
    for example in examples:
        groups.setdefault(prompt_key(example.prompt), []).append(example)
    found: list[RankedPrompt] = []
    for group in groups.values():
        if len({-1 in example.labels for example in group}) < 2:
            continue
        candidates = [
            Candidate(
                candidate_id=e.example_id,
                text="\n".join(e.steps),
                source=e.source,
                rank=2 if -1 in e.labels else 1,
            )
            for e in group
        ]
        first = group[0]
        found.append(
            RankedPrompt(prompt_id=first.example_id, prompt=first.prompt, candidates=candidates)
        )
    return found


_DERIVATIONS: dict[tuple[type[Record], type[Record]], Callable[[Any], list[Any]]] = {
    (RankedPrompt, SFTExample): sft_from_ranked,
    (PreferencePair, RankedPrompt): ranked_from_pairs,
    (PreferencePair, SFTExample): sft_from_pairs,
    (StepwiseExample, SFTExample): right_solutions,
    (RankedPrompt, RLPrompt): rl_prompts,
    (PreferencePair, RLPrompt): rl_prompts,
    (SFTExample, RLPrompt): rl_prompts,
}
