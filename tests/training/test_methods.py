import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from reward_harness.data.files import read_records
from reward_harness.data.records import Message, PreferencePair
from reward_harness.errors import TrainingError
from reward_harness.models.chat import Encoded
from reward_harness.models.embedded import load_policy_folder
from reward_harness.models.generation import response_logprobs
from reward_harness.models.reward_head import RewardModel
from reward_harness.progress import Progress, quiet
from reward_harness.rewards.base import Abstained, BaseRM, Scored
from reward_harness.sections import LoraSpec
from reward_harness.training import reward_model
from reward_harness.training.bradley_terry import bradley_terry_loss, warm_head
from reward_harness.training.dpo import encode_pairs
from reward_harness.training.grpo import GroupReward
from reward_harness.training.heldout import heldout_measures
from reward_harness.training.order import batches
from reward_harness.training.reward_model import encode_pair, rewards_of
from reward_harness.training.sft import labelled
from reward_harness.training.worker import run_job

LORA = LoraSpec(r=4, alpha=8)


class Fixed(BaseRM):
    """Gives the results it was made with, over and over."""

    def __init__(self, *results) -> None:
        self.results = results

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [self.results[i % len(self.results)] for i in range(len(batch))]


def unlogged(job):
    return job.model_copy(update={"resume_root": None})


def rows_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_sft_lowers_the_loss_and_learns_the_end_token(jobs, tmp_path):
    job = unlogged(jobs.sft(max_steps=60, batch_size=8, learning_rate=2e-2))
    result = run_job(job, tmp_path, quiet)
    assert result.metrics["loss_end"].value < 0.5 * result.metrics["loss_start"].value
    assert result.metrics["loss_end"].n == 160
    prompt, response = [{"role": "user", "content": "please explain water 0"}], "water is very long"
    before, tokenizer = load_policy_folder(Path(job.model.path))
    after, _ = load_policy_folder(tmp_path / "model")
    ends = [response_logprobs(m, tokenizer, [prompt], [response])[0][-1] for m in (before, after)]
    assert ends[1] > ends[0] + 1 and math.exp(ends[1]) > 0.3


def test_sft_labels_are_the_response_and_its_end_only():
    row = labelled(Encoded((1, 5, 6), (7, 8, 2)))
    assert row == {"input_ids": [1, 5, 6, 7, 8, 2], "labels": [-100, -100, -100, 7, 8, 2]}


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_checkpoint_is_a_plain_float32_model_with_its_card(jobs, tmp_path, lora):
    job = unlogged(jobs.sft(lora=lora, learning_rate=1e-2))
    run_job(job, tmp_path, quiet)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    assert model.dtype == torch.float32
    assert not [n for n, _ in model.named_parameters() if "lora" in n]
    assert AutoTokenizer.from_pretrained(tmp_path / "model").pad_token_id == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert job.model.digest[:16] in card and job.train.sha256[:16] in card
    start = load_file(Path(job.model.path) / "model.safetensors")
    end = load_file(tmp_path / "model" / "model.safetensors")
    moved = {name for name in start if not torch.equal(start[name].float(), end[name])}
    assert moved and (lora is None or all("self_attn" in name for name in moved))


