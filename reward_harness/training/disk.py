"""A disk that fills up while a job writes, told as one error that names where to go on from.

The libraries say it in three ways: ``OSError`` (files), ``SafetensorError`` (models) and torch's
``RuntimeError`` (states), the last without the cause: there the disk's free bytes decide.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from reward_harness.errors import StorageError
from reward_harness.training.workload import checkpoint_bytes, model_bytes

if TYPE_CHECKING:
    from reward_harness.training.job import AnyJob
    from reward_harness.training.resume import ResumeFolder

FULL = (errno.ENOSPC, errno.EDQUOT)
SAFETENSORS_FULL = f"(os error {errno.ENOSPC})"
TORCH_WRITER = "inline_container"
"""In the text of every error of torch's file writer."""

NEARLY_NOTHING = 1 << 20


@contextmanager
def room_for(path: Path, needed: int, resume: ResumeFolder | None = None) -> Generator[None]:
    """``StorageError`` if the ``needed`` bytes that are written to ``path`` do not fit."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _no_room(path, needed, resume) from error


@contextmanager
def room_for_job(job: AnyJob, output: Path, resume: ResumeFolder | None) -> Generator[None]:
    """``StorageError`` if the job's disk fills up: at its checkpoint, or else at its output.

    A torn checkpoint is deleted, and the last good one named.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        torn = resume.torn() if resume else None
        path = torn or output
        if isinstance(error, StorageError) or not _is_full(error, path):
            raise
        needed = checkpoint_bytes(job) if torn else model_bytes(job)
        raise _no_room(path, needed, resume) from error


def _is_full(error: Exception, path: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in FULL
    if SAFETENSORS_FULL in str(error):
        return True
    return TORCH_WRITER in str(error) and shutil.disk_usage(path).free < NEARLY_NOTHING


def _no_room(path: Path, needed: int, resume: ResumeFolder | None) -> StorageError:
    free = shutil.disk_usage(path if path.exists() else path.parent).free
    good = resume.newest() if resume else None  # deletes a torn one
    then = (
        f"goes on from step {good[0]}, {good[1]}" if good else "begins anew, there is no checkpoint"
    )
    return StorageError(
        "no space left on the disk",
        where=str(path),
        got=f"{free} bytes free",
        expected=f"about {needed} bytes",
        fix=f"Make space and start it again: it {then}.",
    )
