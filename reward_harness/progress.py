"""Progress of long work, as events a caller can show: the library never prints.

A sink is any callable that takes a ``Progress``. ``quiet`` drops events; the command line draws a
bar; the Dagster side writes log lines; the training worker appends them to a file its launcher
follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Progress:
    """One event: ``step`` of ``total`` of a stage, with numbers worth showing beside it.

    An ``alert`` is a warning: whoever thins events out shows it all the same.
    """

    stage: str
    step: int
    total: int
    message: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict[str, float])
    alert: bool = False


ProgressSink = Callable[[Progress], None]


def quiet(event: Progress) -> None:
    """Drop the event."""
