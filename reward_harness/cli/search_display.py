"""What a search shows while it runs: a bar in a terminal, else plain lines.

The bar moves with every few answers. A plain line is written for each generation, and within one
when nothing was written for ``LINE_EVERY_S``.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from reward_harness.progress import Progress, ProgressSink

LINE_EVERY_S = 10.0
NARROW = 110
"""Columns of a terminal below which the bar leaves out agreement and cached share."""


@contextmanager
def shown(console: Console, *, plain: bool) -> Generator[ProgressSink]:
    """A sink that shows a search's progress until the block ends."""
    pace = Pace(time.monotonic())
    if plain or not console.is_terminal:
        yield _lines(console, pace)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[numbers]}"),
    )
    with Bar(*columns, console=console, expand=True) as bar:
        task = bar.add_task("first population", total=None, numbers="")

        def advance(event: Progress) -> None:
            bar.update(
                task,
                description=event.message,
                total=1.0,
                completed=event.numbers.get("share", 0.0),
                numbers=numbers_text(
                    event,
                    pace.left_s(event, time.monotonic()),
                    brief=console.width < NARROW,
                ),
            )

        yield advance


def _lines(console: Console, pace: Pace) -> ProgressSink:
    written_s = time.monotonic()

    def write(event: Progress) -> None:
        nonlocal written_s
        now = time.monotonic()
        left_s = pace.left_s(event, now)
        if "asked" in event.numbers and now - written_s < LINE_EVERY_S:
            return
        written_s = now
        text = f"{event.message}  {numbers_text(event, left_s)}"
        console.print(text, highlight=False, soft_wrap=True)

    return write


class Pace:
    """How long the rest takes, if it goes on as since the first event (a resumed search has not
    begun at nothing).
    """

    def __init__(self, started_s: float) -> None:
        self._started_s = started_s
        self._first_share: float | None = None

    def left_s(self, event: Progress, now_s: float) -> float | None:
        """Seconds; None where nothing can be said yet."""
        share = event.numbers.get("share", 0.0)
        if self._first_share is None:
            self._first_share, self._started_s = share, now_s
        gained = share - self._first_share
        return (now_s - self._started_s) * (1 - share) / gained if gained > 0 else None


def numbers_text(event: Progress, left_s: float | None, *, brief: bool = False) -> str:
    """Questions of the round, best score, agreement, calls, cached share, cost and time left."""
    numbers = event.numbers
    calls, cached = numbers.get("calls", 0.0), numbers.get("cached", 0.0)
    parts: list[str] = []
    if numbers.get("asked"):
        parts.append(f"{numbers.get('answered', 0.0):.0f}/{numbers['asked']:.0f}")
    if "score" in numbers:
        parts.append(f"best {numbers['score']:.3f}")
    if "agreement" in numbers and not brief:
        parts.append(f"agreement {numbers['agreement']:.3f}")
    parts.append(f"calls {calls:.0f}")
    if calls + cached and not brief:
        parts.append(f"cached {cached / (calls + cached):.0%}")
    if "usd" in numbers:
        parts.append(f"cost ${numbers['usd']:.4f}")
    if left_s is not None:
        parts.append(f"left {int(left_s) // 60}:{int(left_s) % 60:02d}")
    return "  ".join(parts)
