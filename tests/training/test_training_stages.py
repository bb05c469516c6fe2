import json
import shutil
import subprocess
import sys

import pytest

from reward_harness.errors import GateRejected
from reward_harness.spec import read_experiment
from reward_harness.stages import training
from reward_harness.stages.make import Services, make
from reward_harness.training.launcher import InlineLauncher

MADE = (
    "preference_pairs",
    "ranked_prompts",
    "sft_examples",
    "rl_prompts",
    "rubric_population",
    "best_rubric",
    "rm_artifact",
    "rm_deployment",
)


@pytest.fixture
def smoke(workspace):
    spec = read_experiment(workspace.experiments, "smoke")

    def build(*stages: str, launcher=None, changed=spec):
        services = Services(launcher=launcher or InlineLauncher(spec.compute))
        return [make(workspace, changed, stage, services)[0] for stage in stages]

    build.spec, build.workspace = spec, workspace
    return build


def test_a_training_stage_publishes_model_rows_job_and_curves(smoke):
    *_, artifact = smoke("sft_examples", "sft_checkpoint")
    paths = {o.path for o in artifact.manifest.outputs}
    assert {
        "model/model.safetensors",
        "model/README.md",
        "metrics.jsonl",
        "job.json",
        "plot.png",
        "summary.md",
        "log/timing.jsonl",
        "log/job.json",
    } <= paths
    assert not [p for p in paths if p.endswith((".pt", ".pth", ".bin", ".pkl"))]
    assert artifact.manifest.metrics["loss_end"].direction == "min"
    assert artifact.manifest.notes["counts"]["records"] > 0
    assert artifact.manifest.cost.peak_memory_bytes > 1e8
    assert str(smoke.workspace.root) not in (artifact.path / "job.json").read_text()


def test_the_resume_state_is_kept_until_the_artifact_is_published(smoke, monkeypatch):
    resume = smoke.workspace.cache / "resume"
    policy = smoke.spec.policy
    section = policy.sft.model_copy(update={"max_steps": 3, "save_every": 1})
    changed = smoke.spec.model_copy(
        update={"policy": policy.model_copy(update={"sft": section, "dpo": None})}
    )

    def torn(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "plot_curves", torn)
    with pytest.raises(KeyboardInterrupt):
        smoke("sft_examples", "sft_checkpoint", changed=changed)
    (kept,) = resume.glob("*/checkpoint-2")
    assert kept.is_dir()
    monkeypatch.undo()
    monkeypatch.setenv("HARNESS_ROOT", str(smoke.workspace.root))
    *_, artifact = smoke("sft_checkpoint", changed=changed)
    assert artifact.manifest.notes["resumed_from"] in (2, 3)
    assert list(resume.iterdir()) == []


def test_the_same_recipe_made_twice_is_one_digest(smoke, tmp_path):
    first = smoke("preference_pairs", "bt_reward_model")[-1]
    shutil.rmtree(smoke.workspace.runs)
    again = smoke("preference_pairs", "bt_reward_model")[-1]
    assert first.digest == again.digest
    heldout = json.loads((again.path / "heldout.json").read_text())["test"]
    assert set(heldout) >= {"accuracy", "longer_wins", "shorter_wins", "lead_over_length"}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["served", "in_process"])
def test_policies_are_optimised_against_the_deployed_reward(smoke, how):
    policy = smoke.spec.policy
    sections = {
        name: getattr(policy, name).model_copy(update={"reward": how}) for name in ("grpo", "ppo")
    }
    changed = smoke.spec.model_copy(update={"policy": policy.model_copy(update=sections)})
    *_, sft, grpo, ppo = smoke(
        *MADE, "sft_checkpoint", "grpo_checkpoint", "ppo_checkpoint", changed=changed
    )
    (path,) = smoke.workspace.runs.glob("smoke/rm_deployment/*/deployment.json")
    deployment = json.loads(path.read_text())
    kind = {"served": "served", "in_process": "artifact"}[how]
    for artifact in (grpo, ppo):
        job = json.loads((artifact.path / "job.json").read_text())
        assert job["reward"] == {"digest": deployment["artifact_digest"], "kind": kind}
        assert artifact.manifest.metrics["reward_end"].n == 4
        assert artifact.manifest.inputs["sft_checkpoint"] == sft.digest


def test_a_reward_whose_gate_failed_trains_nothing(smoke, monkeypatch):
    from reward_harness.manifest import Manifest

    smoke(*MADE, "sft_checkpoint")

    def rejected(self, strict=False):
        raise GateRejected("agreement", value=0.4, threshold=0.5, artifact="toy")

    monkeypatch.setattr(Manifest, "require_gates", rejected)
    with pytest.raises(GateRejected, match=r"agreement"):
        smoke("grpo_checkpoint")


def test_stages_need_no_torch_until_they_train():
    code = "import sys, reward_harness.stages.training; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
