"""The page, summary and picture of a study."""

from __future__ import annotations

from collections.abc import Sequence

from reward_harness.evaluation import plots
from reward_harness.evaluation.report import (
    Cell,
    Column,
    Estimate,
    Figure,
    NextStep,
    Page,
    Section,
    Source,
    Table,
    Tone,
    inline,
    shown,
)
from reward_harness.evaluation.study import PowerLaw, StudyResults, VariantMeasure

PLOTTED_ROWS = 24
ABBREVIATIONS = frozenset({"ppo", "grpo", "dpo", "sft", "kl", "ece"})
TONES: dict[str, Tone] = {"better": "good", "worse": "bad", "unclear": "plain"}


def study_page(results: StudyResults, sources: Sequence[Source]) -> Page:
    """The study as a page: answer, next steps, each measure, curve, front, sources."""
    return Page(
        kicker="Study",
        title=results.study,
        lead=study_lead(results),
        next_steps=_steps(results),
        facts=[
            ("base experiment", results.base),
            ("variants", str(len(results.variants))),
            ("seeds", ", ".join(map(str, results.seeds))),
            ("compared with", results.baseline),
        ],
        sections=[
            *(_measure_section(results, measure) for measure in _measures(results)),
            *_curve_sections(results),
            *_front_sections(results),
        ],
        sources=sources,
        method=[
            "Every value is a metric of the artifact whose digest stands above; nothing is "
            "measured again here.",
            "Intervals over seeds are Student's t on one value a seed; a single seed has the "
            "interval of its own report and is compared with nothing.",
            "Differences are paired by seed; p-values are paired t-tests, corrected over all "
            f"comparisons of this study by Benjamini and Hochberg; below "
            f"{results.false_discovery_rate:g} counts.",
        ],
    )


def study_lead(results: StudyResults) -> str:
    """The answer in one or two sentences."""
    compared = [row for row in results.rows if row.difference is not None]
    if not compared:
        return f"{results.question} One seed a variant so far: nothing can be told apart."
    told = [row for row in compared if row.verdict != "unclear"]
    if not told:
        near = min(compared, key=lambda row: row.adjusted_p or 0.0)
        seeds = max(row.over_seeds.n or 0 for row in compared)
        return (
            f"{results.question} None of {len(compared)} comparisons with "
            f"{results.baseline} is told apart from chance over {seeds} seeds; the "
            f"nearest is {near.variant} in {near.measure}, {_inline(near)}, adjusted p {_p(near)}."
        )
    best = min(told, key=lambda row: row.adjusted_p or 0.0)
    return (
        f"{results.question} {best.variant} is {best.verdict} than {results.baseline} in "
        f"{best.measure}: {_inline(best)}; {len(told)} of {len(compared)} comparisons are told "
        "apart from chance."
    )


def study_summary(results: StudyResults) -> str:
    """``summary.md``."""
    lines = [f"# Study {results.study}", "", study_lead(results), ""]
    lines += ["| variant | measure | over seeds | against the baseline | adjusted p |"]
    lines += ["|---|---|---|---|---|"]
    for row in results.rows:
        lines.append(
            f"| {row.variant} | {row.measure} | {inline(row.over_seeds)} | {_inline(row)} | "
            f"{_p(row)} |"
        )
    if results.curve:
        lines += ["", _law(results.curve)]
    if results.no_curve:
        lines += ["", f"No curve: {results.no_curve}"]
    if results.front:
        lines += ["", f"Pareto front: {', '.join(results.front)}"]
    if results.missing:
        lines += ["", f"Not run yet: {', '.join(results.missing)}"]
    return "\n".join(lines) + "\n"


def study_plot(results: StudyResults) -> tuple[plots.Draw, tuple[float, float]]:
    """The first measure of every variant."""
    measure = _measures(results)[0]
    return _forest(results, measure) or _means(results, measure)


def _forest(results: StudyResults, measure: str) -> tuple[plots.Draw, tuple[float, float]] | None:
    """Differences from the baseline, where there are any: paired by seed, they are much surer than
    the means.
    """
    found = [row for row in results.rows if row.measure == measure and row.difference]
    rows = [plots.Row(r.variant, r.difference) for r in found[:PLOTTED_ROWS] if r.difference]
    if not rows:
        return None
    xlabel = f"{measure_title(measure)}, difference from {results.baseline}"
    return plots.forest(rows, xlabel=xlabel, reference=0.0), plots.forest_size(rows)


def _means(results: StudyResults, measure: str) -> tuple[plots.Draw, tuple[float, float]]:
    found = [row for row in results.rows if row.measure == measure][:PLOTTED_ROWS]
    rows = [plots.Row(row.variant, row.over_seeds) for row in found]
    base = next((r.over_seeds.value for r in found if r.variant == results.baseline), 0.0)
    draw = plots.forest(rows, xlabel=measure_title(measure), reference=base)
    return draw, plots.forest_size(rows)


def measure_title(measure: str) -> str:
    """``policy_report.ppo_kl|grpo_kl`` in words: ``PPO KL or GRPO KL``."""
    names = measure.partition(".")[2].split("|")
    text = " or ".join(
        " ".join(word.upper() if word in ABBREVIATIONS else word for word in name.split("_"))
        for name in names
    )
    return text[0].upper() + text[1:]


