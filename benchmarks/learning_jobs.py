"""A stage's model under several seeds, and intervals over them.

The stage makes the first model; the others are its published job file with another seed, run by the
same launcher. What is in ``data/cache/learning`` under the job's digest is not trained again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from reward_harness.evaluation.statistics import (
    Interval,
    bootstrap_mean,
    hierarchical_bootstrap_mean,
)
from reward_harness.progress import quiet
from reward_harness.spec import ExperimentSpec
from reward_harness.stages.make import make
from reward_harness.training.job import LOCAL_JOB_FILE, RESULT_FILE, TrainResult, read_job
from reward_harness.training.launcher import LocalLauncher
from reward_harness.workspace import Workspace

SEEDS = 3


def trained(
    workspace: Workspace, spec: ExperimentSpec, stage: str, seeds: int
) -> Iterator[tuple[int, Path, float]]:
    """(seed, output folder's ``model``, seconds of training) of each seed."""
    first = make(workspace, spec, stage)[0]
    job = read_job(first.path / LOCAL_JOB_FILE)
    yield job.seed, first.folder("model"), first.manifest.cost.seconds
    for seed in range(job.seed + 1, job.seed + seeds):
        again = job.model_copy(update={"seed": seed, "resume_root": None})
        folder = workspace.cache / "learning" / again.digest
        if not (folder / RESULT_FILE).is_file():
            LocalLauncher(spec.compute).run(again, folder, quiet)
        result = TrainResult.model_validate_json((folder / RESULT_FILE).read_bytes())
        yield seed, folder / "model", result.seconds


def pooled(groups: Sequence[npt.NDArray[np.float64]]) -> Interval:
    """The mean over seeds; seeds are resampled, then prompts."""
    if len(groups) == 1:
        return bootstrap_mean(groups[0], rng(0))
    return hierarchical_bootstrap_mean(list(groups), rng(0))


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def shown(interval: Interval) -> list[float]:
    """Value and bounds."""
    return [round(x, 3) for x in (interval.value, interval.low, interval.high)]
