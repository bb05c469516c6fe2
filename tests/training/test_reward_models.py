"""Rubric regression, ensembles, process rewards and their outcome twin, on tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from reward_harness.data.files import write_records
from reward_harness.data.records import StepwiseExample
from reward_harness.data.scored import ScoredResponse, read_scored, write_scored
from reward_harness.data.steps import matched_solutions, matched_steps
from reward_harness.errors import DataError, SpecError, TrainingError
from reward_harness.hashing import digest_file
from reward_harness.models.reward_head import RewardModel
from reward_harness.models.step_head import encode_steps, step_probabilities
from reward_harness.progress import quiet
from reward_harness.rewards.base import Scored
from reward_harness.rewards.load import load_rm
from reward_harness.rm.artifact import write_artifact
from reward_harness.rm.package import describe_ensemble, describe_process, link_tree
from reward_harness.sections import (
    EnsembleSection,
    LoraSpec,
    ProcessSection,
    RubricModelSection,
)
from reward_harness.spec import read_experiment
from reward_harness.stages.make import Services, make
from reward_harness.stages.table import STAGES
from reward_harness.training.bradley_terry import warm_head
from reward_harness.training.job import DataFile, EnsembleJob, ModelRef, ProcessJob, RubricModelJob
from reward_harness.training.launcher import InlineLauncher
from reward_harness.training.order import drawn
from reward_harness.training.process_model import flagged_shares
from reward_harness.training.reward_loop import RewardRun
from reward_harness.training.reward_model import BradleyTerry, encode_pair, penalised
from reward_harness.training.rubric_model import regression_loss, ridge_head
from reward_harness.training.worker import run_job
from tests.training.conftest import CAUSAL, ENCODER, TOPICS, pairs, stop_at, user


def plain(job):
    return job.model_copy(update={"resume_root": None})


def fields(job) -> dict:
    return {name: getattr(job, name) for name in ("experiment", "seed", "device", "resume_root")}


@pytest.fixture
def ensemble(jobs):
    def build(**settings) -> EnsembleJob:
        bt = jobs.bt()
        section = {"max_steps": 3, "batch_size": 4, "max_length": 64, "members": 3, **settings}
        files = {name: getattr(bt, name) for name in ("model", "train", "validation", "test")}
        return EnsembleJob(
            **fields(bt), settings=EnsembleSection(backbone=ENCODER, **section), **files
        )

    return build


def solution(number: int, wrong_at: int | None, steps: int = 3) -> StepwiseExample:
    texts = [f"{TOPICS[(number + i) % 8]} is very long" for i in range(steps)]
    labels = [1] * steps
    if wrong_at is not None:
        texts[wrong_at], labels[wrong_at] = "no", -1
    name = f"{number}-{wrong_at}"
    return StepwiseExample(example_id=name, prompt=[user(number)], steps=texts, labels=labels)


@pytest.fixture
def process(jobs, tmp_path):
    def build(model=ENCODER, **settings) -> ProcessJob:
        examples = [solution(i, at) for i in range(8) for at in (None, i % 3)]
        write_records(tmp_path / "steps.jsonl", examples)
        data = DataFile(
            path=str(tmp_path / "steps.jsonl"), sha256=digest_file(tmp_path / "steps.jsonl")
        )
        reference = jobs.bt().model if model is ENCODER else jobs.sft().model
        section = {"max_steps": 8, "batch_size": 4, "max_length": 64, **settings}
        return ProcessJob(
            **fields(jobs.bt()),
            settings=ProcessSection(backbone=model, **section),
            model=reference,
            train=data,
            test=data,
        )

    return build


def test_mean_less_lambda_times_the_unbiased_spread():
    assert penalised([[1.0], [2.0], [3.0]], 0.5) == pytest.approx([1.5])
    assert penalised([[1.0, 4.0], [1.0, 2.0]], 1.0) == pytest.approx([1.0, 3 - 2**0.5])


def test_members_differ_in_their_seed_and_are_measured_alone_and_together(ensemble, tmp_path):
    result = run_job(plain(ensemble()), tmp_path, quiet)
    weights = [
        RewardModel.load(tmp_path / "model" / f"member-{i}").head.weight.detach() for i in range(3)
    ]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["member"]) for row in rows] == [
        (3 * m + i, m) for m in range(3) for i in (1, 2, 3)
    ]
    found = result.metrics
    assert found["heldout_accuracy"].n == 8 and found["heldout_members_std"].value > 0
    assert {f"heldout_member_{i}_accuracy" for i in range(3)} <= found.keys()


def test_the_first_member_is_the_plain_model_of_that_seed(ensemble, jobs, tmp_path):
    run_job(plain(ensemble(members=2)), tmp_path / "ensemble", quiet)
    run_job(plain(jobs.bt(max_steps=3)), tmp_path / "one", quiet)
    one = RewardModel.load(tmp_path / "one" / "model").head.weight
    first = RewardModel.load(tmp_path / "ensemble" / "model" / "member-0").head.weight
    assert torch.equal(one, first)


def test_an_ensemble_that_was_stopped_ends_with_the_same_weights(ensemble, tmp_path, monkeypatch):
    monkeypatch.setattr("reward_harness.training.reward_loop.SAVE_EVERY", 1)
    job = ensemble(members=2).model_copy(update={"resume_root": str(tmp_path / "resume")})
    run_job(plain(job), tmp_path / "whole", quiet)
    press, stop = stop_at(4)
    with pytest.raises(TrainingError, match="stopped by a signal"):
        run_job(job, tmp_path / "torn", press, stop=stop)
    result = run_job(job, tmp_path / "again", quiet)
    assert result.resumed_from is not None
    for i in range(2):
        name = f"model/member-{i}/model.safetensors"
        assert digest_file(tmp_path / "whole" / name) == digest_file(tmp_path / "again" / name)


def test_a_packaged_ensemble_scores_as_its_members_say(ensemble, tmp_path):
    run_job(plain(ensemble(members=2)), tmp_path / "made", quiet)
    link_tree(tmp_path / "made" / "model", tmp_path / "rm" / "model")
    write_artifact(describe_ensemble(tmp_path / "rm" / "model", 0.5), tmp_path / "rm")
    chat = [user(0).model_dump(), {"role": "assistant", "content": "water is very long"}]
    (result,) = load_rm(tmp_path / "rm").score_batch_results([chat])
    members = [
        RewardModel.load(tmp_path / "rm" / "model" / f"member-{i}").score_conversations([chat])
        for i in range(2)
    ]
    assert isinstance(result, Scored)
    assert result.value == pytest.approx(penalised(members, 0.5)[0], abs=1e-6)


def test_the_squared_error_and_its_ridge_solution():
    found = regression_loss(torch.tensor([0.5, 1.0]), torch.tensor([0.0, 1.0]))
    assert float(found) == pytest.approx(0.125)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 3, generator=generator)
    truth = torch.tensor([0.2, -0.1, 0.0])
    head = ridge_head(features, features @ truth, ridge=1e-6)
    assert head.tolist() == pytest.approx(truth.tolist(), abs=1e-4)


def test_a_score_outside_the_unit_interval_is_refused(tmp_path):
    row = ScoredResponse(response_id="a", prompt=[user(0)], response="x", score=0.5)
    write_scored(tmp_path / "a.jsonl", [row])
    assert read_scored(tmp_path / "a.jsonl") == [row]
    text = (tmp_path / "a.jsonl").read_text().replace('"score":0.5', '"score":1.5')
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"a\.jsonl:1.*score"):
        read_scored(tmp_path / "a.jsonl")


def test_a_rubric_model_reproduces_scores_and_is_compared_on_the_same_pairs(jobs, tmp_path):
    bt = jobs.bt(max_steps=2)
    run_job(plain(bt), tmp_path / "bt", quiet)
    rows = [
        ScoredResponse(response_id=f"{i}{s}", prompt=[user(i)], response=text, score=score)
        for i, topic in enumerate(TOPICS)
        for s, text, score in (
            ("+", f"{topic} is very long and people use it", 0.9),
            ("-", f"no {topic}", 0.1),
        )
    ]
    write_scored(tmp_path / "scored.jsonl", rows)
    data = DataFile(
        path=str(tmp_path / "scored.jsonl"), sha256=digest_file(tmp_path / "scored.jsonl")
    )
    job = RubricModelJob(
        **fields(plain(bt)),
        model=bt.model,
        settings=RubricModelSection(
            backbone=ENCODER, max_steps=30, batch_size=8, max_length=64, learning_rate=1e-3
        ),
        train=data,
        validation=data,
        test=bt.test,
        rival=ModelRef(name="bt", path=str(tmp_path / "bt" / "model"), digest="0" * 64),
    )
    found = run_job(job, tmp_path / "rubric", quiet).metrics
    assert found["validation_mse"].value < 0.3 * found["validation_mse_of_mean"].value
    assert found["validation_mse_of_mean"].value == pytest.approx(0.16)
    assert found["heldout_accuracy"].value == 1.0
    lead = found["heldout_accuracy"].value - found["heldout_bt_accuracy"].value
    assert found["heldout_lead_over_bt"].value == pytest.approx(lead)


def test_at_every_position_as_many_wrong_as_right_steps_are_kept():
    examples = [solution(i, 2 if i % 4 else None) for i in range(40)]
    kept = matched_steps(examples, seed=0)
    for place in range(3):
        labels = [e.labels[place] for e in examples if kept[e.example_id][place]]
        assert labels.count(1) == labels.count(-1)
    assert sum(kept[e.example_id][2] for e in examples) == 20
    assert not any(flags[0] or flags[1] for flags in kept.values())
    assert matched_steps(list(reversed(examples)), seed=0) == kept


def test_as_many_wrong_as_right_solutions_of_every_length_are_kept():
    examples = [solution(i, None, steps=2 + i % 2) for i in range(8)]
    examples += [solution(20 + i, 1, steps=2) for i in range(3)]
    kept = matched_solutions(examples, seed=0)
    assert sorted((len(e.steps), min(e.labels)) for e in kept) == [(2, -1)] * 3 + [(2, 1)] * 3


@pytest.mark.parametrize("model", [ENCODER, CAUSAL])
def test_the_score_of_a_step_does_not_depend_on_what_follows(jobs, model):
    folder = jobs.bt().model.path if model is ENCODER else jobs.sft().model.path
    scorer = RewardModel.from_backbone(Path(folder), max_length=96)
    torch.nn.init.normal_(scorer.head.weight, generator=torch.Generator().manual_seed(0))
    prompt = [user(0).model_dump()]
    steps = ["water is long", "people use water", "no way"]
    whole = step_probabilities(scorer, encode_steps(scorer, prompt, steps))
    part = step_probabilities(scorer, encode_steps(scorer, prompt, steps[:2]))
    assert len(whole) == 3 and whole[:2] == pytest.approx(part, abs=1e-5)
    short = RewardModel(scorer.backbone, scorer.tokenizer, scorer.settings)
    short.settings = scorer.settings.model_copy(update={"max_length": 16})
    short.head = scorer.head
    assert len(step_probabilities(short, encode_steps(short, prompt, steps * 4))) == 12


@pytest.mark.parametrize("model", [ENCODER, CAUSAL])
def test_a_process_model_finds_the_wrong_step_and_scores_as_packaged(process, tmp_path, model):
    job = plain(process(model, learning_rate=3e-3, max_steps=20))
    found = run_job(job, tmp_path / "made", quiet).metrics
    assert found["heldout_step_accuracy"].value > 0.9
    assert found["heldout_flagged"].value > 0.8 and found["heldout_flagged"].n == 8
    assert found["heldout_flagged_lead"].value == pytest.approx(
        found["heldout_flagged"].value - found["heldout_outcome_flagged"].value
    )
    link_tree(tmp_path / "made" / "model", tmp_path / "rm" / "model")
    write_artifact(describe_process(tmp_path / "rm" / "model", "min", "\n"), tmp_path / "rm")
    example = solution(1, 1)
    rm = load_rm(tmp_path / "rm")
    steps = rm.score_steps([user(1).model_dump()], "\n".join(example.steps))
    assert len(steps) == 3 and min(steps) == steps[1] < 0.5
    assert steps[0] > steps[1] + 0.2
    chat = [user(1).model_dump(), {"role": "assistant", "content": "\n".join(example.steps)}]
    assert rm.score(chat) == pytest.approx(min(steps), abs=1e-5)


def test_without_a_position_that_has_both_labels_there_is_one_clear_error(process, tmp_path):
    job = plain(process())
    write_records(Path(job.train.path), [solution(i, None) for i in range(4)])
    with pytest.raises(TrainingError, match="no position has both"):
        run_job(job, tmp_path / "out", quiet)


def test_thresholds_flag_the_same_share_of_right_solutions():
    right = np.array([True] * 10 + [False] * 10)
    sharp = np.concatenate([np.linspace(0.5, 1, 10), np.linspace(0, 0.4, 10)])
    blind = np.concatenate([np.linspace(0, 1, 10), np.linspace(0, 1, 10)])
    prompts = [str(number) for number in range(20)]
    found = flagged_shares([sharp, blind], right, prompts, 0.1, np.random.default_rng(0))
    assert found["flagged"].value == 1.0 and found["outcome_flagged"].value == pytest.approx(0.1)
    assert found["flagged_lead"].value == pytest.approx(0.9)
    assert found["flagged_lead"].ci_low is not None and found["flagged_lead"].ci_low > 0.3


def test_the_solutions_of_a_prompt_are_resampled_together():
    # four prompts, each of ten right and ten wrong solutions that fare alike: four observations
    prompts = [str(number) for number in range(4) for _ in range(20)]
    right = np.array([True, False] * 40)
    level = np.repeat([0.1, 0.2, 0.8, 0.9], 20)
    scores = np.where(right, 0.5 + level / 10, level)
    found = flagged_shares([scores], right, prompts, 0.1, np.random.default_rng(0))["flagged"]
    alone = [str(number) for number in range(80)]
    apart = flagged_shares([scores], right, alone, 0.1, np.random.default_rng(0))["flagged"]
    assert found.value == apart.value == 0.5 and found.n == 40
    assert (found.ci_low, found.ci_high) == (0.0, 1.0)
    assert apart.ci_low > 0.3 and apart.ci_high < 0.7
    # a resample without a right or without a wrong solution says nothing
    few = flagged_shares(
        [np.array([0.9, 0.1])], np.array([True, False]), ["a", "b"], 0.1, np.random.default_rng(0)
    )
    assert few["flagged"].value == few["flagged"].ci_low == 1.0


def test_adapters_train_a_reward_model_and_are_merged(jobs, tmp_path):
    lora = LoraSpec(r=2, alpha=4, targets=["query", "value"])
    job = plain(jobs.bt(max_steps=4, lora=lora, learning_rate=1e-2))
    run_job(job, tmp_path, quiet)
    before = RewardModel.from_backbone(Path(job.model.path), max_length=64).backbone.state_dict()
    after = RewardModel.load(tmp_path / "model").backbone.state_dict()
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(".query." in name or ".value." in name for name in moved)


def test_adapters_for_modules_that_are_not_there_are_a_spec_error(jobs, tmp_path):
    job = plain(jobs.bt(max_steps=1, lora=LoraSpec(targets=["nowhere"])))
    with pytest.raises(SpecError, match="targets are not in the model"):
        run_job(job, tmp_path, quiet)


def graded(job, margin: float | None):
    """The job on the same pairs, each with this margin."""
    path = Path(job.train.path).with_name(f"graded-{margin}.jsonl")
    write_records(path, [pair.model_copy(update={"margin": margin}) for pair in pairs()])
    data = DataFile(path=str(path), sha256=digest_file(path))
    return plain(job).model_copy(update={"train": data})


def test_a_pair_with_a_margin_is_learned_until_the_rewards_differ_by_it(jobs, tmp_path):
    gaps = {}
    for name, margin, asked in (("plain", 3.0, False), ("wide", 3.0, True), ("none", 0.0, True)):
        job = graded(jobs.bt(margin=asked, max_steps=8, learning_rate=1e-3), margin)
        run_job(job, tmp_path / name, quiet)
        rows = [json.loads(r) for r in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        gaps[name] = [row["margin"] for row in rows]
    assert gaps["plain"] == gaps["none"]
    assert gaps["wide"][0] > 1.5 * gaps["plain"][0] and gaps["wide"][-1] > gaps["plain"][-1] + 0.5


@pytest.mark.parametrize("model", [ENCODER, CAUSAL])
def test_the_loss_of_a_pair_takes_its_margin_off_the_difference(jobs, model):
    folder = jobs.bt().model.path if model is ENCODER else jobs.sft().model.path
    scorer = RewardModel.from_backbone(Path(folder), max_length=96)
    pair = pairs()[0].model_copy(update={"margin": 1.0})
    share = model is CAUSAL
    found = [encode_pair(scorer, pair, share, asked) for asked in (True, False)]
    with torch.no_grad():
        losses = [float(BradleyTerry(0.0).loss(scorer, [one])[0]) for one in found]
    # an untrained head gives both sides 0: -log sigmoid(-1) and -log sigmoid(0)
    assert losses == pytest.approx([1.313262, 0.693147], abs=1e-6)
    unknown = pair.model_copy(update={"margin": None})
    assert encode_pair(scorer, unknown, share, True).margin == 0.0


def test_the_solved_head_knows_the_margins():
    one, none = torch.ones(4, 1), torch.zeros(4, 1)
    for margin in (None, torch.full((4,), 2.0)):
        head = warm_head(one, none, 0.1, margin)
        # where the gradient of -log sigma(w - m) + ridge/2 * w^2 is 0
        short = torch.sigmoid((0.0 if margin is None else 2.0) - head)
        assert float(short) == pytest.approx(0.1 * float(head), abs=1e-4)


def test_margins_are_refused_where_no_pair_has_one(jobs, tmp_path):
    with pytest.raises(DataError, match=r"no training pair has a margin.*8 pairs.*margin to false"):
        run_job(graded(jobs.bt(margin=True), None), tmp_path, quiet)


SFT_START = """\
extends: smoke
reward_model:
  bt: {backbone: {source: random, name: tiny-causal}, init: sft_checkpoint, max_steps: 0}
