"""What the graph itself costs: imports, definitions, planning and an experiment that is already
fresh.

    python -m benchmarks.graph

Every figure is the median wall time of whole processes, so interpreter start-up is in it; the
floor, an interpreter that does nothing, is measured in the same rounds. The last row runs in a
private project whose stages are all published, beside a first run of the same experiment.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.recording import keep, machine

REPOSITORY = Path(__file__).resolve().parents[1]
ROUNDS = 5
SHIPPED = ("data/experiments", "data/sources", "data/tour", "data/attacks", "prompts")
CASES = {
    "python_nothing": ["-c", "pass"],
    "import_reward_harness": ["-c", "import reward_harness"],
    "import_dagster": ["-c", "import dagster"],
    "import_definitions": ["-c", "import harness_jobs.definitions"],
    "load_definitions": ["-c", "from harness_jobs.definitions import defs; defs()"],
    "experiment_list": ["-m", "reward_harness.cli", "experiment", "list"],
}


def seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """Wall time of one Python process, which must succeed."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - start


def private_project(root: Path) -> dict[str, str]:
    """A project of its own below ``root``; returns the environment that finds it."""
    for folder in SHIPPED:
        shutil.copytree(REPOSITORY / folder, root / folder)
    shutil.copy(REPOSITORY / "workspace.yaml", root)
    (root / "data/dagster").mkdir(parents=True)
    shutil.copy(REPOSITORY / "data/dagster/dagster.yaml", root / "data/dagster")
    places = {"HARNESS_ROOT": str(root), "DAGSTER_HOME": str(root / "data/dagster")}
    return os.environ | places | {"OMP_NUM_THREADS": "1"}


def measure() -> dict[str, object]:
    """All cases in rounds, so that a slow moment touches each of them."""
    with tempfile.TemporaryDirectory() as folder:
        environment = private_project(Path(folder) / "project")
        run = ["-m", "reward_harness.cli", "experiment", "run", "smoke"]
        first = seconds(run, environment)
        times: dict[str, list[float]] = {name: [] for name in [*CASES, "smoke_fresh"]}
        for _ in range(ROUNDS):
            for name, arguments in CASES.items():
                times[name].append(seconds(arguments, environment))
            times["smoke_fresh"].append(seconds(run, environment))
    return {
        **machine(),
        "rounds": ROUNDS,
        "smoke_first_run_s": round(first, 2),
        "median_s": {name: round(statistics.median(found), 2) for name, found in times.items()},
    }


def main() -> None:
    """Measure, print and keep the result."""
    keep("graph", measure())


if __name__ == "__main__":
    main()
