"""SFT, reward-model and PPO steps beside TRL's trainers, at equal settings on one CPU core.

    python -m benchmarks.training [--rounds 3] [--cases sft,rm,ppo]

Each case runs the project's worker and TRL's trainer in turn, each in a process of its own, on the
same records, model, batch and learning rate (``training_tasks``); the order turns around from round
to round. SFT and RM stand beside the installed TRL; PPO beside ``trl.experimental.ppo`` of TRL
1.12, the last with a PPO trainer, which is fetched once into build/ (its other packages are the
installed ones). Figures are medians over the rounds of each run's mean, its first step left out;
``cpu`` figures are processor time, which others on the machine disturb less than the clock.

Floor: a trained weight costs 6 floating-point operations a token, a frozen one under adapters 4
(no gradient of its own), tokens that a pair's sides have in common once; at the rate that one core
multiplies matrices of the model's size.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import recording
from benchmarks.training_tasks import ROOT, THREADS, TaskFiles

PPO_TRL = "1.12.0"
PARAMETERS = 134_515_008
EMBEDDING = 49_152 * 576
"""Of them; multiplied as the language model's head only, which a reward model has not."""

FLOPS_A_TOKEN = {"sft": 4 * PARAMETERS, "rm": 6 * (PARAMETERS - EMBEDDING)}
COPIES = {
    "ours": "policy (its reference is the adapter off), reward",
    "trl": "policy, value, reward",
}


def baseline_path(case: str) -> str:
    """What goes before the installed packages: for PPO a folder with TRL 1.12."""
    if case != "ppo":
        return ""
    folder = ROOT / "build" / f"trl-{PPO_TRL}"
    if not (folder / "trl").is_dir():
        wanted = ["--quiet", "--no-deps", "--target", str(folder), f"trl=={PPO_TRL}"]
        subprocess.run([sys.executable, "-m", "pip", "install", *wanted], check=True)
    return str(folder)


def run_side(case: str, side: str, folder: Path) -> dict[str, Any]:
    """What one side measured in a process of its own."""
    environment = {
        **os.environ,
        "PYTHONPATH": baseline_path(case) if side == "trl" else "",
        "OMP_NUM_THREADS": str(THREADS),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    command = [sys.executable, "-m", "benchmarks.training_sides", case, side, str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{case} {side} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(case: str, runs: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over one side's runs."""

    def rate(above: str | None, below: str | None) -> float:
        """The median run's sum of one figure over its sum of another; None counts steps."""
        sums = [
            [sum(step[name] if name else 1 for step in run["steps"]) for name in (above, below)]
            for run in runs
        ]
        return statistics.median(a / b for a, b in sums)

    found = {
        "wall_s_a_step": rate("wall_s", None),
        "cpu_s_a_step": rate("cpu_s", None),
        "peak_gib": statistics.median(run["peak_bytes"] for run in runs) / 2**30,
    }
    if case in FLOPS_A_TOKEN:
        found["tokens_a_cpu_s"] = rate("tokens", "cpu_s")
        found["tokens_a_s"] = rate("tokens", "wall_s")
    return {name: round(value, 2) for name, value in found.items()}


def ratios(case: str, ours: dict[str, float], theirs: dict[str, float]) -> dict[str, float]:
    """Ours over theirs: speed where more is better, time and memory where less is."""
    speed = ("tokens_a_cpu_s", "tokens_a_s") if case in FLOPS_A_TOKEN else ()
    names = (*speed, "peak_gib") if speed else ("cpu_s_a_step", "wall_s_a_step", "peak_gib")
    return {name: round(ours[name] / theirs[name], 2) for name in names}


def matmul_flops() -> float:
    """Floating-point operations a second of one core on products of the model's size."""
    torch.set_num_threads(THREADS)
    a, b = torch.randn(1024, 576), torch.randn(576, 1536)
    rates: list[float] = []
    for _ in range(30):
        start = time.process_time()
        for _ in range(5):
            a @ b
        rates.append(5 * 2 * 1024 * 576 * 1536 / (time.process_time() - start))
    return statistics.median(rates)


def main() -> None:
    """Measure, print and keep the result; what other cases measured before stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", default="sft,rm,ppo")
    options = parser.parse_args()
    rate = matmul_flops()
    cases: dict[str, Any] = recording.known("training").get("cases", {})
    with tempfile.TemporaryDirectory() as root:
        files = TaskFiles(Path(root))
        files.make()
        for case in options.cases.split(","):
            runs: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
            for number in range(options.rounds):
                for side in ("ours", "trl") if number % 2 == 0 else ("trl", "ours"):
                    runs[side].append(run_side(case, side, files.root))
            ours, theirs = (summary(case, runs[side]) for side in ("ours", "trl"))
            measured = {"rounds": options.rounds, "ours": ours, "trl": theirs}
            measured["ratio"] = ratios(case, ours, theirs)
            if case in FLOPS_A_TOKEN:
                unique = 1 - files.shared_tokens() if case == "rm" else 1
                measured["floor_tokens_a_cpu_s"] = round(rate / FLOPS_A_TOKEN[case] / unique, 1)
            measured["load_average_1min"] = round(os.getloadavg()[0], 2)
            cases[case] = measured
            keep(cases, rate)


def keep(cases: dict[str, Any], rate: float) -> None:
    """Write the result and show it."""
    result = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {THREADS} used",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "model": "SmolLM2-135M, float32",
        "ppo_copies": COPIES,
        "gflops_a_core": round(rate / 1e9, 1),
        "cases": cases,
    }
    recording.keep("training", result)


if __name__ == "__main__":
    main()
