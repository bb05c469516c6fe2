"""The worker that executes one training job: knows files, nothing of who started it.

    python -m reward_harness.training.worker --job log/job.json --output DIR

writes ``model/``, ``metrics.jsonl`` (one row a step, no times), ``job.json`` and, under ``log/``,
``timing.jsonl`` and ``result.json``. Progress goes to standard output as lines that start with
``@progress`` and hold one JSON event; a failure's last line there is ``@error`` with the error's
kind and text (standard error goes to a file, on a disk that may be full). SIGTERM saves a
checkpoint after the running step; when the launcher (process ``HARNESS_LAUNCHER_PID``) dies, the
worker stops likewise.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from reward_harness.environment import peak_memory_bytes
from reward_harness.errors import HarnessError, TrainingError
from reward_harness.progress import Progress, ProgressSink
from reward_harness.training.distributed import rank
from reward_harness.training.job import RESULT_FILE, RewardRef, TrainResult, read_job, write_job

if TYPE_CHECKING:
    from reward_harness.rewards.base import BaseRM
    from reward_harness.training.context import MethodResult, StopRequest, TrainContext
    from reward_harness.training.job import AnyJob

METHODS: Mapping[str, str] = {
    "sft": "reward_harness.training.sft",
    "bt": "reward_harness.training.reward_model",
    "ensemble": "reward_harness.training.reward_model",
    "rubric": "reward_harness.training.rubric_model",
    "process": "reward_harness.training.process_model",
    "dpo": "reward_harness.training.dpo",
    "grpo": "reward_harness.training.grpo",
    "ppo": "reward_harness.training.ppo_job",
    "iterative_dpo": "reward_harness.training.iterative_dpo",
}
PROGRESS_PREFIX = "@progress "
ERROR_PREFIX = "@error "
LAUNCHER_VARIABLE = "HARNESS_LAUNCHER_PID"
ORPHAN_GRACE_S = 60.0
STOPPED_EXIT = 143
HACKED_EXIT = 4
"""The job ended early with a result: the policy hacks its reward, its checkpoint is gated out."""

logger = logging.getLogger(__name__)


def run_job(
    job: AnyJob,
    output: Path,
    progress: ProgressSink,
    *,
    reward: BaseRM | None = None,
    stop: StopRequest | None = None,
) -> TrainResult:
    """Execute ``job`` in this process; ``reward`` overrides the one that the job names."""
    import torch

    from reward_harness.models.silence import quiet_libraries
    from reward_harness.scaling.memory import resolve_device
    from reward_harness.training.context import StopRequest, TrainContext
    from reward_harness.training.disk import room_for_job
    from reward_harness.training.resume import ResumeFolder
    from reward_harness.training.tracking import RowTracker, open_tracker

    quiet_libraries()
    started = time.monotonic()
    write_job(job, output)
    first = rank() == 0  # the others work beside it on the same folder
    tracker = open_tracker(job, output) if first else RowTracker()
    threads = torch.get_num_threads()
    torch.set_num_threads(job.threads or threads)
    opened = open_reward(job) if reward is None else None
    context = TrainContext(
        output=output,
        device=resolve_device(job.device),
        resume=ResumeFolder(Path(job.resume_root) / job.digest) if job.resume_root else None,
        progress=progress,
        stop=stop or StopRequest(),
        reward=reward or opened,
        tracker=tracker,
    )
    method: Any = importlib.import_module(METHODS[job.method])
    try:
        held = context.resume.held() if context.resume and first else nullcontext()
        with held, room_for_job(job, output, context.resume):
            found: MethodResult = method.train(job, context)
            return _report(job, context, found, time.monotonic() - started)
    finally:
        tracker.close()
        torch.set_num_threads(threads)
        if opened is not None:
            opened.close()


def open_reward(job: AnyJob) -> BaseRM | None:
    """The reward an on-policy job names; its digest is checked by whoever answers."""
    reference: RewardRef | None = getattr(job, "reward", None)
    return None if reference is None else open_reference(reference)


def open_reference(reference: RewardRef) -> BaseRM:
    """The reward that ``reference`` names; ``TrainingError`` if it has another digest."""
    path = Path(reference.path or "")
    if reference.kind == "served":
        from reward_harness.rewards.remote import RemoteRM

        return RemoteRM(reference.url or "", expect_digest=reference.digest)
    if reference.kind == "classifier":
        from reward_harness.models.folders import model_digest
        from reward_harness.rewards.classifier import ClassifierRM

        opened: BaseRM = ClassifierRM.load(path)
        digest = model_digest(path)
    else:
        from reward_harness.rewards.load import load_rm

        opened = load_rm(path)
        digest = opened.digest
    if digest != reference.digest:
        raise TrainingError(
            "the reward is not the one the job names",
            where=reference.path,
            got=digest,
            expected=reference.digest,
        )
    return opened


def _report(job: AnyJob, context: TrainContext, found: MethodResult, seconds: float) -> TrainResult:
    from reward_harness.training.context import write_rows

    write_rows(context.output / "metrics.jsonl", found.rows, context.resume)
    result = TrainResult(
        method=job.method,
        steps=len(found.rows),
        metrics=dict(found.metrics),
        counts={name: value for name, value in found.card.items() if isinstance(value, int)},
        device=context.device,
        seconds=round(seconds, 3),
        peak_memory_bytes=peak_memory_bytes(),
        tokens_per_second=found.tokens_per_second,
        resumed_from=found.resumed_from,
        hacking=found.hacking,
    )
    (context.output / RESULT_FILE).write_text(result.model_dump_json(indent=1), encoding="utf-8")
    return result


def tell(event: Progress) -> None:
    """Write one event for the launcher."""
    body = {
        "stage": event.stage,
        "step": event.step,
        "total": event.total,
        "message": event.message,
        "numbers": dict(event.numbers),
        "alert": event.alert,
    }
    _say(PROGRESS_PREFIX + orjson.dumps(body).decode())
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in event.numbers.items())
    level = logging.WARNING if event.alert else logging.INFO
    text = event.message or numbers
    logger.log(level, "%s step %d of %d: %s", event.stage, event.step, event.total, text)


def _say(line: str) -> None:
    """One line for the launcher; without one, the step that runs must still be saved."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell_nobody(event: Progress) -> None:
    """The progress of a process beside the first: it is the same."""


