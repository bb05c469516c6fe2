"""The short pages beside a search and its chosen rubric: criteria, numbers, examples, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reward_harness.rubrics.heldout import Agreement, Heldout, deciding_example
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.output import Population, by_generation
from reward_harness.rubrics.search.state import Round
from reward_harness.rubrics.types import Rubric

EXCERPT = 160
COLORS = ("#3b6ea5", "#9aa5b1", "#d1742f", "#d1742f")


def population_summary(population: Population, history: Sequence[Round]) -> str:
    """``summary.md`` of the search; what it cost stands in the manifest."""
    rows = by_generation(history)
    first, last = rows[0], rows[-1]
    lines = [
        "# Rubric population",
        "",
        f"{population.mode} search, scope {population.scope}, backend {population.backend}, "
        f"{population.prompts} prompts, {len(population.units)} population(s).",
        "",
        "| generation | best objective | mean | pair agreement of the best |",
        "|---|---|---|---|",
        *(f"| {g} | {b:.3f} | {m:.3f} | {_number(a)} |" for g, b, m, a in rows),
        "",
        f"Objective {first[1]:.3f} → {last[1]:.3f} on the search's own prompts; stopped: "
        f"{population.stopped}.",
        "These numbers are in-sample: best_rubric selects and measures on held-out prompts.",
    ]
    if population.inconsistent_judgements is not None:
        lines.append(
            f"The judge changed its mind with the order in {population.inconsistent_judgements:.1%}"
            " of the pairs; those count as ties."
        )
    return "\n".join(lines) + "\n"


def rubric_summary(
    title: str, rubric: Rubric, heldout: Heldout, evaluator: Evaluator, prompts: Sequence[int]
) -> str:
    """``summary.md`` of a chosen rubric; ``prompts`` are where examples are taken from."""
    return "\n".join(
        [f"# {title}", "", *_numbers(heldout), "", *_criteria(rubric, evaluator, prompts), ""]
    )


def _numbers(heldout: Heldout) -> list[str]:
    if heldout.agreement is None:
        return [f"Chosen {heldout.selected_by}. No held-out agreement could be measured."]
    rows = [
        ("this rubric", heldout.agreement),
        ("initial rubric", heldout.initial),
        ("difference (paired)", heldout.difference),
        ("longer response wins", heldout.longer_wins),
        ("shorter response wins", heldout.shorter_wins),
    ]
    lines = [
        f"Chosen {heldout.selected_by}. Pair agreement with the judge on held-out test prompts:",
        "",
        "| | agreement | 95 % interval | prompts | pairs |",
        "|---|---|---|---|---|",
        *(_row(name, found) for name, found in rows if found is not None),
    ]
    if heldout.difference is not None and heldout.difference.ci_low <= 0:
        lines += [
            "",
            "The interval of the difference includes 0: on so few prompts the search has not been "
            "shown to beat its initial rubric.",
        ]
    if heldout.unscored_responses:
        lines += ["", f"{heldout.unscored_responses} responses lack a verdict and are set aside."]
    return lines


def _row(name: str, found: Agreement) -> str:
    return (
        f"| {name} | {found.value:.3f} | {found.ci_low:.3f} to {found.ci_high:.3f} | "
        f"{found.prompts} | {found.pairs} |"
    )


def _criteria(rubric: Rubric, evaluator: Evaluator, prompts: Sequence[int]) -> list[str]:
    total = sum(c.weight for c in rubric.criteria) or 1.0
    order = sorted(range(len(rubric.criteria)), key=lambda i: (-rubric.criteria[i].weight, i))
    lines = ["## Criteria", ""]
    for index in order:
        criterion = rubric.criteria[index]
        sign = "" if criterion.polarity == 1 else " (a fault: lowers the score)"
        share = criterion.weight / total
        lines += [f"- **{share:.0%}** {criterion.text}{sign} · {criterion.kind}"]
        example = deciding_example(evaluator, rubric, index, prompts)
        if example is not None:
            prompt, better, worse = example
            shown = evaluator.prompts[prompt]
            lines += [
                f"  - to “{_excerpt(shown.text)}”",
                f"    - better: “{_excerpt(shown.responses[better])}”",
                f"    - worse: “{_excerpt(shown.responses[worse])}”",
            ]
    return lines


def plot_agreement(heldout: Heldout, path: Path) -> None:
    """Held-out agreement of the rubric, the initial one and the length rules, with intervals."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = [
        ("chosen rubric", heldout.agreement),
        ("initial rubric", heldout.initial),
        ("longer wins", heldout.longer_wins),
        ("shorter wins", heldout.shorter_wins),
    ]
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(6.4, 2.6), dpi=110, layout="constrained")
        axes = figure.subplots()
        for place, ((name, found), color) in enumerate(zip(rows, COLORS, strict=True)):
            if found is not None:
                spread = [[found.value - found.ci_low], [found.ci_high - found.value]]
                axes.errorbar(found.value, place, xerr=spread, fmt="o", color=color, capsize=3)
            axes.text(0.01, place - 0.28, name, transform=axes.get_yaxis_transform())
        axes.axvline(0.5, color="#c0c0c0", linewidth=1)
        axes.set(
            xlim=(0.2, 1.0), ylim=(3.6, -0.6), yticks=[], xlabel="pair agreement, test prompts"
        )
        axes.spines[["top", "right", "left"]].set_visible(False)
        figure.savefig(path, metadata={"Software": None})


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else line[: EXCERPT - 1] + "…"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