def test_the_same_job_gives_the_same_bytes_outside_the_log(jobs, tmp_path):
    for name in ("a", "b"):
        run_job(unlogged(jobs.dpo(lora=LORA)), tmp_path / name, quiet)
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) > 8
    for file in files:
        if file.parts[0] != "log":
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_metrics_have_a_row_a_step_and_no_times(jobs, tmp_path):
    run_job(unlogged(jobs.sft()), tmp_path, quiet)
    rows = rows_of(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert not [k for row in rows for k in row if "time" in k or "second" in k]
    timing = [json.loads(x) for x in (tmp_path / "log/timing.jsonl").read_text().splitlines()]
    assert len(timing) == 6 and timing[-1]["tokens_per_s"] > 0
    assert timing[-1]["peak_memory_bytes"] > 1e8


def test_progress_is_told_each_step(jobs, tmp_path):
    events: list[Progress] = []
    run_job(unlogged(jobs.bt(max_steps=3)), tmp_path, events.append)
    steps = [event for event in events if event.numbers]
    assert [(e.stage, e.step, e.total) for e in steps] == [("bt", i, 3) for i in (1, 2, 3)]
    assert {"loss", "tokens_per_s", "seconds_left"} <= steps[0].numbers.keys()
    assert [e.message for e in events if not e.numbers] != []


@pytest.mark.parametrize("lora", [None, LORA])
def test_dpo_starts_at_a_margin_of_zero_and_raises_it(jobs, tmp_path, lora):
    job = unlogged(jobs.dpo(lora=lora, max_steps=12, learning_rate=5e-3))
    result = run_job(job, tmp_path, quiet)
    first = rows_of(tmp_path)[0]
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert result.metrics["margin_end"].value > result.metrics["margin_start"].value + 0.05
    assert result.metrics["accuracy_end"].value == 1.0


def test_dpo_cuts_both_sides_of_a_pair_alike_and_counts_it(jobs):
    _, tokenizer = load_policy_folder(Path(jobs.dpo().model.path))
    pair = PreferencePair(
        pair_id="1",
        prompt=[Message(role="user", content="please explain " + "the water " * 20)],
        chosen="people use it " * 3,
        rejected="no",
        source="toy",
    )
    (whole,), none = encode_pairs(tokenizer, [pair], 400)
    (cut,), one = encode_pairs(tokenizer, [pair], 30)
    assert (none, one) == (0, 1)
    assert cut["chosen_ids"] == whole["chosen_ids"] and cut["rejected_ids"] == whole["rejected_ids"]
    assert len(cut["prompt_ids"]) + len(cut["chosen_ids"]) == 30
    assert cut["prompt_ids"] == whole["prompt_ids"][-len(cut["prompt_ids"]) :]


def test_grpo_advantages_use_the_unbiased_spread_of_the_group(jobs, tmp_path, monkeypatch):
    from trl.trainer.grpo_trainer import GRPOTrainer

    seen: list[list[float]] = []
    original = GRPOTrainer._generate_and_score_completions

    def spy(self, inputs):
        found = original(self, inputs)
        seen.append(found["advantages"].tolist())
        return found

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", spy)
    reward = Fixed(Scored(1.0), Scored(0.0), Scored(0.0), Scored(0.0))
    run_job(unlogged(jobs.grpo(group_size=4, max_steps=1)), tmp_path, quiet, reward=reward)
    assert seen[0] == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=1e-3)


def test_grpo_raises_what_it_is_paid_for(jobs, tmp_path):
    class Letters(BaseRM):
        def score_batch_results(self, batch, batch_size=32, progress=False):
            return [Scored(float(chat[-1]["content"].count("e") > 0)) for chat in batch]

    job = unlogged(
        jobs.grpo(max_steps=24, batch_size=24, group_size=8, learning_rate=2e-2, beta=0.0)
    )
    result = run_job(job, tmp_path, quiet, reward=Letters())
    assert result.metrics["reward_end"].value > result.metrics["reward_start"].value + 0.15
    assert result.metrics["reward_end"].n == 8 * 24


def test_grpo_passes_over_single_unscored_responses(jobs, tmp_path):
    reward = Fixed(Scored(1.0), Abstained("no opinion"), Scored(0.0), Scored(0.5))
    run_job(unlogged(jobs.grpo(max_steps=2)), tmp_path, quiet, reward=reward)
    assert [row["unscored_share"] for row in rows_of(tmp_path)] == [0.25, 0.25]


def test_grpo_stops_where_too_few_responses_are_scored(jobs, tmp_path):
    reward = Fixed(Scored(1.0), Abstained("no opinion"))
    with pytest.raises(TrainingError, match="too many responses got no score") as raised:
        run_job(unlogged(jobs.grpo()), tmp_path, quiet, reward=reward)
    assert "2 of 4" in str(raised.value) and "no opinion" in str(raised.value)


def test_grpo_refuses_a_reward_that_is_not_a_number():
    reward = GroupReward(Fixed(Scored(float("nan"))), 0.5)
    with pytest.raises(TrainingError, match="not finite"):
        reward(prompts=["a"], completions=["b"], chat=[[{"role": "user", "content": "a"}]])


