"""A worker whose reader is gone keeps what it has trained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reward_harness.training.launcher import WORKER
from reward_harness.training.resume import ResumeFolder
from reward_harness.training.worker import LAUNCHER_VARIABLE, STOPPED_EXIT


@pytest.mark.slow
def test_a_worker_whose_launcher_died_saves_the_step_it_is_at(jobs, tmp_path: Path):
    job = jobs.sft(max_steps=100_000, save_every=50_000)
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json())
    launcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    worker = subprocess.Popen(
        [sys.executable, "-m", WORKER, "--job", str(path), "--output", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {LAUNCHER_VARIABLE: str(launcher.pid)},
        start_new_session=True,
    )
    assert worker.stdout is not None and b"@progress" in worker.stdout.readline()
    worker.stdout.close()
    launcher.kill()
    launcher.wait()
    assert worker.wait(timeout=60) == STOPPED_EXIT
    saved = ResumeFolder(Path(job.resume_root) / job.digest).newest()
    assert saved is not None and saved[0] >= 1
