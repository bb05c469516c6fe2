"""What a search shows while it runs: a bar in a terminal, else one plain line a generation."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from reward_harness.progress import Progress, ProgressSink


@contextmanager
def shown(console: Console, *, plain: bool) -> Generator[ProgressSink]:
    """A sink that shows a search's progress until the block ends."""
    started = time.monotonic()
    if plain or not console.is_terminal:
        yield lambda event: console.print(
            f"{event.message}  {numbers_text(event, started)}", highlight=False, soft_wrap=True
        )
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
                total=event.total,
                completed=event.step,
                numbers=numbers_text(event, started),
            )

        yield advance


def numbers_text(event: Progress, started_s: float) -> str:
    """Best score, agreement, calls, cached share, cost and the time that is left."""
    numbers = event.numbers
    calls, cached = numbers.get("calls", 0.0), numbers.get("cached", 0.0)
    parts = [f"best {numbers['score']:.3f}"] if "score" in numbers else []
    if "agreement" in numbers:
        parts.append(f"agreement {numbers['agreement']:.3f}")
    parts.append(f"calls {calls:.0f}")
    if calls + cached:
        parts.append(f"cached {cached / (calls + cached):.0%}")
    if "usd" in numbers:
        parts.append(f"cost ${numbers['usd']:.4f}")
    if event.step:
        left_s = (time.monotonic() - started_s) / event.step * (event.total - event.step)
        parts.append(f"left {int(left_s) // 60}:{int(left_s) % 60:02d}")
    return "  ".join(parts)