def test_ppo_publishes_a_policy_that_moved(jobs, tmp_path):
    reward = Fixed(Scored(1.0), Scored(0.0))
    job = unlogged(jobs.ppo(lora=LORA, learning_rate=1e-2))
    result = run_job(job, tmp_path, quiet, reward=reward)
    assert result.steps == 3 and result.metrics["reward_end"].value == pytest.approx(0.5)
    start = load_file(Path(job.model.path) / "model.safetensors")
    end = load_file(tmp_path / "model" / "model.safetensors")
    assert any(not torch.equal(start[name], end[name]) for name in start)
    timed = [json.loads(x) for x in (tmp_path / "log/timing.jsonl").read_text().splitlines()]
    phases = ("sample_s", "score_s", "rollout_pass_s", "update_s")
    assert len(timed) == 3 and all(row["update_s"] > 0 for row in timed)
    assert sum(row[name] for row in timed for name in phases) <= timed[-1]["elapsed_s"]


def test_equal_rewards_cost_ln_2_and_known_rewards_what_they_should():
    assert float(bradley_terry_loss(torch.ones(3), torch.ones(3))) == pytest.approx(math.log(2))
    chosen, rejected = torch.tensor([2, 1.8, 2.5, 1.6]), torch.tensor([0.2, 0.1, 0.4, 0.3])
    assert float(bradley_terry_loss(chosen, rejected)) == pytest.approx(0.169323, abs=1e-6)
    centred = bradley_terry_loss(chosen, rejected, center=0.01)
    assert float(centred) == pytest.approx(0.169323 + 0.01 * 5.1175, abs=1e-4)


def test_the_warm_head_finds_the_direction_that_separates():
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([1.0, -2.0, 0.0, 0.0])
    a, b = torch.randn(2, 400, 4, generator=generator)
    swap = ((a - b) @ truth < 0)[:, None]
    chosen, rejected = torch.where(swap, b, a), torch.where(swap, a, b)
    head = warm_head(chosen, rejected, ridge=0.01)
    assert float(torch.cosine_similarity(head, truth, dim=0)) > 0.99
    assert torch.equal(head, warm_head(chosen, rejected, ridge=0.01))


def test_a_dimension_that_only_rounds_gets_no_weight():
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 200, 3, generator=generator)
    chosen[:, 0] += 1
    for side in (chosen, rejected):
        side[:, 2] *= 1e-9
    head = warm_head(chosen, rejected)
    assert float(head.abs().max()) == float(head[0]) and abs(float(head[2])) < 1e-6


def test_a_reward_model_learns_to_tell_the_pairs_apart(jobs, tmp_path):
    result = run_job(unlogged(jobs.bt(max_steps=20, learning_rate=1e-3)), tmp_path, quiet)
    heldout = json.loads((tmp_path / "heldout.json").read_text())["test"]
    assert heldout["accuracy"]["value"] == result.metrics["heldout_accuracy"].value == 1.0
    assert heldout["accuracy"]["n"] == 8 and heldout["accuracy"]["ci_low"] < 1.0
    assert heldout["longer_wins"]["value"] == 1.0 and heldout["shorter_wins"]["value"] == 0.0
    assert result.metrics["loss_end"].value < result.metrics["loss_start"].value
    prompt = {"role": "user", "content": "please explain water 0"}
    scores = RewardModel.load(tmp_path / "model").score_conversations(
        [
            [prompt, {"role": "assistant", "content": text}]
            for text in ("water is very long and people use it", "no water")
        ]
    )
    assert scores[0] > scores[1]


def test_batches_hold_pairs_of_like_length_and_every_pair_once_an_epoch(jobs):
    pairs = read_records(Path(jobs.bt().train.path), PreferencePair)
    model = RewardModel.from_backbone(Path(jobs.bt().model.path), max_length=64)
    encoded = [encode_pair(model, pair) for pair in pairs]
    lengths = [pair.length for pair in encoded]
    found = list(batches(lengths, 2, 8, seed=1))
    assert sorted(i for batch in found[:4] for i in batch) == list(range(8))
    assert sorted(i for batch in found[4:] for i in batch) == list(range(8))
    assert found == list(batches(lengths, 2, 8, seed=1)) != list(batches(lengths, 2, 8, seed=2))
    by_length = sorted(lengths)
    spread = [abs(encoded[a].length - encoded[b].length) for a, b in found]
    assert max(spread) <= by_length[-1] - by_length[0]
    assert sum(spread) <= 2 * (by_length[-1] - by_length[0])


