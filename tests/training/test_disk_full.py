"""A disk that fills up: one clear error, the last good checkpoint kept, and the run goes on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reward_harness.errors import StorageError, TrainingError
from reward_harness.progress import Progress, quiet
from reward_harness.rewards.base import BaseRM, Scored
from reward_harness.sections import ComputeSection
from reward_harness.training.context import write_rows
from reward_harness.training.launcher import LocalLauncher
from reward_harness.training.resume import ResumeFolder
from reward_harness.training.worker import run_job
from reward_harness.training.workload import checkpoint_bytes, model_bytes

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root mounts a disk of its own")
SIZE = 64 << 20


class Length(BaseRM):
    """Pays for characters."""

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [Scored(len(chat[-1]["content"]) / 10) for chat in batch]


class Disk:
    """A small file system of its own, with a file that fills it."""

    def __init__(self, root: Path) -> None:
        self.root, self.filler = root, root / "filler"

    def fill(self, but: int = 0) -> None:
        free = shutil.disk_usage(self.root).free - but
        with self.filler.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, free)

    def empty(self) -> None:
        self.filler.unlink()

    def fill_at(self, step: int, but: int = 0) -> Callable[[Progress], None]:
        def sink(event: Progress) -> None:
            if event.step == step and event.numbers and not self.filler.exists():
                self.fill(but)

        return sink


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    root = tmp_path / "disk"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(root)], check=True)
    yield Disk(root)
    subprocess.run(["umount", "--lazy", str(root)], check=True)


@pytest.mark.parametrize("method", ["sft", "bt", "ppo"])
def test_a_checkpoint_without_room_keeps_the_one_before(
    jobs, tmp_path: Path, disk: Disk, monkeypatch, method: str
) -> None:
    monkeypatch.setattr("reward_harness.training.reward_loop.SAVE_EVERY", 2)
    settings = {"max_steps": 5, "save_every": 2} if method != "bt" else {"max_steps": 5}
    job = getattr(jobs, method)(**settings)
    whole = job.model_copy(update={"resume_root": None})
    run_job(whole, tmp_path / "whole", quiet, reward=Length())
    job = job.model_copy(update={"resume_root": str(disk.root)})
    with pytest.raises(StorageError) as caught:
        run_job(job, tmp_path / "full", disk.fill_at(3, but=50_000), reward=Length())
    resume = ResumeFolder(disk.root / job.digest)
    assert resume.steps() == [2]
    files = [f.stat().st_size for f in resume.checkpoint(2).rglob("*")]
    assert sum(files) == pytest.approx(checkpoint_bytes(job), rel=0.5)
    error = caught.value
    assert error.where == str(resume.checkpoint(4))
    assert error.expected == f"about {checkpoint_bytes(job)} bytes"
    assert error.fix == (
        f"Make space and start it again: it goes on from step 2, {resume.checkpoint(2)}."
    )
    disk.empty()
    result = run_job(job, tmp_path / "again", quiet, reward=Length())
    assert result.resumed_from == 2
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_model_without_room_is_the_jobs_error_through_the_launcher(
    jobs, tmp_path: Path, disk: Disk
) -> None:
    job = jobs.sft(max_steps=3, save_every=2)
    job = job.model_copy(update={"resume_root": str(tmp_path / "resume")})
    output = disk.root / "out"
    with pytest.raises(TrainingError) as caught:
        LocalLauncher(ComputeSection()).run(job, output, disk.fill_at(2))
    pattern = r"(\S+): no space left on the disk; got '(\d+) bytes free'; (.*)"
    found = re.search(pattern, str(caught.value))
    assert found and found[1] == str(output) and int(found[2]) < 4096
    last = ResumeFolder(tmp_path / "resume" / job.digest).checkpoint(2)
    assert f"expected about {model_bytes(job)} bytes" in found[3]
    assert "goes on from step" in found[3] and str(last.parent) in found[3]


def test_metrics_without_room_say_how_many_bytes_they_are(disk: Disk) -> None:
    rows = [{"step": step, "loss": 1.0} for step in range(1, 1001)]
    disk.fill()
    path = disk.root / "metrics.jsonl"
    with pytest.raises(StorageError, match=f"^{path}: no space left .*about 23893 bytes"):
        write_rows(path, rows)
    disk.empty()
    write_rows(path, rows)
    assert path.stat().st_size == 23893
