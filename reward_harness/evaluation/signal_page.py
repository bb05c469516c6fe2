"""The signal design report as a page: five steps, one section each."""

from __future__ import annotations

from collections.abc import Sequence

from reward_harness.evaluation import plots
from reward_harness.evaluation.report import (
    Cell,
    Column,
    Figure,
    NextStep,
    Page,
    Section,
    Source,
    Table,
    estimate,
    inline,
    shown,
)
from reward_harness.evaluation.signal_design import KEEP_ABOVE, CriterionResult, SignalResults

LABEL_CHARS = 36


def signal_page(results: SignalResults, sources: Sequence[Source]) -> Page:
    """Everything a reader of the signal design report sees."""
    groups = results.groups
    return Page(
        kicker=f"Signal design · {results.experiment}",
        title=f"From criteria to a reward for {results.domain}",
        lead=signal_lead(results),
        next_steps=_steps(results),
        facts=[
            ("criteria", str(len(results.criteria))),
            ("kept", str(sum(c.kept for c in results.criteria))),
            ("graded by", results.proxy),
            ("groups: fit, validate, measure", " · ".join(str(n) for n in groups.values())),
        ],
        sections=[_named(results), _validated(results), _weighted(results), _ablated(results)],
        sources=sources,
        method=[
            "Three sets of prompts that never mix: weights are fitted on the training prompts, "
            "each criterion is validated on one half of the test prompts, and accuracy and "
            "ablations are measured on the other half.",
            f"A criterion is kept if Spearman's ρ with the truth, both centred within a prompt, "
            f"exceeds {KEEP_ABOVE:g}. Its interval resamples prompts; one that holds 0 says that "
            "more prompts are needed, not that the criterion is useless.",
            "Weights are at least 0 and maximise the Bradley-Terry likelihood of the training "
            "pairs, on grades in standard deviations. Ablation fits them anew without the "
            "criterion.",
            "Accuracy is the share of pairs of one prompt, of different quality, in the right "
            "order; ties ½; the mean over prompts.",
        ],
    )


def signal_lead(results: SignalResults) -> str:
    """The page's first sentence."""
    kept = [c for c in results.criteria if c.kept]
    if not kept or results.fitted is None:
        return f"No criterion correlates with the truth above {KEEP_ABOVE:g}: there is no signal."
    return (
        f"{len(kept)} of {len(results.criteria)} criteria are kept; weighted, they order "
        f"{inline(results.fitted, 'percent')} prompts, of held-out pairs as the truth does."
    )


def signal_plot(results: SignalResults) -> tuple[plots.Draw, tuple[float, float]]:
    """ρ of each criterion with its interval."""
    rows = [
        plots.Row(_label(c), c.spearman, 0 if c.kept else 1)
        for c in _by_rho(results)
        if c.spearman is not None
    ]
    groups = ("kept", "dropped")
    draw = plots.forest(
        rows, xlabel="Spearman's ρ with the truth", reference=KEEP_ABOVE, groups=groups
    )
    return draw, plots.forest_size(rows, groups)


def signal_summary(results: SignalResults) -> str:
    """``summary.md``."""
    lines = [f"# Signal design: {results.experiment}", "", signal_lead(results), ""]
    lines += ["| criterion | ρ | kept | weight | loss without it |", "|---|---|---|---|---|"]
    for c in _by_rho(results):
        rho = inline(c.spearman, "signed") if c.spearman else "–"
        loss = inline(c.loss, "signed_percent") if c.loss else "–"
        lines.append(
            f"| {_label(c)} | {rho} | {'yes' if c.kept else 'no'} | {c.weight:.3f} | {loss} |"
        )
    lines += ["", *(f"- {s.text} {s.because}".rstrip() for s in _steps(results))]
    return "\n".join(lines) + "\n"


def _label(criterion: CriterionResult) -> str:
    """Its id, and the beginning of what it asks."""
    text = criterion.description
    shortened = text if len(text) <= LABEL_CHARS else f"{text[:LABEL_CHARS].rstrip()}…"
    return f"{criterion.name} · {shortened}"


