"""The pictures beside a search and its chosen rubric: PNG files of at most 200 kB, by matplotlib.

Scores by generation and the choice are functions of the search alone, so equal searches draw equal
bytes. What a generation cost depends on what the verdict store knew: that picture belongs in a log.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten, wrap
from typing import Any

import numpy as np

from reward_harness.rubrics.heldout import Agreement, Heldout
from reward_harness.rubrics.search.output import by_generation
from reward_harness.rubrics.search.state import Round, Spent
from reward_harness.rubrics.types import Criterion, Rubric

BLUE, ORANGE, GREEN, GREY = "#3b6ea5", "#d1742f", "#5b8c5a", "#9aa5b1"
WIDTH_IN, DPI = 8.6, 105
LINE_CHARS, MAX_LINES, MIN_ROWS = 52, 2, 5


@contextmanager
def drawing(path: Path, height_in: float, columns: Sequence[float]) -> Generator[Any]:
    """Axes side by side, of these relative widths; saved to ``path`` without a time stamp."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"}):
        figure = Figure(figsize=(WIDTH_IN, height_in), dpi=DPI, layout="constrained")
        axes = figure.subplots(1, len(columns), width_ratios=columns, squeeze=False)[0]
        for each in axes:
            each.spines[["top", "right"]].set_visible(False)
        yield axes
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Software": None})


def plot_history(history: Sequence[Round], path: Path) -> None:
    """Objective of best and mean member, and pair agreement of the best, by generation."""
    rows = by_generation(history)
    generations = [row[0] for row in rows]
    curves: Mapping[str, tuple[list[float], str]] = {
        "objective, best": ([row[1] for row in rows], BLUE),
        "objective, mean": ([row[2] for row in rows], GREY),
        "agreement over all\npairs, of the best": ([_or_nan(r[3]) for r in rows], ORANGE),
    }
    with drawing(path, 3.2, [1]) as (axes,):
        for label, (values, color) in curves.items():
            over = 3 if color == BLUE else 2
            axes.plot(
                generations,
                values,
                marker="o",
                markersize=3.5,
                color=color,
                label=label,
                zorder=over,
            )
        axes.set(xlabel="generation", title="Score by generation, on the search's own prompts")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y", color="#ececec")
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def plot_costs(ledger: Sequence[Spent], path: Path) -> None:
    """Questions by generation, paid or known, and the cost so far (USD, or tokens)."""
    generations = range(len(ledger))
    paid = np.diff([0, *(spent.calls for spent in ledger)])
    known = np.diff([0, *(spent.cached for spent in ledger)])
    usd = [spent.usd for spent in ledger]
    tokens = [(spent.prompt_tokens + spent.completion_tokens) / 1000 for spent in ledger]
    told = usd[-1] is not None
    with drawing(path, 2.9, [1.25, 1]) as (left, right):
        left.bar(generations, paid, color=BLUE, label=f"paid calls, {ledger[-1].calls:,}")
        label = f"answers known already, {ledger[-1].cached:,}"
        left.bar(generations, known, bottom=paid, color="#c9d6e3", label=label)
        left.set(xlabel="generation", title="Calls by generation")
        left.legend(frameon=False)
        left.set_ylim(0, 1.35 * max(*(paid + known), 1))
        costs = [u or 0.0 for u in usd] if told else tokens
        right.plot(generations, costs, color=ORANGE, marker="o", markersize=3.5)
        right.set(xlabel="generation", title="Cost so far, USD" if told else "Tokens so far, 1000")
        right.set_ylim(bottom=0)
        for axes in (left, right):
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(axis="y", color="#ececec")
            axes.set_axisbelow(True)


def plot_choice(rubric: Rubric, heldout: Heldout, path: Path) -> None:
    """Held-out agreement with intervals beside the rubric's criteria by weight."""
    height = max(2.8, 0.8 + 0.42 * len(rubric.criteria))
    with drawing(path, height, [1, 1.1]) as (left, right):
        _agreements(heldout, left)
        _weights(rubric, right)


def _agreements(heldout: Heldout, axes: Any) -> None:
    rows: list[tuple[str, Agreement | None, str]] = [
        ("chosen\nrubric", heldout.agreement, BLUE),
        ("initial\nrubric", heldout.initial, GREY),
        ("longer\nwins", heldout.longer_wins, ORANGE),
        ("shorter\nwins", heldout.shorter_wins, ORANGE),
    ]
    for place, (_, found, color) in enumerate(rows):
        if found is not None:
            spread = [[found.value - found.ci_low], [found.ci_high - found.value]]
            axes.errorbar(found.value, place, xerr=spread, fmt="o", color=color, capsize=3)
            axes.annotate(
                f"{found.value:.3f}",
                (found.value, place),
                (0, 6),
                textcoords="offset points",
                ha="center",
                color=color,
            )
    axes.axvline(0.5, color="#c0c0c0", linewidth=1)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set(ylim=(len(rows) - 0.5, -0.6), xlabel="95 % intervals; 0.5 is chance")
    measured = heldout.agreement
    told = f", {measured.prompts} prompts, {measured.pairs} pairs" if measured else ""
    axes.set_title(f"Pair agreement on test prompts{told}", fontsize=9)
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)


def _weights(rubric: Rubric, axes: Any) -> None:
    total = sum(c.weight for c in rubric.criteria) or 1.0
    listed = sorted(rubric.criteria, key=lambda c: -c.weight)
    for place, criterion in enumerate(listed):
        share = criterion.weight / total
        color = BLUE if criterion.polarity == 1 else ORANGE
        axes.barh(place, share, height=0.7, color=color)
        axes.annotate(
            f"{share:.0%}", (share, place), (4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(listed)), [_label(c) for c in listed], fontsize=7.5)
    axes.set(ylim=(max(len(listed), MIN_ROWS) - 0.4, -0.6), xticks=[])
    axes.set_title("Weights of the criteria (orange: a fault)", fontsize=9)
    axes.tick_params(left=False)
    axes.spines["bottom"].set_visible(False)
    axes.margins(x=0.15)


def _label(criterion: Criterion) -> str:
    text = shorten(criterion.text, LINE_CHARS * MAX_LINES - 6, placeholder=" …")
    return "\n".join(wrap(text, LINE_CHARS)).replace("$", r"\$")


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
