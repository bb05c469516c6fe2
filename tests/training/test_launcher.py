import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from reward_harness.errors import TrainingError
from reward_harness.progress import Progress, quiet
from reward_harness.sections import ComputeSection
from reward_harness.training import launcher as launchers
from reward_harness.training.launcher import InlineLauncher, LocalLauncher, launcher_for
from reward_harness.training.worker import run_job

STUB = """
import os, signal, subprocess, sys, time
sys.path.insert(0, os.environ["STUB_PATH"])
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("some library's chatter", flush=True)
print('@progress {"stage":"stub","step":1,"total":2,"message":"","numbers":{"pid":%d,"child":%d}}'
      % (os.getpid(), child.pid), flush=True)
BODY
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A launcher whose worker is a small script with a child of its own."""

    def make(body: str, **settings) -> LocalLauncher:
        (tmp_path / "stub_worker.py").write_text(STUB.replace("BODY", body))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        environment = {"STUB_PATH": str(tmp_path)}
        return LocalLauncher(worker="stub_worker", environment=environment, **settings)

    return make


def gone(pid: float, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == "zombie":
            return True
        time.sleep(0.05)
    return False


def test_the_compute_section_names_the_launcher():
    assert isinstance(launcher_for(ComputeSection(launcher="inline")), InlineLauncher)
    assert isinstance(launcher_for(ComputeSection(launcher="local")), LocalLauncher)


def test_progress_is_forwarded_and_chatter_is_not(jobs, tmp_path, stub):
    events: list[Progress] = []
    with pytest.raises(TrainingError, match="left no result"):
        stub("child.kill()").run(jobs.sft(), tmp_path / "out", events.append)
    assert [(e.stage, e.step, e.total) for e in events] == [("stub", 1, 2)]


def test_an_interrupt_ends_the_whole_process_group(jobs, tmp_path, stub):
    seen: dict[str, float] = {}

    def interrupt(event: Progress) -> None:
        seen.update(event.numbers)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stub("time.sleep(60)", grace_s=5.0).run(jobs.sft(), tmp_path / "out", interrupt)
    assert gone(seen["pid"]) and gone(seen["child"])


def test_a_worker_that_ignores_sigterm_is_killed_after_the_grace_period(jobs, tmp_path, stub):
    seen: dict[str, float] = {}

    def interrupt(event: Progress) -> None:
        seen.update(event.numbers)
        if event.step == 2:
            raise KeyboardInterrupt

    stubborn = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        'print(\'@progress {"stage":"s","step":2,"total":2}\', flush=True)\ntime.sleep(60)'
    )
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        stub(stubborn, grace_s=0.5).run(jobs.sft(), tmp_path / "out", interrupt)
    assert 0.5 < time.monotonic() - started < 20
    assert gone(seen["pid"]) and gone(seen["child"])


def test_a_crash_is_told_with_the_end_of_its_log(jobs, tmp_path, stub):
    with pytest.raises(TrainingError, match="exit code 7") as raised:
        stub("child.kill(); print('it burns', file=sys.stderr); sys.exit(7)").run(
            jobs.sft(), tmp_path / "out", quiet
        )
    assert "it burns" in str(raised.value) and "worker.log" in str(raised.value)


def test_a_job_that_needs_more_than_its_share_does_not_start(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(launchers, "available_bytes", lambda device: 10_000_000)
    for launcher in (InlineLauncher(), LocalLauncher()):
        with pytest.raises(TrainingError, match="not enough memory"):
            launcher.run(jobs.sft(), tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_subprocess_gives_what_the_same_job_gives_inline(jobs, tmp_path):
    job = jobs.sft().model_copy(update={"resume_root": None})
    run_job(job, tmp_path / "inline", quiet)
    events: list[Progress] = []
    result = LocalLauncher().run(job, tmp_path / "local", events.append)
    assert len(events) == 6 and result.steps == 6 and result.peak_memory_bytes > 1e8
    ours, theirs = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("inline", "local")
    )
    assert all((ours[name] - theirs[name]).abs().max() < 1e-6 for name in ours)
    assert (tmp_path / "local" / "log" / "worker.log").is_file()


@pytest.mark.slow
def test_the_workers_own_error_is_raised_here(jobs, tmp_path):
    job = jobs.sft().model_copy(update={"resume_root": None})
    Path(job.train.path).write_text('{"no": "record"}\n')
    with pytest.raises(TrainingError, match=r"sft\.jsonl") as raised:
        LocalLauncher().run(job, tmp_path / "out", quiet)
    assert "worker.log" in str(raised.value)


@pytest.mark.slow
def test_a_worker_outlives_neither_its_launcher_nor_a_step(jobs, tmp_path):
    job = jobs.sft(max_steps=100_000, save_every=1000)
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json())
    code = (
        "import sys; from pathlib import Path\n"
        "from reward_harness.training.job import read_job\n"
        "from reward_harness.training.launcher import LocalLauncher\n"
        f"LocalLauncher().run(read_job(Path({str(path)!r})), Path({str(tmp_path / 'out')!r}), "
        "lambda e: print(e.step, flush=True))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ}
    )
    assert parent.stdout is not None and parent.stdout.readline().strip() == b"1"
    (worker,) = psutil.Process(parent.pid).children()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(worker.pid, within_s=30)