def watch_launcher(stop: StopRequest) -> None:
    """Stop after the running step when the launcher is gone; end outright after a grace period."""
    named = os.environ.get(LAUNCHER_VARIABLE)
    if named is None:
        return
    import psutil

    parent = os.getppid()  # the launcher itself, or what starts several processes for it
    try:
        launcher: psutil.Process | None = psutil.Process(int(named))
    except psutil.NoSuchProcess:
        launcher = None

    def lives() -> bool:
        return (
            os.getppid() == parent
            and launcher is not None
            and launcher.is_running()
            and launcher.status() != psutil.STATUS_ZOMBIE
        )

    def watch() -> None:
        while lives():
            time.sleep(0.5)
        stop.requested = True
        time.sleep(ORPHAN_GRACE_S)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True, name="launcher-watch").start()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job named on the command line; returns the exit code."""
    from reward_harness.training.context import StopRequest

    parser = argparse.ArgumentParser(prog="reward_harness.training.worker", description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="a job file (log/job.json)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    options = parser.parse_args(arguments)
    output: Path = options.output
    if rank():
        output = output / "log" / f"rank-{rank()}"
    stop = StopRequest()
    watch_launcher(stop)
    signal.signal(signal.SIGTERM, lambda *_: setattr(stop, "requested", True))
    try:
        result = run_job(read_job(options.job), output, tell_nobody if rank() else tell, stop=stop)
    except HarnessError as error:
        body = {"kind": type(error).__name__, "text": str(error)}
        _say(ERROR_PREFIX + orjson.dumps(body).decode())
        return STOPPED_EXIT if stop.requested else error.exit_code
    if result.hacking and result.hacking.stopped:
        return HACKED_EXIT
    return 0


if __name__ == "__main__":
    sys.exit(main())
