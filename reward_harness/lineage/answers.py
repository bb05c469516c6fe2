"""The answers to questions about lineage, for people to read in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from reward_harness.lineage.references import SHOWN_DIGITS, ArtifactId

if TYPE_CHECKING:
    from reward_harness.lineage.comparison import Change, Measured
    from reward_harness.lineage.difference import Difference, Reason, StageDifference
    from reward_harness.lineage.impact import Impact
    from reward_harness.lineage.ranking import Ranked
    from reward_harness.lineage.regressions import Regressions
    from reward_harness.lineage.scored_by import Scorer

SHOWN_ROWS = 40
STYLES = {"critical": "bold red", "warning": "yellow", "unproven": "dim"}


def difference_text(found: Difference) -> Tree:
    """The origin first, then every stage that differs with its reasons."""
    if found.origin is None:
        told = "nothing differs" if not found.stages else "only inputs of the artifacts differ"
    else:
        kinds = sorted({reason.kind for reason in found.origin.reasons})
        told = f"first made differently: [bold]{found.origin.stage}[/] ({', '.join(kinds)})"
    tree = Tree(f"{found.first} against {found.second}: {told}")
    for stage in found.stages:
        branch = tree.add(_stage_line(stage))
        for reason in stage.reasons:
            if reason.kind != "inputs" or stage.is_origin:
                branch.add(_reason_line(reason))
    if found.equal:
        tree.add(f"[dim]equal: {', '.join(found.equal)}[/]")
    return tree


def _stage_line(stage: StageDifference) -> str:
    digests = " → ".join(_digest(digest) for digest in (stage.first, stage.second))
    style = "bold" if stage.is_origin else "dim"
    inputs = [reason.what for reason in stage.reasons if reason.kind == "inputs"]
    follows = "" if stage.is_origin else f"  follows from {', '.join(inputs)}"
    return f"[{style}]{stage.stage}[/]  [cyan]{digests}[/][dim]{follows}[/]"


def _reason_line(reason: Reason) -> str:
    sides = [_value(reason.kind, side) for side in (reason.first, reason.second)]
    return escape(f"{reason.kind}: {reason.what}: {sides[0]} → {sides[1]}")


def _value(kind: str, value: Any) -> str:
    return str(value) if kind in ("spec", "seed", "code") else _digest(value)


def _digest(value: str | None) -> str:
    return value[:SHOWN_DIGITS] if value else "none"


def impact_text(found: Impact) -> Tree:
    """Where the artifact is current, then what was made from it."""
    names = ", ".join(artifact.short for artifact in found.artifacts[:4])
    more = len(found.artifacts) - 4
    tree = Tree(f"[bold]{names}[/]{f' and {more} more places' if more > 0 else ''}")
    tree.add("current" if found.current else "[yellow]no longer current[/]")
    made = f"{len(found.affected)} current artifacts were made from it"
    branch = tree.add(f"{made}, in {found.seconds:.0f} s" if found.affected else "nothing uses it")
    for row in found.affected[:SHOWN_ROWS]:
        state = "[yellow]stale[/]" if row.stale else "[dim]would be stale[/]"
        branch.add(f"{row.artifact.short}  {state}  [dim]{row.seconds:.1f} s[/]")
    if len(found.affected) > SHOWN_ROWS:
        branch.add(f"[dim]and {len(found.affected) - SHOWN_ROWS} more: --json lists all[/]")
    return tree


def scorers_text(checkpoint: ArtifactId, scorers: Sequence[Scorer]) -> Tree:
    """Each reward with the steps that it scored and its rubric."""
    tree = Tree(f"[bold]{checkpoint.short}[/]")
    for scorer in scorers:
        steps = f"steps {scorer.first_step} to {scorer.last_step}"
        where = scorer.reward.short if scorer.reward else f"{_digest(scorer.digest)}, not published"
        written = "" if scorer.source == "step" else "  [dim](by its job; steps do not say)[/]"
        branch = tree.add(f"{steps}: [cyan]{where}[/]{written}")
        if scorer.artifact_id:
            branch.add(f"{scorer.kind} {scorer.artifact_id}")
        for source in scorer.made_from:
            branch.add(f"from {source.short}")
        for name, criteria in scorer.rubrics.items():
            rubric = branch.add(f"rubric {escape(name)}")
            for criterion in criteria:
                rubric.add(escape(criterion))
    return tree


def regressions_text(found: Regressions) -> Table | str:
    """One row for each number that is worse, worst first."""
    counts = ", ".join(
        f"{len(found.of(verdict))} {verdict}" for verdict in ("critical", "warning", "unproven")
    )
    title = f"{found.compared} of {found.artifacts} artifacts have a baseline: {counts}"
    if not found.found:
        return title
    table = Table(title=title, box=None, header_style="bold", title_justify="left")
    for column in ("", "artifact", "metric", "value", "baseline", "worse by", "difference", "of"):
        table.add_column(column, overflow="fold")
    for row in found.found[:SHOWN_ROWS]:
        verdict = row.change.verdict
        table.add_row(
            f"[{STYLES[verdict]}]{verdict}",
            row.artifact.short,
            row.metric,
            f"{row.change.value:.4g}",
            f"{row.change.baseline:.4g}",
            worse_text(row.change),
            interval_text(row.change.low, row.change.high) or "no interval",
            row.baseline.short,
        )
    if len(found.found) > SHOWN_ROWS:
        table.caption = f"and {len(found.found) - SHOWN_ROWS} more: --json lists all"
    return table


def worse_text(change: Change) -> str:
    """How much worse, in per cent, or as such where the baseline is 0."""
    amount = change.worse_by
    return f"{amount:.1f} %" if change.relative else f"{amount / 100:.4g}"


def interval_text(low: float | None, high: float | None) -> str:
    """``[low, high]``, or nothing."""
    return "" if low is None or high is None else f"\\[{low:.4g}, {high:.4g}]"


def ranking_table(metric: str, rows: Sequence[Ranked]) -> Table:
    """One row for each number, best first."""
    table = Table(title=metric, box=None, header_style="bold", title_justify="left")
    for column in ("experiment", "metric", "value", "interval", "n", "data", "artifact", ""):
        table.add_column(column)
    for row in rows:
        measured: Measured = row.measured
        table.add_row(
            row.artifact.experiment,
            row.metric,
            f"{measured.value:.4g}",
            interval_text(measured.ci_low, measured.ci_high),
            "" if measured.n is None else str(measured.n),
            row.data or "",
            row.artifact.digest[:SHOWN_DIGITS],
            "" if row.accepted else "[red]gates failed",
        )
    if not rows:
        table.caption = "no current artifact has such a metric with a direction"
    return table
