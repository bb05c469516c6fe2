"""Figures for reports: theme-aware SVG for the page, a small PNG for the asset's metadata.

Everything is drawn once with a ``Palette``. For the page its colours are placeholders that become
CSS variables in the SVG, so that one figure suits light and dark; for PNG they are plain colours.
Bytes are stable: no dates, fixed ids, no pyplot state.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from reward_harness.evaluation.calibration import Calibration
from reward_harness.evaluation.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = 4
PNG_DPI = 110
ROW_INCHES = 0.42


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of text, rules and up to four series."""

    ink: str
    muted: str
    rule: str
    series: tuple[str, ...]
    background: str


LIGHT = Palette(
    ink="#1d2129",
    muted="#6a7080",
    rule="#dcdfe6",
    series=("#0f766e", "#b45309", "#6d28d9", "#be123c"),
    background="#ffffff",
)
PLACEHOLDERS = Palette(
    ink="#010101",
    muted="#020202",
    rule="#030303",
    series=("#040404", "#050505", "#060606", "#070707"),
    background="none",
)
CSS_VARIABLES = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--rule)",
    **{color: f"var(--series-{i + 1})" for i, color in enumerate(PLACEHOLDERS.series)},
}

Draw = Callable[["Figure", Palette], None]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a forest plot; ``group`` picks the colour."""

    label: str
    interval: Interval
    group: int = 0


def render_svg(draw: Draw, size: tuple[float, float]) -> str:
    """The figure as an inline ``<svg>`` element whose colours follow the page's theme."""
    buffer = io.StringIO()
    _save(draw, size, PLACEHOLDERS, buffer, "svg", {"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in CSS_VARIABLES.items():
        text = text.replace(color, variable)
    return text


def save_png(draw: Draw, size: tuple[float, float], path: Path) -> None:
    """The figure on a white ground as a PNG file."""
    _save(draw, size, LIGHT, path, "png", {"Software": None})


def _save(
    draw: Draw,
    size: tuple[float, float],
    palette: Palette,
    target: Any,
    kind: str,
    metadata: dict[str, None],
) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.hashsalt": "reward-harness",
        "svg.fonttype": "none",
        "font.size": 10,
        "text.color": palette.ink,
        "axes.labelcolor": palette.muted,
        "xtick.color": palette.muted,
        "ytick.color": palette.ink,
        "axes.edgecolor": palette.rule,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained", facecolor=palette.background)
        draw(figure, palette)
        figure.savefig(target, format=kind, dpi=PNG_DPI, metadata=metadata)


def forest(
    rows: Sequence[Row],
    *,
    xlabel: str,
    reference: float,
    groups: Sequence[str] = (),
    percent: bool = False,
) -> Draw:
    """Point estimates with their intervals, one a line, against a vertical reference."""

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        _plain(axes, palette)
        axes.axvline(reference, color=palette.muted, linewidth=1, linestyle=(0, (4, 3)))
        seen: set[int] = set()
        for position, row in enumerate(reversed(rows)):
            color = palette.series[row.group % SERIES]
            named = groups[row.group] if groups and row.group not in seen else None
            seen.add(row.group)
            axes.plot(
                [row.interval.low, row.interval.high],
                [position, position],
                color=color,
                linewidth=2.2,
                solid_capstyle="round",
            )
            axes.plot(row.interval.value, position, "o", color=color, markersize=7, label=named)
        axes.set_yticks(range(len(rows)), [row.label for row in reversed(rows)])
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_xlabel(xlabel)
        _maybe_percent(axes, percent)
        _legend(figure, axes, groups)

    return draw


def forest_size(rows: Sequence[Row], groups: Sequence[str] = ()) -> tuple[float, float]:
    """Inches that suit a forest plot of these rows."""
    return 7.2, 0.9 + ROW_INCHES * len(rows) + (0.3 if len(groups) > 1 else 0.0)


def reliability(curves: Sequence[tuple[str, Calibration]]) -> Draw:
    """Accuracy against confidence over deciles of |margin|, with each decile's interval."""

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        _plain(axes, palette, grid="both")
        axes.plot([0.5, 1], [0.5, 1], color=palette.muted, linewidth=1, linestyle=(0, (4, 3)))
        for number, (name, found) in enumerate(curves):
            color = palette.series[number % SERIES]
            x = np.array([d.confidence for d in found.deciles])
            y = np.array([d.accuracy.value for d in found.deciles])
            low = np.array([d.accuracy.low for d in found.deciles])
            high = np.array([d.accuracy.high for d in found.deciles])
            axes.vlines(x, low, high, color=color, linewidth=1.4, alpha=0.55)
            axes.plot(x, y, "o-", color=color, markersize=5, linewidth=1.6, label=name)
        axes.set_xlabel("claimed probability σ(|margin| / T)")
        axes.set_ylabel("share that people preferred")
        axes.set_xlim(0.49, 1.01)
        _maybe_percent(axes, True)
        _maybe_percent(axes, True, "yaxis")
        _legend(figure, axes, [name for name, _ in curves])

    return draw


RELIABILITY_SIZE = (7.2, 3.6)


def law_curve(
    points: Sequence[tuple[float, float]],
    law: Callable[[np.ndarray], np.ndarray],
    *,
    xlabel: str,
    ylabel: str,
) -> Draw:
    """Measured points and the fitted law, over sizes on a logarithmic axis."""

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        _plain(axes, palette, grid="both")
        x, y = (np.array(column) for column in zip(*points, strict=True))
        fine = np.geomspace(x.min(), x.max(), 100)
        axes.plot(fine, law(fine), color=palette.muted, linewidth=1.4, linestyle=(0, (4, 3)))
        axes.plot(x, y, "o", color=palette.series[0], markersize=6, alpha=0.8)
        axes.set_xscale("log")
        sizes = sorted(set(x.tolist()))
        axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)

    return draw


def plane(
    points: Sequence[tuple[str, Interval, Interval]],
    front: Sequence[str],
    *,
    xlabel: str,
    ylabel: str,
) -> Draw:
    """Named points in two measures; those on the Pareto front are filled."""

    def draw(figure: Figure, palette: Palette) -> None:
        axes = figure.subplots()
        _plain(axes, palette, grid="both")
        for name, first, second in points:
            color = palette.series[0] if name in front else palette.muted
            filled = color if name in front else "none"
            axes.plot(
                first.value, second.value, "o", color=color, markerfacecolor=filled, markersize=8
            )
            axes.annotate(
                name,
                (first.value, second.value),
                textcoords="offset points",
                xytext=(8, 5),
                fontsize=9,
                color=palette.ink,
            )
        axes.margins(0.18)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)

    return draw


PLANE_SIZE = (7.2, 3.8)


def _plain(axes: Axes, palette: Palette, grid: Literal["x", "both"] = "x") -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0)
    axes.grid(axis=grid, color=palette.rule, linewidth=0.8)
    axes.set_axisbelow(True)


def _maybe_percent(axes: Axes, percent: bool, which: str = "xaxis") -> None:
    if percent:
        from matplotlib.ticker import PercentFormatter

        getattr(axes, which).set_major_formatter(PercentFormatter(xmax=1, decimals=0))


def _legend(figure: Figure, axes: Axes, groups: Sequence[str]) -> None:
    if len(groups) > 1:
        handles, labels = axes.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda i: list(groups).index(labels[i]))
        figure.legend(
            [handles[i] for i in order],
            [labels[i] for i in order],
            loc="outside upper left",
            ncols=min(len(groups), 3),
            frameon=False,
        )
