"""How many calls, how long and how good a rubric search is, on worlds whose answer is known.

    python -m benchmarks.search [calls] [quality] [ablation] [prometheus]

The endpoint (``hidden_rubrics``) runs in a process of its own and counts. *calls*: prompts ×
candidates at the default budget, 100 ms a reply and 64 in flight, beside the floor: dependent
rounds × latency + calls/64 × latency. *quality*: agreement of the found rubric with the noise-free
truth on 120 unseen prompts, for ten hidden rubrics, without and with a tenth of the judge's
answers flipped. *ablation*: the same with one part of the search switched off at a time.
*prometheus*: the heuristic backend on responses that GPT-4 graded (``graded_sets``); it needs the
public files, so it runs only when named.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np

from benchmarks import graded_sets, hidden_rubrics
from benchmarks.recording import keep, known, machine
from reward_harness.errors import DataError
from reward_harness.evaluation.statistics import cluster_bootstrap_mean
from reward_harness.rubrics.search.choosing import choose_shared, evaluator_of, prompts_of
from reward_harness.rubrics.search.session import SearchResult, SearchSession
from reward_harness.rubrics.types import Rubric
from reward_harness.sections import Endpoint, SearchConfig

KEY = "BENCHMARK_KEY"
SEEDS = tuple(range(1, 11))
UNSEEN, HELD_OUT = 120, 10
CASES = ((3, 6), (10, 16), (50, 16))
LATENCY_S = 0.1
OFF: dict[str, dict[str, Any]] = {
    "all on": {},
    "no fit_weights": {"fit_weights": False},
    "no semantic operators": {"semantic_operators": False},
    "no racing": {"racing": False},
    "no holdout selection": {"holdout": False},
}


@contextmanager
def endpoint(seed: int, latency: float = 0.0, noise: float = 0.0) -> Iterator[str]:
    """The address of a world's endpoint, in a process of its own."""
    options = {"seed": seed, "latency": latency, "noise": noise}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "benchmarks.hidden_rubrics", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def stats(url: str) -> dict[str, Any]:
    """What the endpoint counted."""
    return httpx.get(url.removesuffix("/v1") + "/stats").json()


def config_for(url: str, **changed: Any) -> SearchConfig:
    """The default budget in scope ``shared``."""
    remote = Endpoint(base_url=url, api_key_env=KEY, model="simulated", concurrency=64)
    return SearchConfig(backend="openai", endpoint=remote, **changed)


def searched(
    url: str, seed: int, prompts: int, candidates: int, *, holdout: bool = True, **changed: Any
) -> tuple[Rubric, Rubric, SearchResult]:
    """(chosen, initial, result): searched on all prompts but the held-out ones, chosen on those."""
    records = hidden_rubrics.records(seed, prompts, candidates)
    apart = min(HELD_OUT, prompts // 5) if holdout else 0
    session = SearchSession.create(
        records[: prompts - apart], config_for(url, **changed), seed=seed
    )
    try:
        result = session.run()
        unit = result.state.units[0]
        initial = next(m.rubric for m in unit.archive if m.rubric.digest == unit.initial)
        if not apart:
            return unit.best.rubric, initial, result
        kept = prompts_of(records[prompts - apart :], session.config, session.roles, seed=seed)
        evaluator = evaluator_of(kept, session.config, session.roles, seed=seed)
        chosen, _ = choose_shared(unit.archive, unit.initial, evaluator, range(apart), (), seed)
        return chosen, initial, result
    finally:
        session.close()


def measure_calls() -> list[dict[str, Any]]:
    """Calls and wall time of each case beside its floor."""
    rows: list[dict[str, Any]] = []
    for prompts, candidates in CASES:
        with endpoint(1, LATENCY_S) as url:
            start = time.perf_counter()
            searched(url, 1, prompts, candidates)
            seconds = time.perf_counter() - start
            counted = stats(url)
        floor = counted["rounds"] * LATENCY_S + counted["calls"] / 64 * LATENCY_S
        rows.append(
            {
                "case": f"{prompts}x{candidates}",
                "calls": counted["calls"],
                "repeated": counted["repeated"],
                "roles": counted["roles"],
                "rounds": counted["rounds"],
                "seconds": round(seconds, 2),
                "floor_s": round(floor, 2),
                "times_floor": round(seconds / floor, 2),
            }
        )
        show(rows[-1])
    return rows


def measure_quality(noise: float, **changed: Any) -> dict[str, Any]:
    """Agreement on unseen prompts of initial and found rubric, over all worlds."""
    found: dict[str, list[list[float]]] = {"initial": [], "found": []}
    calls: list[int] = []
    means: list[float] = []
    for seed in SEEDS:
        with endpoint(seed, noise=noise) as url:
            chosen, initial, _ = searched(url, seed, 50, 16, **changed)
            calls.append(stats(url)["calls"])
        unseen = hidden_rubrics.records(seed, UNSEEN, 8, start=1000)
        for name, rubric in (("found", chosen), ("initial", initial)):
            outcomes = hidden_rubrics.true_agreement(seed, rubric, unseen)
            found[name].append([v for outcome in outcomes for v in outcome])
        means.append(round(float(np.mean(found["found"][-1])), 3))
    row: dict[str, Any] = {"noise": noise, "median_calls": int(np.median(calls)), "worlds": means}
    for name, worlds in found.items():
        values = [v for world in worlds for v in world]
        clusters = [i for i, world in enumerate(worlds) for _ in world]
        interval = cluster_bootstrap_mean(values, clusters, np.random.default_rng(0))
        row[name] = [round(x, 3) for x in (interval.value, interval.low, interval.high)]
    show(row)
    return row


def measure_graded_sets() -> list[dict[str, Any]]:
    """Held-out agreement on each set of graded responses; one line on stderr without the files."""
    try:
        rows = [graded_sets.measure(name) for name in graded_sets.SETS]
    except DataError as error:
        sys.exit(f"error: {error}")
    for row in rows:
        show(row)
    return rows


def show(row: dict[str, Any]) -> None:
    """One result, as it comes."""
    print(json.dumps(row), flush=True)  # noqa: T201


def main(wanted: list[str]) -> None:
    """Measure what is asked for and keep it beside what was measured before."""
    os.environ[KEY] = "sk-simulated-key"
    found = known("search")
    if "calls" in wanted:
        found["calls"] = measure_calls()
    if "quality" in wanted:
        found["quality"] = [measure_quality(noise) for noise in (0.0, 0.1)]
    if "ablation" in wanted:
        found["ablation"] = {name: measure_quality(0.1, **off) for name, off in OFF.items()}
    if "prometheus" in wanted:
        found["prometheus"] = measure_graded_sets()
    keep("search", {**found, **machine()})


if __name__ == "__main__":
    main(sys.argv[1:] or ["calls", "quality", "ablation"])
