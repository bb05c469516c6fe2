"""What a dataset is like, measured: sizes, turns, lengths, length bias, near-duplicates.

``describe`` computes the content of a dataset stage's ``stats.json``; ``metrics_of`` the numbers of
its manifest; ``summary_of`` the page that people read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from reward_harness.data.files import record_id
from reward_harness.data.leakage import THRESHOLD, near_duplicates, prompt_text
from reward_harness.data.records import (
    PreferencePair,
    RankedPrompt,
    Record,
    RLPrompt,
    SFTExample,
    StepwiseExample,
    prompt_key,
)
from reward_harness.data.splits import SPLITS, Split
from reward_harness.evaluation.statistics import Interval, cluster_bootstrap_mean, wilson
from reward_harness.hashing import derive_seed, unit_interval
from reward_harness.manifest import Frozen, Metric

EXAMPLES_SHOWN = 5
RECORDS_SHOWN = 2
EXAMPLE_CHARS = 240


class Bounds(Frozen):
    """A share or mean with its 95 % interval and sample size."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, interval: Interval) -> Bounds:
        return cls(value=interval.value, low=interval.low, high=interval.high, n=interval.n)


class SplitStats(Frozen):
    """One split; means are over its records, lengths in words."""

    records: int
    prompts: int
    turns_mean: float = 0.0
    prompt_words_mean: float = 0.0


class SimilarPrompts(Frozen):
    """A held-out record and the training record whose prompt is nearly the same."""

    test_id: str
    train_id: str
    similarity: float


class Example(Frozen):
    """One record as people read it; texts by kind, cut to ``EXAMPLE_CHARS``."""

    record_id: str
    prompt: str
    texts: dict[str, str]


class DatasetStats(Frozen):
    """Content of ``stats.json``."""

    source: str
    licence: str
    record: str
    records_sha256: str = Field(description="of the source's records before derivation")
    splits: dict[str, SplitStats]
    left_out: int
    duplicates: int = Field(description="records whose prompt and texts occurred before")
    words_mean: dict[str, float] = Field(description="mean length by kind of text, all splits")
    longer_wins: Bounds | None = Field(
        default=None, description="share of pairs whose chosen side is longer; ties ½; by prompt"
    )
    shares: dict[str, Bounds] = Field(default_factory=dict[str, Bounds])
    near_duplicate_threshold: float = THRESHOLD
    near_duplicates: Bounds
    near_duplicate_examples: list[SimilarPrompts]
    examples: list[Example] = Field(description="training records in an order fixed by the seed")


Texts = dict[str, list[str]]


def describe(
    splits: Mapping[Split, Sequence[Record]],
    *,
    source: str,
    licence: str,
    records_sha256: str,
    left_out: int,
    seed: int,
) -> DatasetStats:
    """Measure the split records of one stage."""
    records = [r for name in SPLITS for r in splits[name]]
    similar = similar_prompts(splits["test"], splits["train"])
    return DatasetStats(
        source=source,
        licence=licence,
        record=type(records[0]).__name__,
        records_sha256=records_sha256,
        splits={name: _split_stats(splits[name]) for name in SPLITS},
        left_out=left_out,
        duplicates=len(records) - len({_content(r) for r in records}),
        words_mean={
            kind: _mean([_words(t) for t in texts]) for kind, texts in texts_of(records).items()
        },
        longer_wins=_longer_wins([r for r in records if isinstance(r, PreferencePair)], seed),
        shares={
            name: Bounds.of(wilson(hits, n)) for name, (hits, n) in _shares(records).items() if n
        },
        near_duplicates=Bounds.of(wilson(len(similar), len(_one_a_prompt(splits["test"])))),
        near_duplicate_examples=similar[:EXAMPLES_SHOWN],
        examples=examples_of(splits["train"], seed),
    )


def examples_of(train: Sequence[Record], seed: int) -> list[Example]:
    """A few training records, the same for the same seed."""
    ordered = sorted(train, key=lambda r: unit_interval(seed, "example", record_id(r)))
    return [
        Example(
            record_id=record_id(record),
            prompt=_cut(prompt_text(record.prompt)),
            texts={kind: _cut(text) for kind, text in _TEXTS[type(record)](record)},
        )
        for record in ordered[:RECORDS_SHOWN]
    ]


def _content(record: Record) -> tuple[object, ...]:
    return prompt_key(record.prompt), tuple(_TEXTS[type(record)](record))


