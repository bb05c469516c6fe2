"""Where a training job runs: in this process, or in a process group of its own.

``LocalLauncher`` starts the worker with ``start_new_session``, follows its progress, and on cancel
or any exception ends the whole group: SIGTERM (the worker saves a checkpoint after its running
step), a grace period, SIGKILL. The worker ends by itself when this process dies. Both launchers
first compare the job's estimated peak memory with what the device has free.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import orjson
from pydantic import ValidationError

from reward_harness.errors import TrainingError
from reward_harness.progress import Progress, ProgressSink
from reward_harness.scaling.memory import available_bytes, resolve_device, total_bytes
from reward_harness.sections import ComputeSection, WatchedSpec
from reward_harness.training.job import RESULT_FILE, TrainResult, write_job
from reward_harness.training.worker import (
    ERROR_PREFIX,
    HACKED_EXIT,
    LAUNCHER_VARIABLE,
    PROGRESS_PREFIX,
    run_job,
)
from reward_harness.training.workload import require_job_memory

if TYPE_CHECKING:
    from reward_harness.training.job import AnyJob

WORKER = "reward_harness.training.worker"
GRACE_S = 20.0
"""A step of the CPU experiments takes less; after it the checkpoint before it is the newest."""
SHOWN_LINES = 20
HEAP = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(32 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
"""Freed activations stay with the worker: giving them back after each step and faulting them in
again costs a sixth of a CPU step."""


class Launcher(Protocol):
    """Runs a job to its end and returns what it reported; ``TrainingError`` if it failed."""

    def run(self, job: AnyJob, output: Path, progress: ProgressSink) -> TrainResult: ...


def launcher_for(compute: ComputeSection) -> Launcher:
    """The launcher that the compute section names."""
    kinds: dict[str, Callable[[ComputeSection], Launcher]] = {
        "inline": InlineLauncher,
        "local": LocalLauncher,
        "accelerate": LocalLauncher,
    }
    return kinds[compute.launcher](compute)


def guard(job: AnyJob, compute: ComputeSection) -> None:
    """``TrainingError`` if the job would need more than its share of the device's free memory."""
    device = resolve_device(job.device)
    free = int(available_bytes(device) * compute.memory_fraction)
    settings = job.settings
    if isinstance(settings, WatchedSpec) and settings.rollouts == "vllm":
        free -= int(total_bytes(device) * settings.vllm_memory)
    require_job_memory(job, free, device)


@dataclass(frozen=True, slots=True)
class InlineLauncher:
    """This process: for tiny models and tests."""

    compute: ComputeSection = field(default_factory=ComputeSection)

    def run(self, job: AnyJob, output: Path, progress: ProgressSink) -> TrainResult:
        """Run the job here."""
        guard(job, self.compute)
        return run_job(job, output, progress)


@dataclass(frozen=True, slots=True)
class LocalLauncher:
    """A process in a session of its own, or several that ``torch.distributed.run`` starts in it;
    ``worker`` names a module with the worker's arguments.
    """

    compute: ComputeSection = field(default_factory=ComputeSection)
    worker: str = WORKER
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    grace_s: float = GRACE_S

    def run(self, job: AnyJob, output: Path, progress: ProgressSink) -> TrainResult:
        """Run the job to its end; whatever interrupts this call ends the whole process group."""
        guard(job, self.compute)
        job_file = write_job(job, output)
        log = output / "log" / "worker.log"
        command = [*interpreter(job), "-m", self.worker, "--job", str(job_file)]
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [*command, "--output", str(output)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=self._environment(job),
                start_new_session=True,
            )
        try:
            told = follow(process.stdout or (), progress)
            code = process.wait()
        finally:
            end_group(process, self.grace_s)
        if code not in (0, HACKED_EXIT):
            raise failure(log, code, job.method, told)
        return read_result(output)

    def _environment(self, job: AnyJob) -> dict[str, str]:
        code = str(Path(__file__).resolve().parents[2])
        inherited = os.environ.get("PYTHONPATH")
        environment = {
            **os.environ,
            "PYTHONPATH": f"{code}{os.pathsep}{inherited}" if inherited else code,
            "TOKENIZERS_PARALLELISM": "false",
            # threads that wait by spinning take the cores from each other on a shared machine
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            **{name: os.environ.get(name, value) for name, value in HEAP.items()},
            LAUNCHER_VARIABLE: str(os.getpid()),
        }
        if job.threads:
            environment["OMP_NUM_THREADS"] = str(job.threads)
        return environment | dict(self.environment)


def interpreter(job: AnyJob) -> list[str]:
    """What starts the worker's module: python, or what starts it once for each process."""
    if job.processes == 1:
        return [sys.executable]
    several = ["--standalone", "--nproc-per-node", str(job.processes), "--max-restarts", "0"]
    return [sys.executable, "-m", "torch.distributed.run", *several]


def follow(lines: Iterable[bytes], progress: ProgressSink) -> str | None:
    """Forward the worker's progress lines until it closes its output; the error that it told."""
    told: str | None = None
    for line in lines:
        if line.startswith(ERROR_PREFIX.encode()):
            told = str(orjson.loads(line[len(ERROR_PREFIX) :])["text"])
        if not line.startswith(PROGRESS_PREFIX.encode()):
            continue
        event: dict[str, Any] = orjson.loads(line[len(PROGRESS_PREFIX) :])
        progress(Progress(**event))
    return told


def end_group(process: subprocess.Popen[bytes], grace_s: float) -> None:
    """End what is left of the worker's process group: SIGTERM, ``grace_s``, SIGKILL."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            if process.poll() is None or sign is signal.SIGKILL:
                os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            continue
    if process.stdout is not None:
        process.stdout.close()


def failure(log: Path, code: int, method: str, told: str | None) -> TrainingError:
    """The worker's own error where it ``told`` one, else the end of what it wrote."""
    if told is not None:
        return TrainingError(told, where=f"{method} worker, {log}")
    with log.open(encoding="utf-8", errors="replace") as stream:
        tail = list(deque(stream, maxlen=SHOWN_LINES))
    return TrainingError(
        f"the {method} worker ended with exit code {code}",
        where=str(log),
        got="".join(tail).strip() or "no output",
        fix="Start the stage again: it continues from its last checkpoint.",
    )


def read_result(output: Path) -> TrainResult:
    """What the worker reported; ``TrainingError`` if it ended well but reported nothing."""
    path = output / RESULT_FILE
    try:
        return TrainResult.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise TrainingError("the worker left no result", where=str(path), got=str(error)) from error