def _measures(results: StudyResults) -> list[str]:
    return list(dict.fromkeys(row.measure for row in results.rows))


def _measure_section(results: StudyResults, measure: str) -> Section:
    rows = [row for row in results.rows if row.measure == measure]
    columns = [
        Column("variant"),
        Column("over seeds"),
        Column(f"minus {results.baseline}", 0.0, hint="paired by seed"),
        Column("adjusted p"),
        Column("by seed"),
    ]
    cells: list[list[Cell]] = [
        [
            row.variant,
            Estimate(row.over_seeds),
            Estimate(row.difference, "signed", TONES[row.verdict]) if row.difference else None,
            _p(row),
            ", ".join(shown(value.value, "number") for value in row.by_seed),
        ]
        for row in rows
    ]
    intro = f"{measure}. {_direction(rows[0])}"
    blocks: list[Table | Figure] = [Table(columns, cells)]
    if (differences := _forest(results, measure)) is not None:
        caption = (
            f"Difference from {results.baseline}, paired by seed, with its own 95 % interval: that "
            "is not corrected for the number of comparisons, p is."
        )
        alternative = f"Forest plot of {measure} by variant."
        blocks.append(Figure(plots.render_svg(*differences), caption, alternative))
    return Section(measure_title(measure), intro, blocks)


def _curve_sections(results: StudyResults) -> list[Section]:
    law = results.curve
    if law is None:
        return [Section("Power law", results.no_curve)] if results.no_curve else []
    columns = [Column(law.x), Column(law.measure)]
    rows: list[list[Cell]] = [
        [shown(x, "number"), shown(y, "number")] for x, y in sorted(law.points)
    ]
    draw = plots.law_curve(
        law.points,
        lambda x: law.floor + law.scale * x**-law.exponent.value,
        xlabel=law.x,
        ylabel=measure_title(law.measure),
    )
    picture = Figure(
        plots.render_svg(draw, plots.PLANE_SIZE),
        "Each point is one member, less its seed's level; the dashed line is the law.",
        f"{law.measure} over {law.x}.",
    )
    return [Section("Power law", _law(law), [picture, Table(columns, rows)])]


def _front_sections(results: StudyResults) -> list[Section]:
    if results.front_measures is None:
        return []
    first, second = results.front_measures
    at = {(row.variant, row.measure): row.over_seeds for row in results.rows}
    rows: list[list[Cell]] = [
        [
            variant,
            Estimate(at[variant, first]),
            Estimate(at[variant, second]),
            "on the front" if variant in results.front else "",
        ]
        for variant in results.variants
        if (variant, first) in at and (variant, second) in at
    ]
    columns = [Column("variant"), Column(first), Column(second), Column("Pareto")]
    intro = "No other variant is at least as good in both and better in one."
    points = [
        (variant, at[variant, first], at[variant, second])
        for variant in results.variants
        if (variant, first) in at and (variant, second) in at
    ]
    draw = plots.plane(
        points, results.front, xlabel=measure_title(first), ylabel=measure_title(second)
    )
    picture = Figure(
        plots.render_svg(draw, plots.PLANE_SIZE),
        "Means over seeds; filled: on the front.",
        f"{first} against {second}.",
    )
    return [Section("Pareto front", intro, [picture, Table(columns, rows)])]


def _steps(results: StudyResults) -> list[NextStep]:
    steps: list[NextStep] = []
    for row in results.rows:
        if row.verdict == "better":
            text = f"Use {row.variant}: better than {results.baseline} in {row.measure}."
            steps.append(NextStep("do", text, f"{_inline(row)}, adjusted p {_p(row)}."))
        elif row.verdict == "worse":
            text = f"Leave {row.variant}: worse than {results.baseline} in {row.measure}."
            steps.append(NextStep("stop", text, f"{_inline(row)}, adjusted p {_p(row)}."))
    if results.missing:
        text = f"{len(results.missing)} members have not run."
        steps.append(NextStep("warn", text, f"harness study run {results.study}"))
    if len(results.seeds) < 3:
        text = "Add seeds: from three on, an interval over seeds says something."
        steps.append(NextStep("unsure", text))
    return steps or [
        NextStep(
            "unsure",
            "Nothing here calls for a change: no comparison is told apart from chance.",
            "More seeds or larger evaluation sets narrow the intervals.",
        )
    ]


def _direction(row: VariantMeasure) -> str:
    return {"max": "Higher is better.", "min": "Lower is better.", "none": ""}[row.direction]


def _inline(row: VariantMeasure) -> str:
    return inline(row.difference, "signed") if row.difference else "–"


def _p(row: VariantMeasure) -> str:
    return "–" if row.adjusted_p is None else f"{row.adjusted_p:.3g}"


def _law(law: PowerLaw) -> str:
    how = "fitted" if law.floor_fitted else "given"
    return (
        f"{law.measure} = {shown(law.floor, 'number')} ({how} floor) + "
        f"{law.scale:.3g} · x^−α with x = {law.x}, α = {inline(law.exponent)} points."
    )