def _cut(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= EXAMPLE_CHARS else f"{one_line[:EXAMPLE_CHARS]}…"


def similar_prompts(test: Sequence[Record], train: Sequence[Record]) -> list[SimilarPrompts]:
    """Test prompts that are nearly a training prompt, each named by its first record."""
    test, train = _one_a_prompt(test), _one_a_prompt(train)
    found = near_duplicates(
        [prompt_text(r.prompt) for r in test], [prompt_text(r.prompt) for r in train]
    )
    return [
        SimilarPrompts(
            test_id=record_id(test[n.test]),
            train_id=record_id(train[n.train]),
            similarity=round(n.similarity, 4),
        )
        for n in found
    ]


def _one_a_prompt(records: Sequence[Record]) -> list[Record]:
    first: dict[str, Record] = {}
    for record in records:
        first.setdefault(prompt_key(record.prompt), record)
    return list(first.values())


def texts_of(records: Sequence[Record]) -> Texts:
    """The texts whose lengths matter, by kind.

    Chosen and rejected, responses, candidates by rank, steps, prompts.
    """
    texts: Texts = {}
    for record in records:
        for kind, text in _TEXTS[type(record)](record):
            texts.setdefault(kind, []).append(text)
    return dict(sorted(texts.items()))


def _ranked_texts(record: RankedPrompt) -> list[tuple[str, str]]:
    ranks = [c.rank for c in record.candidates if c.rank is not None]
    best = min(ranks) if ranks else None
    return [("best" if c.rank == best and ranks else "others", c.text) for c in record.candidates]


_TEXTS: dict[type[Record], Callable[[Any], list[tuple[str, str]]]] = {
    PreferencePair: lambda r: [("chosen", r.chosen), ("rejected", r.rejected)],
    RankedPrompt: _ranked_texts,
    SFTExample: lambda r: [("response", r.response)],
    RLPrompt: lambda r: [("prompt", prompt_text(r.prompt))],
    StepwiseExample: lambda r: [
        ("wrong step" if n == -1 else "step", s) for s, n in zip(r.steps, r.labels, strict=True)
    ],
}


def _shares(records: Sequence[Record]) -> dict[str, tuple[int, int]]:
    """(hits, of how many) by name; of different prompts where it is about prompts."""
    prompts = {prompt_key(r.prompt): r for r in records}.values()
    found = {"multi_turn": (sum(len(r.prompt) > 1 for r in prompts), len(prompts))}
    answers = [r.answer for r in records if isinstance(r, RLPrompt)]
    if answers:
        found["checkable"] = (sum(a is not None for a in answers), len(answers))
    solutions = [r for r in records if isinstance(r, StepwiseExample)]
    if solutions:
        found["with_wrong_step"] = (sum(-1 in s.labels for s in solutions), len(solutions))
    return found


def _longer_wins(pairs: Sequence[PreferencePair], seed: int) -> Bounds | None:
    if not pairs:
        return None
    outcomes = [(1 + np.sign(_words(p.chosen) - _words(p.rejected))) / 2 for p in pairs]
    rng = np.random.default_rng(derive_seed(seed, "longer wins"))
    return Bounds.of(cluster_bootstrap_mean(outcomes, [prompt_key(p.prompt) for p in pairs], rng))


def _split_stats(records: Sequence[Record]) -> SplitStats:
    if not records:
        return SplitStats(records=0, prompts=0)
    return SplitStats(
        records=len(records),
        prompts=len({prompt_key(r.prompt) for r in records}),
        turns_mean=_mean([len(r.prompt) for r in records]),
        prompt_words_mean=_mean([_words(prompt_text(r.prompt)) for r in records]),
    )


def _words(text: str) -> int:
    return len(text.split())


def _mean(values: Sequence[int]) -> float:
    return round(sum(values) / len(values), 4)


def metrics_of(stats: DatasetStats) -> dict[str, Metric]:
    """The manifest's numbers; only leakage has a direction in which it is better."""
    metrics = {
        f"records_{name}": Metric(value=split.records) for name, split in stats.splits.items()
    }
    metrics |= {
        f"prompts_{name}": Metric(value=split.prompts) for name, split in stats.splits.items()
    }
    metrics["left_out"] = Metric(value=stats.left_out)
    metrics["duplicates"] = Metric(value=stats.duplicates, n=_total(stats), direction="min")
    metrics["turns_mean"] = Metric(
        value=stats.splits["train"].turns_mean, n=stats.splits["train"].records
    )
    for kind, mean in stats.words_mean.items():
        metrics[f"{kind.replace(' ', '_')}_words_mean"] = Metric(value=mean)
    for name, share in stats.shares.items():
        metrics[f"{name}_share"] = _metric(share)
    if stats.longer_wins:
        metrics["longer_wins_share"] = _metric(stats.longer_wins)
    near = _metric(stats.near_duplicates)
    metrics["near_duplicate_share"] = near.model_copy(update={"direction": "min"})
    return metrics


def _total(stats: DatasetStats) -> int:
    """Records of all splits."""
    return sum(split.records for split in stats.splits.values())


def _metric(share: Bounds) -> Metric:
    return Metric(value=share.value, ci_low=share.low, ci_high=share.high, n=share.n)


def summary_of(stats: DatasetStats) -> str:
    """``summary.md``.

    The sizes, what was left out, the length bias and the leakage, with their intervals.
    """
    lines = [
        f"**{stats.record}** records from source `{stats.source}` ({stats.licence}).",
        "",
        "| split | records | prompts | turns a prompt | words a prompt |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {s.records} | {s.prompts} | {s.turns_mean:.2f} | {s.prompt_words_mean:.1f} |"
        for name, s in stats.splits.items()
    ]
    lines += ["", f"- left out as known to be invalid: {stats.left_out}"]
    lines += [f"- duplicates (same prompt and texts): {stats.duplicates}"]
    lines += [f"- mean words, {kind}: {mean:.1f}" for kind, mean in stats.words_mean.items()]
    lines += [
        f"- share {name.replace('_', ' ')}: {_share(share)}" for name, share in stats.shares.items()
    ]
    if stats.longer_wins:
        lines.append(
            f"- the longer side is the chosen one: {_share(stats.longer_wins)} (prompts; ties ½)"
        )
    lines.append(
        "- held-out prompts with a near-duplicate in train "
        f"(Jaccard ≥ {stats.near_duplicate_threshold}): {_share(stats.near_duplicates)}"
    )
    for example in stats.examples:
        lines += ["", f"Example `{example.record_id}`:", "", f"> {example.prompt}", ""]
        lines += [f"- {kind}: {text}" for kind, text in example.texts.items()]
    return "\n".join(lines) + "\n"


def _share(share: Bounds) -> str:
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}], n = {share.n}"
