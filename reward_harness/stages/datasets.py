"""Dataset stages: the records of a source, as the type the stage needs, split by prompt.

Each stage writes ``train.jsonl``, ``validation.jsonl``, ``test.jsonl`` (canonical records),
``left_out.jsonl`` (line and reason of every row that was left out), ``stats.json``, ``summary.md``
and ``plot.png``. Where the source was found (mirror, path, hub) is noted in the manifest but
changes nothing: equal records make an equal artifact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from reward_harness.data import sources
from reward_harness.data.confidence import STRATA, confidences, keep_confident
from reward_harness.data.describe import DatasetStats, describe, metrics_of, summary_of, texts_of
from reward_harness.data.files import write_lines, write_records
from reward_harness.data.mixture import Part, from_source, mixed
from reward_harness.data.pictures import plot_lengths
from reward_harness.data.records import (
    PreferencePair,
    RankedPrompt,
    Record,
    RLPrompt,
    SFTExample,
    StepwiseExample,
)
from reward_harness.data.splits import SPLITS, Split, first_prompts, split_records
from reward_harness.errors import DataError
from reward_harness.hashing import canonical_json, digest_json
from reward_harness.manifest import Outcome
from reward_harness.progress import Progress
from reward_harness.sections import SourceUse
from reward_harness.stages.make import StageRun

R = TypeVar("R", bound=Record)


def preference_pairs(run: StageRun, folder: Path) -> Outcome:
    """Two responses to one prompt, the first preferred."""
    return _build(run, folder, run.experiment.dataset.preferences, PreferencePair)


def ranked_prompts(run: StageRun, folder: Path) -> Outcome:
    """Prompts with several ranked candidates."""
    return _build(run, folder, run.experiment.dataset.ranked, RankedPrompt)


def sft_examples(run: StageRun, folder: Path) -> Outcome:
    """Prompts with the response to imitate."""
    return _build(run, folder, run.experiment.dataset.sft, SFTExample)


def rl_prompts(run: StageRun, folder: Path) -> Outcome:
    """Prompts to roll out on."""
    return _build(run, folder, run.experiment.dataset.rl_prompts, RLPrompt)


def reasoning_steps(run: StageRun, folder: Path) -> Outcome:
    """Solutions in labelled steps."""
    return _build(run, folder, run.experiment.dataset.reasoning, StepwiseExample)


def _build(run: StageRun, folder: Path, use: SourceUse | None, record_type: type[R]) -> Outcome:
    if use is None:
        raise DataError(
            f"the experiment names no source for {run.stage.name}",
            where=f"experiment {run.experiment.key!r}, section dataset",
            fix="Name a source there, or leave this stage out; see docs/experiments.md.",
        )
    run.services.progress(Progress(run.stage.name, 0, 2, f"reading {use.source}"))
    found = [_resolved(run, name, use, record_type) for name in _names(use)]
    first = found[0]
    seed = run.experiment.seed
    splits = _split(run, use, found)
    splits["train"] = first_prompts(splits["train"], use.train_limit, seed)
    splits["train"] = _confident(splits["train"], use, seed)
    run.services.progress(Progress(run.stage.name, 1, 2, "measuring"))
    left_out = [row for one in found for row in one.left_out]
    stats = describe(
        splits,
        source=" + ".join(_names(use)),
        licence=", ".join(dict.fromkeys(one.spec.licence for one in found)),
        records_sha256=first.sha256 if not use.mix else digest_json([o.sha256 for o in found]),
        left_out=len(left_out),
        seed=seed,
    )
    write_dataset(folder, splits, left_out, stats)
    run.services.progress(
        Progress(run.stage.name, 2, 2, f"{stats.splits['train'].records} records to train on")
    )
    return Outcome(metrics=metrics_of(stats), notes={"source": stats.source, "found": first.origin})


def _names(use: SourceUse) -> list[str]:
    return [use.source, *(part.source for part in use.mix)]


def _resolved(
    run: StageRun, name: str, use: SourceUse, record_type: type[R]
) -> sources.Resolved[R]:
    found = sources.resolve(run.workspace, name, record_type, pairs=use.pairs)
    _refuse_evaluation_only(run, found.spec)
    return found


def _split(
    run: StageRun, use: SourceUse, found: Sequence[sources.Resolved[R]]
) -> dict[Split, list[R]]:
    """The splits of the source, or of a mixture: it is mixed what is trained on, whereas all that
    any source holds out is held out, so that mixtures of other ratios are held to the same.
    """
    seed, shares = run.experiment.seed, run.experiment.dataset.split
    taken = [first_prompts(one.records, use.limit, seed) for one in found]
    if not use.mix:
        return split_records(taken[0], seed, shares)
    names = _names(use)
    weights = [use.weight, *(part.weight for part in use.mix)]
    parts = [split_records(records, seed, shares) for records in taken]
    splits: dict[Split, list[R]] = {
        split: [
            from_source(record, name)
            for name, part in zip(names, parts, strict=True)
            for record in part[split]
        ]
        for split in SPLITS
    }
    trained = zip(names, weights, parts, strict=True)
    splits["train"] = mixed([Part(n, w, part["train"]) for n, w, part in trained], seed)
    return splits


def _confident(records: list[R], use: SourceUse, seed: int) -> list[R]:
    """The training pairs that the confidence filter keeps; other records as they are."""
    pairs = [record for record in records if isinstance(record, PreferencePair)]
    chosen = use.confidence
    if chosen is None:
        return records
    if len(pairs) < len(records):
        raise DataError("a confidence filter is for preference pairs", where=use.source)
    kept = keep_confident(
        pairs,
        confidences(pairs, chosen.by, seed),
        fraction=chosen.keep,
        threshold=chosen.threshold,
        stratify=STRATA[chosen.stratify],
    )
    if not kept:
        raise DataError("no training pair is confident enough", where=use.source)
    ids = {pair.pair_id for pair in kept}
    return [r for r in records if isinstance(r, PreferencePair) and r.pair_id in ids]


def _refuse_evaluation_only(run: StageRun, spec: sources.SourceSpec) -> None:
    if spec.evaluation_only:
        raise DataError(
            f"source {spec.name!r} ({spec.licence}) is for evaluation, not for a dataset stage",
            where=f"experiment {run.experiment.key!r}, section dataset",
            expected="a source without `evaluation_only`",
            fix="Name another source.",
        )


def write_dataset(
    folder: Path,
    splits: Mapping[Split, Sequence[Record]],
    left_out: Sequence[sources.LeftOut],
    stats: DatasetStats,
) -> None:
    """Every file of a dataset stage."""
    for name in SPLITS:
        write_records(folder / f"{name}.jsonl", splits[name])
    lines = (canonical_json({"line": row.line, "reason": row.reason}) + b"\n" for row in left_out)
    write_lines(folder / "left_out.jsonl", lines)
    (folder / "stats.json").write_bytes(canonical_json(stats.model_dump(mode="json")))
    (folder / "summary.md").write_text(summary_of(stats), encoding="utf-8")
    texts = texts_of([record for name in SPLITS for record in splits[name]])
    plot_lengths(texts, f"{stats.record} · {stats.source}", folder / "plot.png")
