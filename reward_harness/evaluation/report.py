"""One self-contained HTML page: the answer, then numbers with n and interval, samples, lineage.

A page is data (``Page`` and what it holds); ``render`` turns it into HTML through a jinja2 template
that escapes everything but the figures made here. No script, no network, light and dark by the
reader's setting. Equal pages make equal bytes: times and costs never enter one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, cast

from reward_harness.evaluation.statistics import Interval

if TYPE_CHECKING:
    from jinja2 import Template

Tone = Literal["good", "bad", "plain"]
Style = Literal["percent", "signed_percent", "number", "signed", "count"]

BAR_WIDTH = 120.0
SIGNIFICANT_DIGITS = 7
"""Figures in ``report.json`` are rounded to this, so that they are stable across machines."""


@dataclass(frozen=True, slots=True)
class NextStep:
    """One line of "what should I do next": what, and the numbers behind it."""

    kind: Literal["do", "stop", "warn", "unsure"]
    text: str
    because: str = ""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A table cell that holds an interval; ``None`` in its place shows as a dash."""

    interval: Interval
    style: Style = "number"
    tone: Tone = "plain"


Cell = str | Estimate | None


def estimate(
    interval: Interval | None,
    style: Style = "number",
    reference: float | None = None,
    better: Literal["above", "below"] = "above",
) -> Cell:
    """An interval's cell, coloured where it lies wholly on one side of ``reference``."""
    if interval is None:
        return None
    if reference is None or not interval.excludes(reference):
        return Estimate(interval, style)
    above = interval.value > reference
    return Estimate(interval, style, "good" if above == (better == "above") else "bad")


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column; ``reference`` draws its estimates as bars against that value."""

    title: str
    reference: float | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells; the first column names the row."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """An SVG made by ``plots.render_svg``, its caption, and a text for those who cannot see it."""

    svg: str
    caption: str
    alt: str


@dataclass(frozen=True, slots=True)
class Response:
    """One side of a side-by-side."""

    author: str
    text: str
    facts: str = ""
    best: bool = False


@dataclass(frozen=True, slots=True)
class SideBySide:
    """One prompt with every policy's response; ``why`` says how the prompt was chosen."""

    prompt: str
    why: str
    responses: Sequence[Response]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with a heading."""

    title: str
    intro: str = ""
    blocks: Sequence[Table | Figure | SideBySide] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Source:
    """One artifact the page was made from."""

    stage: str
    experiment: str
    digest: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Everything on a report's page, in the order in which it is read."""

    kicker: str
    title: str
    lead: str
    next_steps: Sequence[NextStep]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]
    sources: Sequence[Source]
    method: Sequence[str]


def render(page: Page) -> str:
    """The page as one HTML document."""
    return _template().render(page=page, kind_of=_kind_of, bars=_bars, shown=shown, bounds=bounds)


def shown(value: float, style: Style) -> str:
    """A number as people read it: percentages (differences in points, pp) to .1, others to three
    significant digits.
    """
    if style == "count":
        return f"{value:,.0f}"
    if style in ("percent", "signed_percent"):
        scaled = 100 * value
        text = f"{scaled:+.1f} pp" if style == "signed_percent" else f"{scaled:.1f} %"
        return text.replace("-", "−")
    text = _significant(value)
    return f"+{text}" if style == "signed" and value > 0 else text


def bounds(interval: Interval, style: Style) -> str:
    """``low to high · n`` in the same style."""
    return f"{_range(interval, style)} · n {interval.n}"


def inline(interval: Interval, style: Style = "number") -> str:
    """``value [low to high], n = …`` for sentences."""
    return f"{shown(interval.value, style)} [{_range(interval, style)}], n = {interval.n}"


def _range(interval: Interval, style: Style) -> str:
    """Both bounds, the unit once."""
    low, high = shown(interval.low, style), shown(interval.high, style)
    return f"{low.removesuffix(' %').removesuffix(' pp')} to {high}"


def rounded(value: Any, digits: int = SIGNIFICANT_DIGITS) -> Any:
    """JSON content with every float at ``digits`` significant digits; NaN becomes None."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [rounded(v, digits) for v in cast("list[Any]", value)]
    return value


def _significant(value: float) -> str:
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    if size < 0.0005:
        return f"{value:.0e}".replace("-", "−")
    digits = max(0, 2 - math.floor(math.log10(size)))
    return f"{value:.{min(digits, 4)}f}".replace("-", "−")


def _kind_of(block: Table | Figure | SideBySide) -> str:
    return type(block).__name__


@dataclass(frozen=True, slots=True)
class _Bar:
    """Positions in a bar's own units, 0 to ``BAR_WIDTH``."""

    low: float
    high: float
    value: float
    reference: float


def _bars(table: Table) -> list[list[_Bar | None]]:
    """For each cell the bar to draw, on one scale a column; None where there is none."""
    scales = [_scale(table, number) for number in range(len(table.columns))]
    return [
        [_bar(cell, table.columns[number], scales[number]) for number, cell in enumerate(row)]
        for row in table.rows
    ]


def _scale(table: Table, number: int) -> tuple[float, float] | None:
    reference = table.columns[number].reference
    found = [row[number] for row in table.rows if isinstance(row[number], Estimate)]
    intervals = [cell.interval for cell in found if isinstance(cell, Estimate)]
    if reference is None or not intervals:
        return None
    low = min([reference, *(i.low for i in intervals)])
    high = max([reference, *(i.high for i in intervals)])
    return (low, high) if high > low else None


def _bar(cell: Cell, column: Column, scale: tuple[float, float] | None) -> _Bar | None:
    if scale is None or column.reference is None or not isinstance(cell, Estimate):
        return None
    low, high = scale
    margin = 5.0

    def place(value: float) -> float:
        return round(margin + (value - low) / (high - low) * (BAR_WIDTH - 2 * margin), 1)

    interval = cell.interval
    return _Bar(
        place(interval.low), place(interval.high), place(interval.value), place(column.reference)
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("reward_harness.evaluation", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")
