"""Running a trainer's command: its output to the terminal and a log, its exit code as it is.

A signal to this process goes on to the trainer's process group, and the run counts as canceled by
it; whatever the trainer then returns is what is reported.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from reward_harness.manifest import Frozen

FORWARDED = (signal.SIGINT, signal.SIGTERM)
NOT_FOUND, NOT_EXECUTABLE = 127, 126
SIGNALLED = 128
"""A shell's exit code of a process that a signal ended is this plus the signal."""


class Ended(Frozen):
    """The end of a command, as it was seen."""

    started_at_utc: str
    finished_at_utc: str
    duration_seconds: float
    exit_code: int
    canceled_by: str | None = None
    problem: str | None = None


def supervise(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Ended:
    """Run ``command`` with more environment until it ends; one that cannot start is an end too."""
    started, clock = _now(), time.monotonic()
    received: list[str] = []
    problem: str | None = None
    try:
        exit_code = _run(command, environment, log, received)
    except OSError as error:
        exit_code = NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE
        problem = str(error)
    if exit_code < 0:
        problem = f"ended by {signal.Signals(-exit_code).name}"
        exit_code = SIGNALLED - exit_code
    return Ended(
        started_at_utc=started,
        finished_at_utc=_now(),
        duration_seconds=time.monotonic() - clock,
        exit_code=exit_code,
        canceled_by=received[0] if received else None,
        problem=problem,
    )


def _run(
    command: Sequence[str], environment: Mapping[str, str], log: Path, received: list[str]
) -> int:
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("ab") as stream,
        subprocess.Popen(
            list(command),
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
        _forwarding(process, received),
    ):
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 1 << 16):
            stream.write(chunk)
            stream.flush()
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        return process.wait()


@contextmanager
def _forwarding(process: subprocess.Popen[bytes], received: list[str]) -> Generator[None]:
    """Hand SIGINT and SIGTERM on to the trainer's group while it runs."""

    def forward(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number).name)
        if process.poll() is None:
            os.killpg(process.pid, number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