def toy_pair(prompt: str) -> PreferencePair:
    return PreferencePair(
        pair_id=prompt,
        prompt=[Message(role="user", content=prompt)],
        chosen="bb",
        rejected="ccc",
        source="toy",
    )


def test_pairs_of_one_prompt_are_resampled_together():
    apart = [toy_pair(str(i)) for i in range(40)]
    together = [toy_pair(str(i // 10)) for i in range(40)]
    chosen = [1.0 if i // 10 % 2 else -1.0 for i in range(40)]
    free, tied = (heldout_measures(p, chosen, [0.0] * 40, seed=0) for p in (apart, together))
    assert (free["accuracy"].value, free["accuracy"].n) == (0.5, 40)
    assert (tied["accuracy"].value, tied["accuracy"].n) == (0.5, 4)
    width = [found["accuracy"].ci_high - found["accuracy"].ci_low for found in (free, tied)]
    assert width[1] > 2 * width[0]


def test_a_tie_is_not_a_right_answer():
    pairs = [toy_pair("a"), toy_pair("b")]
    found = heldout_measures(pairs, [1.0, 0.0], [1.0, -1.0], seed=0)
    assert found["accuracy"].value == 0.5
    assert found["shorter_wins"].value == 1.0 and found["longer_wins"].value == 0.0
    assert found["loss"].value == pytest.approx((math.log(2) + math.log1p(math.exp(-1))) / 2)


@pytest.mark.parametrize("method", ["sft", "bt"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    jobs, tmp_path, monkeypatch, method
):
    from reward_harness.training.resume import ResumeFolder

    monkeypatch.setattr("reward_harness.training.reward_loop.SAVE_EVERY", 2)
    job = getattr(jobs, method)(max_steps=8)
    job = job.model_copy(update={"resume_root": str(tmp_path / "resume")})
    calls = {"n": 0}
    from reward_harness.training import reward_model
    from reward_harness.training.sft import ResponseSFTTrainer

    def poisoned(original):
        def compute(*args, **kwargs):
            calls["n"] += 1
            found = original(*args, **kwargs)
            return found * float("nan") if calls["n"] > 4 else found

        return compute

    monkeypatch.setattr(
        ResponseSFTTrainer, "compute_loss", poisoned(ResponseSFTTrainer.compute_loss)
    )
    monkeypatch.setattr(
        reward_model, "bradley_terry_loss", poisoned(reward_model.bradley_terry_loss)
    )
    with pytest.raises(TrainingError, match="not finite"):
        run_job(job, tmp_path / "out", quiet)
    found = ResumeFolder(tmp_path / "resume" / job.digest).newest()
    assert found is not None and found[0] in (2, 4)
    assert not (tmp_path / "out" / "model").exists()


def test_passes_by_length_give_the_rewards_and_gradients_of_one_pass(jobs):
    model = RewardModel.from_backbone(Path(jobs.bt().model.path), max_length=64)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.weight)
    texts = ["a", "people use water " * 9, "two words", "people use water every day " * 5]
    rows = [model.encode([{"role": "user", "content": "q"}, answer(text)]) for text in texts]
    grouped = rewards_of(model, rows)
    one = model(model.batch(rows))
    torch.testing.assert_close(grouped, one, rtol=1e-5, atol=1e-6)
    found = [torch.autograd.grad(r.square().sum(), model.head.weight)[0] for r in (grouped, one)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def test_reading_a_prompt_once_trains_the_same_model(jobs, tmp_path, monkeypatch):
    job = unlogged(jobs.bt(max_steps=3)).model_copy(update={"model": jobs.sft().model})
    rows = []
    for name, share in (("once", True), ("twice", False)):
        monkeypatch.setattr(reward_model, "can_share", lambda _, share=share: share)
        run_job(job, tmp_path / name, quiet)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows.append([json.loads(line) for line in lines])
    for once, twice in zip(*rows, strict=True):
        assert once == pytest.approx(twice, rel=2e-3, abs=2e-4)