def _by_rho(results: SignalResults) -> list[CriterionResult]:
    return sorted(
        results.criteria, key=lambda c: (-(c.spearman.value if c.spearman else -2.0), c.name)
    )


def _steps(results: SignalResults) -> list[NextStep]:
    kept = [c for c in results.criteria if c.kept]
    if not kept:
        return [NextStep("stop", "Do not train on this signal.", "Name other criteria first.")]
    steps: list[NextStep] = []
    gain = results.fitted_over_equal
    if gain is not None:
        numbers = f"Fitted minus equal: {inline(gain, 'signed_percent')} prompts."
        if gain.excludes(0.0) and gain.value > 0:
            steps.append(NextStep("do", "Use the fitted weights.", numbers))
        else:
            text = "Equal weights will do: fitting is not measurably better."
            steps.append(NextStep("do", text, numbers))
    dropped = [c.name for c in results.criteria if not c.kept]
    if dropped:
        why = f"ρ of at most {KEEP_ABOVE:g} on held-out items."
        steps.append(NextStep("stop", f"Drop {', '.join(dropped)}.", why))
    needed = [c.name for c in kept if c.loss and c.loss.excludes(0.0) and c.loss.value > 0]
    if needed:
        steps.append(NextStep("do", f"Keep {', '.join(needed)} above all.", "See step 5."))
    unclear = [c.name for c in kept if c.spearman and not c.spearman.excludes(0.0)]
    if unclear:
        text = f"Whether {', '.join(unclear)} belong here is not known yet."
        steps.append(NextStep("unsure", text, "Their intervals hold 0: grade more prompts."))
    return steps


def _named(results: SignalResults) -> Section:
    rows: list[list[Cell]] = [
        [c.name, c.description, shown(c.graded_share, "percent")] for c in results.criteria
    ]
    columns = [Column("criterion"), Column("what it asks"), Column("graded")]
    intro = f"Each item was graded by {results.proxy}; the share that got a grade is stated."
    return Section("1, 2 · Name the criteria, grade with a proxy", intro, [Table(columns, rows)])


def _validated(results: SignalResults) -> Section:
    draw, size = signal_plot(results)
    caption = f"Dashed: {KEEP_ABOVE:g}, below which a criterion is dropped."
    blocks = [Figure(plots.render_svg(draw, size), caption, "forest plot of correlations")]
    intro = "Correlation with the truth on held-out items, within a prompt."
    return Section("3 · Validate each against the truth", intro, blocks)


def _weighted(results: SignalResults) -> Section:
    rows: list[list[Cell]] = [
        ["fitted weights", estimate(results.fitted, "percent", 0.5), None],
        [
            "equal weights",
            estimate(results.equal, "percent", 0.5),
            estimate(results.fitted_over_equal, "signed_percent", 0.0),
        ],
    ]
    columns = [Column("weights"), Column("pairs in order", 0.5), Column("fitted minus equal", 0.0)]
    weights: list[list[Cell]] = [[_label(c), f"{c.weight:.3f}"] for c in _by_rho(results) if c.kept]
    tables = [Table(columns, rows), Table([Column("criterion"), Column("fitted weight")], weights)]
    return Section("4 · Weight them", "", [t for t in tables if t.rows])


def _ablated(results: SignalResults) -> Section:
    rows: list[list[Cell]] = [
        [
            _label(c),
            estimate(c.accuracy_without, "percent"),
            estimate(c.loss, "signed_percent", 0.0),
        ]
        for c in _by_rho(results)
        if c.loss is not None
    ]
    columns = [
        Column("criterion"),
        Column("pairs in order without it"),
        Column("what it adds", 0.0, "accuracy with all minus accuracy without it"),
    ]
    if not rows:
        return Section("5 · Ablate each", "Fewer than two criteria are kept: nothing to ablate.")
    return Section("5 · Ablate each", "", [Table(columns, rows)])