policy: {sft: {max_steps: 1}}
"""


def test_a_reward_model_starts_from_the_policy_after_sft(workspace):
    (workspace.experiments / "from-sft.yaml").write_text(SFT_START)
    spec = read_experiment(workspace.experiments, "from-sft")
    services = Services(launcher=InlineLauncher(spec.compute))

    def build(stage: str, changed=spec):
        return make(workspace, changed, stage, services)[0]

    base = read_experiment(workspace.experiments, "smoke")
    assert "sft_checkpoint" not in STAGES["bt_reward_model"].inputs_of(base)
    made = {n: build(n) for n in ("preference_pairs", "sft_examples", "sft_checkpoint")}
    artifact = build("bt_reward_model")
    assert artifact.manifest.inputs["sft_checkpoint"] == made["sft_checkpoint"].digest
    # no step is taken, so the backbone is the policy's
    reward = RewardModel.load(artifact.folder("model")).backbone.state_dict()
    policy = RewardModel.from_backbone(made["sft_checkpoint"].folder("model"), max_length=64)
    assert all(torch.equal(reward[k], v) for k, v in policy.backbone.state_dict().items())


def test_the_head_is_solved_on_samples_of_the_whole_file(jobs, monkeypatch):
    assert drawn(5, 9, 0) == [0, 1, 2, 3, 4]
    some = drawn(4000, 1000, 0)
    assert some == sorted(set(some)) and len(some) == 1000 and some != drawn(4000, 1000, 1)
    assert sum(index < 2000 for index in some) == pytest.approx(500, abs=75)
    monkeypatch.setattr("reward_harness.training.reward_loop.WARM_MAX", 3)
    job = jobs.bt(max_steps=0)
    model = RewardModel.from_backbone(Path(job.model.path), max_length=64)
    samples = [encode_pair(model, pair) for pair in pairs()]
    seen = []

    class Looks(BradleyTerry):
        def solve_head(self, model, samples):
            seen.append(samples)
            return super().solve_head(model, samples)

    RewardRun(model, samples, Looks(0.0), job.settings, seed=5).warm_start()
    assert seen == [[samples[index] for index in drawn(8, 3, 5)]] and seen[0] != samples[:3]


def test_members_with_adapters_start_from_adapters_of_their_own(ensemble, tmp_path, monkeypatch):
    starts = []
    original = RewardRun.warm_start

    def looking(self):
        starts.append({n: p.clone() for n, p in self.model.named_parameters() if "lora_A" in n})
        original(self)

    monkeypatch.setattr(RewardRun, "warm_start", looking)
    lora = LoraSpec(r=2, alpha=4, targets=["query"])
    run_job(plain(ensemble(members=2, max_steps=1, lora=lora)), tmp_path, quiet)
    first, second = starts
    assert first and not any(torch.equal(first[name], second[name]) for name in first)


def test_only_steps_are_timed(ensemble, tmp_path, monkeypatch):
    clock = SimpleNamespace(at=0.0, monotonic=lambda: clock.at)
    for module in ("context", "reward_loop"):
        monkeypatch.setattr(f"reward_harness.training.{module}.time", clock)

    def taking(original, seconds):
        def wrapped(self, *arguments):
            clock.at += seconds
            return original(self, *arguments)

        return wrapped

    monkeypatch.setattr(RewardRun, "warm_start", taking(RewardRun.warm_start, 100))
    monkeypatch.setattr(RewardRun, "step", taking(RewardRun.step, 2))
    run_job(plain(ensemble(members=2, max_steps=3)), tmp_path, quiet)
    lines = (tmp_path / "log" / "timing.jsonl").read_text().splitlines()
    assert [json.loads(line)["elapsed_s"] for line in lines] == [2, 4, 6, 8, 10, 12]
