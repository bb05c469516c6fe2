"""Rollouts by a server that speaks vLLM's protocol (``vllm_double``): the adapters of the moment, a
seed for each response, and nothing left behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from reward_harness.errors import SpecError, TrainingError
from reward_harness.models.chat import encode_prompt
from reward_harness.models.embedded import load_policy_folder
from reward_harness.models.generation import generate_rows
from reward_harness.progress import quiet
from reward_harness.rewards.base import BaseRM, Scored
from reward_harness.sections import LoraSpec
from reward_harness.training import launcher, vllm_rollouts
from reward_harness.training.context import StopRequest, TrainContext
from reward_harness.training.policy_model import lora_adapted
from reward_harness.training.worker import run_job
from reward_harness.training.workload import workload_of
from tests.training.conftest import prompts
from tests.training.vllm_double import install

pytestmark = pytest.mark.slow
LORA = LoraSpec(r=4, alpha=8, dropout=0.0)


class Length(BaseRM):
    """Pays for characters."""

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [Scored(len(chat[-1]["content"]) / 10) for chat in batch]


@pytest.fixture
def vllm(tmp_path, monkeypatch) -> Path:
    """The folder of a ``vllm`` that is found first."""
    folder = install(tmp_path / "bin")
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return folder


def context_of(folder: Path) -> TrainContext:
    return TrainContext(folder, "cpu", None, quiet, StopRequest())


def is_gone(pid: int) -> bool:
    """Whether the process ends within ten seconds."""
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


def test_the_server_samples_from_the_adapters_of_the_moment(jobs, vllm, tmp_path):
    job = jobs.ppo(lora=LORA, rollouts="vllm")
    plain, tokenizer = load_policy_folder(Path(job.model.path))
    policy = lora_adapted(plain, LORA)
    rows = [
        encode_prompt(tokenizer, [m.model_dump() for m in one.prompt])[-32:] for one in prompts()
    ]
    rows = [*rows[:3], rows[0]]
    with vllm_rollouts.vllm_rollouts(job, tokenizer, context_of(tmp_path)) as sample:
        assert sample is not None
        drawn = sample(policy, rows, 3)
        assert drawn == sample(policy, rows, 3) != sample(policy, rows, 4)
        assert drawn[0] != drawn[3]  # the same prompt, another seed
        sample.temperature, found = 0.0, []
        for number in range(3):
            torch.manual_seed(number)
            for name, weight in policy.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(weight, std=0.5)
            own = generate_rows(
                policy, tokenizer, rows, max_new_tokens=6, temperature=0.0, seed=0, batch_size=4
            )
            assert sample(policy, rows, 0) == own
            found.append(tuple(one.token_ids for one in own))
        assert len(set(found)) == 3
        assert [path.name for path in sample.adapters.iterdir()] == [str(sample.loaded)]
    assert is_gone(int((vllm / "pid").read_text()))
    assert not sample.adapters.exists()


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_a_job_that_asks_for_vllm_is_rolled_out_by_it(jobs, vllm, tmp_path, method):
    job = getattr(jobs, method)(
        lora=LORA, rollouts="vllm", learning_rate=1e-2, temperature=1.0, max_steps=2
    )
    result = run_job(job, tmp_path / "out", quiet, reward=Length())
    assert result.steps == 2
    rows = [json.loads(x) for x in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    kl = [row["kl_k1" if method == "ppo" else "kl"] for row in rows]
    assert kl[0] == pytest.approx(0.0, abs=1e-4) and abs(kl[1]) > 1e-4  # its adapters had moved
    again = run_job(
        job.model_copy(update={"resume_root": None}), tmp_path / "again", quiet, reward=Length()
    )
    assert again.metrics == result.metrics
    assert is_gone(int((vllm / "pid").read_text()))


def test_without_vllm_the_error_says_what_to_install(jobs, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpecError, match=r"policy\.ppo\.rollouts.*Install vLLM.*rollouts: own"):
        run_job(jobs.ppo(lora=LORA, rollouts="vllm"), tmp_path / "out", quiet, reward=Length())


def test_a_server_that_does_not_start_is_told_in_its_own_words(jobs, vllm, tmp_path):
    (vllm / "broken").touch()
    with pytest.raises(TrainingError, match=r"did not start.*exit code 1.*no room for the cache"):
        run_job(jobs.ppo(lora=LORA, rollouts="vllm"), tmp_path / "out", quiet, reward=Length())


def test_what_the_server_refuses_ends_the_job(jobs, vllm, tmp_path, monkeypatch):
    job = jobs.ppo(lora=LORA, rollouts="vllm")
    monkeypatch.setattr(vllm_rollouts, "RANKS", (1,))
    with pytest.raises(TrainingError, match=r"load_lora_adapter.*HTTP 400.*exceeds --max-lora"):
        run_job(job, tmp_path / "out", quiet, reward=Length())
    assert is_gone(int((vllm / "pid").read_text()))


def test_the_server_ends_with_a_worker_that_was_killed(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from reward_harness.training.vllm_rollouts import _start\n"
        "_start(['sh', '-c', 'sleep 600 & echo $! > grandchild; wait'], Path('log'))\n"
        "time.sleep(600)\n"
    )
    project = Path(__file__).parents[2]
    worker = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(project)}
    )
    told = tmp_path / "grandchild"
    while not (told.exists() and told.read_text().strip()):
        assert worker.poll() is None
        time.sleep(0.05)
    grandchild = int(told.read_text())
    assert psutil.pid_exists(grandchild)
    worker.kill()
    worker.wait()
    assert is_gone(grandchild)


def test_the_guard_leaves_the_servers_share_and_counts_no_cache(jobs, monkeypatch):
    job = jobs.grpo(lora=LORA, rollouts="vllm", vllm_memory=0.25)
    assert workload_of(job).cache == 0 < workload_of(jobs.grpo(lora=LORA)).cache
    given = []
    monkeypatch.setattr(launcher, "available_bytes", lambda device: 1000)
    monkeypatch.setattr(launcher, "total_bytes", lambda device: 2000)
    monkeypatch.setattr(
        launcher, "require_job_memory", lambda job, free, device: given.append(free)
    )
    for one in (job, jobs.grpo(lora=LORA)):
        launcher.guard(one, launcher.ComputeSection(memory_fraction=0.9))
    assert given == [400, 900]
