"""The report on a composite's weights as a page."""

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
from reward_harness.evaluation.weights import Weights, WeightsResults, WeightsRow


def weights_page(results: WeightsResults, sources: Sequence[Source]) -> Page:
    """Everything a reader of the weights report sees."""
    draw, size = weights_plot(results)
    caption = "Dashed: the share among all responses, which a blind choice would give."
    figure = Figure(plots.render_svg(draw, size), caption, "verbose share of the chosen responses")
    return Page(
        kicker=f"Composite weights · {results.experiment}",
        title="What each weighting picks, before any training",
        lead=weights_lead(results),
        next_steps=_steps(results),
        facts=[
            ("prompts", str(results.n_prompts)),
            ("responses", str(results.n_responses)),
            ("left out", shown(results.unscored_share, "percent")),
            ("verbose among all", shown(results.all_verbose.value, "percent")),
        ],
        sections=[
            Section("Best of n under each weighting", _INTRO, [_table(results)]),
            Section("Verbose choices", "", [figure]),
        ],
        sources=sources,
        method=[
            f"The learned part is σ of {results.learned}; the two rules are those of "
            "rewards.programmatic (at most 150 words and direct; the same, continuous).",
            "Every response is scored once by each part; weightings only combine the scores. "
            "Responses are those of the held-out ranked prompts; best of n chooses among a "
            "prompt's own.",
            "Verbose: a hollow opener, or more than 200 words for a prompt of at most 20 words.",
            "Changes are paired by prompt with the learned reward alone; intervals resample "
            "prompts, shares have Wilson's.",
        ],
    )


_INTRO = (
    "Weights are of the learned reward, the programmatic rule and the conciseness rule. Mean and "
    "spread are of the composite's scores over all responses; the rest is about what it chose."
)


def weights_lead(results: WeightsResults) -> str:
    """The page's first sentence."""
    alone, best = results.rows[0], _best(results)
    if best is alone:
        return (
            "No weighting picks the response that people ranked first more often than the learned "
            f"reward alone: {inline(alone.best_share, 'percent')} prompts."
        )
    return (
        f"The learned reward alone picks verbose responses for "
        f"{inline(alone.verbose_rate, 'percent')} prompts; {_name(best.weights)} most often picks "
        f"the response that people ranked first: {inline(best.best_share, 'percent')}."
    )


def weights_plot(results: WeightsResults) -> tuple[plots.Draw, tuple[float, float]]:
    """Share of verbose choices by weighting."""
    rows = [plots.Row(_name(row.weights), row.verbose_rate) for row in results.rows]
    label = "verbose among the chosen responses"
    reference = results.all_verbose.value
    draw = plots.forest(rows, xlabel=label, reference=reference, percent=True)
    return draw, plots.forest_size(rows)


def weights_summary(results: WeightsResults) -> str:
    """``summary.md``."""
    lines = [f"# Composite weights: {results.experiment}", "", weights_lead(results), ""]
    lines += ["| weights | verbose choices | words | ranked first |", "|---|---|---|---|"]
    for row in results.rows:
        cells = [
            inline(row.verbose_rate, "percent"),
            inline(row.chosen_words),
            inline(row.best_share, "percent"),
        ]
        lines.append(f"| {_name(row.weights)} | {' | '.join(cells)} |")
    lines += ["", *(f"- {s.text} {s.because}".rstrip() for s in _steps(results))]
    return "\n".join(lines) + "\n"


def _best(results: WeightsResults) -> WeightsRow:
    return max(results.rows, key=lambda row: (row.best_share.value, -row.verbose_rate.value))


def _steps(results: WeightsResults) -> list[NextStep]:
    alone, best = results.rows[0], _best(results)
    steps: list[NextStep] = []
    if best is alone:
        text = "Use the learned reward alone: no rule helps it to pick better responses."
        steps.append(NextStep("do", text))
    elif best.best_share.low > alone.best_share.high:
        text = f"Use {_name(best.weights)}."
        steps.append(NextStep("do", text, "Its share of first-ranked choices is clearly higher."))
    else:
        text = f"Whether {_name(best.weights)} is better than the learned reward is not known."
        why = f"Ranked first: {inline(best.best_share, 'percent')} against "
        why += f"{inline(alone.best_share, 'percent')} prompts."
        steps.append(NextStep("unsure", text, why))
    if alone.verbose_rate.low > results.all_verbose.high:
        text = "The learned reward prefers verbose responses, and so will its policy."
        why = f"Among all responses {inline(results.all_verbose, 'percent')} are verbose."
        steps.append(NextStep("warn", text, why))
    return steps


def _table(results: WeightsResults) -> Table:
    columns = [
        Column("weights"),
        Column("verbose choices", results.all_verbose.value),
        Column("change", 0.0, "paired with the learned reward alone"),
        Column("words chosen", results.all_words.value),
        Column("ranked first", results.all_best.value, "dashed: a blind choice"),
        Column("mean score"),
        Column("std"),
    ]
    rows: list[list[Cell]] = [
        [
            _name(row.weights),
            estimate(row.verbose_rate, "percent"),
            estimate(row.verbose_change, "signed_percent", 0.0, better="below"),
            estimate(row.chosen_words),
            estimate(row.best_share, "percent"),
            estimate(row.score_mean),
            shown(row.score_std, "number"),
        ]
        for row in results.rows
    ]
    return Table(columns, rows)


def _name(weights: Weights) -> str:
    return " / ".join(f"{w:g}" for w in weights)
