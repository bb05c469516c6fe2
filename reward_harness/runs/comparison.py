"""External runs against each other: metric by metric, and against the newest comparable baseline.

Comparable reports measured the same benchmark (name, version, split) on runs that trained on the
same dataset; a baseline's run must have succeeded, and the newest by time of evaluation is taken.
When a difference counts is said in ``lineage.comparison``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward_harness.errors import ArtifactError
from reward_harness.lineage.comparison import Change, Measured, compare
from reward_harness.runs.registry import Registry, Run
from reward_harness.runs.schemas import EvalMetric, EvalReport, TrainingManifest, seconds_of


@dataclass(frozen=True, slots=True)
class Compared:
    """A report against its baseline: the metrics that both have, and those of one only."""

    report: EvalReport
    baseline: EvalReport
    changes: Mapping[str, Change]
    missing: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        """Whether any metric is surely worse."""
        return any(c.verdict in ("critical", "warning") for c in self.changes.values())

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "eval_run_id": self.report.eval_run_id,
            "training_run_id": self.report.training_run_id,
            "baseline_eval_run_id": self.baseline.eval_run_id,
            "baseline_training_run_id": self.baseline.training_run_id,
            "benchmark": self.report.benchmark.model_dump(),
            "metrics": {name: change.record() for name, change in self.changes.items()},
            "not_in_both": list(self.missing),
        }


def compare_reports(report: EvalReport, baseline: EvalReport, threshold_pct: float) -> Compared:
    """Every metric that both reports have; directions are those of ``report``."""
    values, before = report.measured(), baseline.measured()
    changes = {
        name: compare(_measured(values[name]), _measured(before[name]), threshold_pct)
        for name in values
        if name in before
    }
    return Compared(report, baseline, changes, tuple(sorted(values.keys() ^ before.keys())))


def compare_runs(first: Run, second: Run, threshold_pct: float) -> list[Compared]:
    """``first`` against ``second`` on each benchmark of both, by their newest reports."""
    newest = {_benchmark(report): report for report in second.evals}
    mine = {_benchmark(report): report for report in first.evals}
    return [
        compare_reports(report, newest[name], threshold_pct)
        for name, report in mine.items()
        if name in newest
    ]


def check_run(
    registry: Registry, run_id: str, *, threshold_pct: float, baseline: str | None = None
) -> tuple[list[Compared], list[EvalReport]]:
    """Each report of a run against its baseline, and the reports that have none.

    ``baseline`` is the id of an evaluation report or a run; by default the report's own
    ``comparison_baseline``, else the newest comparable report before it. ``ArtifactError`` if the
    run has no report, or a named baseline is not comparable with any of its reports.
    """
    runs = {run.manifest.training_run_id: run for run in registry.runs()}
    run = registry.run(run_id)
    if not run.evals:
        raise ArtifactError("the run has no evaluation report", where=run_id)
    compared: list[Compared] = []
    alone: list[EvalReport] = []
    for report in run.evals:
        named = baseline or report.comparison_baseline
        found = newest_baseline(report, run.manifest, list(runs.values()), named)
        if found is None:
            alone.append(report)
        else:
            compared.append(compare_reports(report, found, threshold_pct))
    if baseline and not compared:
        raise ArtifactError(
            "the baseline has no succeeded report of the same benchmark and dataset",
            where=run_id,
            got=baseline,
        )
    return compared, alone


def newest_baseline(
    report: EvalReport, manifest: TrainingManifest, runs: Sequence[Run], named: str | None
) -> EvalReport | None:
    """The newest comparable report, of ``named`` (a report's or run's id) if one is named.

    Without a name only reports that are older than ``report``, of other runs.
    """
    found = [
        candidate
        for run in runs
        if run.status == "succeeded" and data_of(run.manifest) == data_of(manifest)
        for candidate in run.evals
        if candidate.eval_run_id != report.eval_run_id
        and candidate.benchmark == report.benchmark
        and _is_wanted(candidate, report, named)
    ]
    return max(found, key=lambda c: seconds_of(c.evaluated_at_utc), default=None)


def data_of(manifest: TrainingManifest) -> tuple[str, ...]:
    """What identifies the data a run trained on: its hash where one is known."""
    dataset = manifest.dataset
    if dataset.dataset_hash:
        return (dataset.dataset_hash, dataset.split)
    return (dataset.dataset_id, dataset.dataset_version, dataset.split)


def _benchmark(report: EvalReport) -> tuple[str, str, str | None]:
    benchmark = report.benchmark
    return benchmark.name, benchmark.version, benchmark.split


def _is_wanted(candidate: EvalReport, report: EvalReport, named: str | None) -> bool:
    if named is not None:
        return named in (candidate.eval_run_id, candidate.training_run_id)
    older = seconds_of(candidate.evaluated_at_utc) < seconds_of(report.evaluated_at_utc)
    return older and candidate.training_run_id != report.training_run_id


def _measured(metric: EvalMetric) -> Measured:
    return Measured(metric.value, metric.ci_low, metric.ci_high, metric.n, metric.direction)
