"""The short pages beside a search and its chosen rubric: numbers, criteria, examples."""

from __future__ import annotations

from collections.abc import Sequence

from reward_harness.manifest import Frozen
from reward_harness.rubrics.heldout import Agreement, Deciding, Heldout, deciding_example
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.output import Population, by_generation
from reward_harness.rubrics.search.state import Round
from reward_harness.rubrics.types import Rubric

EXCERPT = 160


def population_summary(population: Population, history: Sequence[Round]) -> str:
    """``summary.md`` of the search; what it cost stands in the manifest."""
    rows = by_generation(history)
    first, last = rows[0], rows[-1]
    lines = [
        "# Rubric population",
        "",
        f"{population.mode.capitalize()} search, scope {population.scope}, "
        f"backend {population.backend}, {population.prompts} prompts, "
        f"{len(population.units)} population(s).",
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


class Example(Frozen):
    """A pair of responses that a criterion helps to order as the judge does; texts are excerpts.

    ``alone``: without the criterion the rubric would not order the pair so.
    """

    prompt: str
    better: str
    worse: str
    better_grade: float
    worse_grade: float
    better_score: float
    worse_score: float
    alone: bool


class ListedCriterion(Frozen):
    """One entry of ``criteria.json``, the heaviest first; ``weight`` is its share."""

    weight: float
    text: str
    kind: str
    fault: bool
    example: Example | None


def listed_criteria(
    rubric: Rubric, evaluator: Evaluator, prompts: Sequence[int]
) -> list[ListedCriterion]:
    """The rubric's criteria with an example each, taken from ``prompts``."""
    total = sum(c.weight for c in rubric.criteria) or 1.0
    order = sorted(range(len(rubric.criteria)), key=lambda i: (-rubric.criteria[i].weight, i))
    return [
        ListedCriterion(
            weight=rubric.criteria[index].weight / total,
            text=rubric.criteria[index].text,
            kind=rubric.criteria[index].kind,
            fault=rubric.criteria[index].polarity == -1,
            example=_example(evaluator, deciding_example(evaluator, rubric, index, prompts)),
        )
        for index in order
    ]


def _example(evaluator: Evaluator, found: Deciding | None) -> Example | None:
    if found is None:
        return None
    shown = evaluator.prompts[found.prompt]
    return Example(
        prompt=_excerpt(shown.text),
        better=_excerpt(shown.responses[found.better]),
        worse=_excerpt(shown.responses[found.worse]),
        better_grade=found.grades[0],
        worse_grade=found.grades[1],
        better_score=found.scores[0],
        worse_score=found.scores[1],
        alone=found.alone,
    )


def rubric_summary(title: str, heldout: Heldout, criteria: Sequence[ListedCriterion]) -> str:
    """``summary.md`` of a chosen rubric."""
    return "\n".join([f"# {title}", "", *_numbers(heldout), "", *_criteria(criteria), ""])


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


def _criteria(criteria: Sequence[ListedCriterion]) -> list[str]:
    lines = ["## Criteria", "", "Grades are shown as they count: for a fault, 1 is without it.", ""]
    for criterion in criteria:
        sign = " (a fault: lowers the score)" if criterion.fault else ""
        lines += [f"- **{criterion.weight:.0%}** {criterion.text}{sign} · {criterion.kind}"]
        example = criterion.example
        if example is None:
            lines += ["  - separates no pair of the test prompts rightly"]
            continue
        role = "decides" if example.alone else "helps to order"
        lines += [
            f"  - {role} two answers to “{example.prompt}”",
            f"    - better, grade {example.better_grade:.2f}, score {example.better_score:.2f}: "
            f"“{example.better}”",
            f"    - worse, grade {example.worse_grade:.2f}, score {example.worse_score:.2f}: "
            f"“{example.worse}”",
        ]
    return lines


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else line[: EXCERPT - 1] + "…"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
