"""What a running search shows: numbers that move within a generation, a bar in a real terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.hidden_rubrics import HiddenRubric, records
from reward_harness.cli.search_display import Pace, numbers_text, shown
from reward_harness.data.files import write_records
from reward_harness.progress import Progress
from reward_harness.rubrics.search import telling
from reward_harness.rubrics.search.session import search_rubrics
from reward_harness.rubrics.search.surroundings import Surroundings
from reward_harness.sections import Endpoint, SearchConfig

REPOSITORY = Path(__file__).parents[2]


def test_numbers_move_within_each_generation(monkeypatch):
    monkeypatch.setattr(telling, "EVERY_S", 0.0)
    events: list[Progress] = []
    with HiddenRubric(seed=1) as world:
        monkeypatch.setenv("TEST_KEY", world.key)
        endpoint = Endpoint(base_url=world.url, api_key_env="TEST_KEY", model="m")
        config = SearchConfig(
            backend="openai", endpoint=endpoint, generations=2, population_size=4,
            mutations_per_round=3,
        )  # fmt: skip
        around = Surroundings(progress=events.append)
        result = search_rubrics(records(1, 9, 6), config, around=around)
    messages = list(dict.fromkeys(e.message for e in events))
    assert messages == [
        "first population", "generation 0 of 2", "generation 1 of 2", "generation 2 of 2",
    ]  # fmt: skip
    first = [e.numbers for e in events if e.message == "first population"]
    assert len({n["answered"] for n in first}) > 20
    assert first[-1]["answered"] == first[-1]["asked"]
    assert all(n["answered"] <= n["asked"] for n in first)
    for number in (1, 2):
        assert sum(e.message == f"generation {number} of 2" for e in events) > 2
    calls, shares = ([e.numbers[name] for e in events] for name in ("calls", "share"))
    assert calls == sorted(calls)
    assert shares == sorted(shares)
    assert (calls[-1], shares[-1]) == (result.spent.calls, 1.0)


def event(share: float, **numbers: float) -> Progress:
    return Progress("search", 1, 4, "generation 2 of 4", {"share": share, "calls": 30, **numbers})


def test_time_left_goes_by_what_this_session_did():
    pace = Pace(0.0)
    assert pace.left_s(event(0.5), 100.0) is None
    assert pace.left_s(event(0.75), 110.0) == pytest.approx(10.0)


def test_the_numbers_of_a_line():
    given = event(0.5, answered=3, asked=9, score=0.5, agreement=0.75, cached=10, usd=0.02)
    assert numbers_text(given, 75.4) == (
        "3/9  best 0.500  agreement 0.750  calls 30  cached 25%  cost $0.0200  left 1:15"
    )
    assert numbers_text(given, None, brief=True) == "3/9  best 0.500  calls 30  cost $0.0200"


def test_without_a_terminal_a_generation_is_a_line():
    console = Console(file=io.StringIO(), width=100)
    with shown(console, plain=False) as sink:
        for answered in range(1, 40):
            sink(event(0.5, answered=answered, asked=40))
        sink(event(0.75, score=0.6))
    assert (
        console.file.getvalue() == "generation 2 of 4  best 0.600  calls 30  cached 0%  left 0:00\n"
    )


@pytest.mark.parametrize("columns", [80, 140])
def test_a_terminal_shows_one_bar_that_moves(tmp_path, columns):
    write_records(tmp_path / "data.jsonl", records(1, 9, 4))
    with HiddenRubric(seed=1, latency_s=0.1) as world:
        text, code = in_terminal(
            columns, world.key,
            "--dataset", tmp_path / "data.jsonl", "--output", tmp_path / "out.json",
            "--verdict-store", tmp_path / "v.sqlite", "--base-url", world.url, "--concurrency=8",
            "--model-default=m", "--generations=1", "--population-size=3", "--mutations-per-round=2",
        )  # fmt: skip
    assert code == 0, text
    frames = [frame for frame in re.split(r"[\r\n]+", text) if "\u2501" in frame]
    assert all(len(frame) <= columns for frame in frames)
    assert not any("\u2026" in frame for frame in frames)
    assert len({m.group() for f in frames if (m := re.search(r"\d+/\d+ ", f))}) > 3
    assert "generation 1 of 1" in frames[-1]
    assert "wrote " in text


def in_terminal(columns: int, key: str, *arguments: object) -> tuple[str, int]:
    """What the command draws in a pseudo-terminal, without control sequences, and its exit code."""
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "reward_harness.cli", "search", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "LLM_API_KEY": key, "TERM": "xterm-256color"},
        stdin=inner,
        stdout=inner,
        stderr=inner,
    )
    os.close(inner)
    drawn, deadline = b"", time.monotonic() + 120
    while time.monotonic() < deadline:
        if not select.select([outer], [], [], 0.2)[0]:
            continue
        try:
            read = os.read(outer, 65536)
        except OSError:  # the other end is closed: the process has ended
            break
        if not read:
            break
        drawn += read
    os.close(outer)
    code = process.wait(10)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode()), code
