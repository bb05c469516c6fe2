"""Rounds of rollout, scoring, pairing and DPO."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from reward_harness.data.confidence import trigram_similarity
from reward_harness.data.files import read_records
from reward_harness.data.on_policy import buffered, pair_best_and_worst
from reward_harness.data.records import PreferencePair
from reward_harness.errors import TrainingError
from reward_harness.hashing import digest_file
from reward_harness.models.chat import encode_prompt
from reward_harness.models.embedded import load_policy_folder
from reward_harness.progress import quiet
from reward_harness.rewards.base import Abstained, BaseRM, Scored
from reward_harness.sections import LoraSpec
from reward_harness.training import iterative_dpo
from reward_harness.training.job import RewardRef
from reward_harness.training.worker import run_job
from tests.training.conftest import prompts, stop_at

LORA = LoraSpec(r=4, alpha=8)


class Letters(BaseRM):
    """The share of the letter e, so that any two different responses have a margin."""

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [
            Scored(chat[-1]["content"].count("e") / (len(chat[-1]["content"]) + 1))
            for chat in batch
        ]


class Silent(BaseRM):
    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [Abstained("no opinion") for _ in batch]


def plain(job):
    return job.model_copy(update={"resume_root": None})


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def pair(responses, **limits):
    limits = {"round_number": 1, "min_margin": 0.1, "max_similarity": 0.5, **limits}
    return pair_best_and_worst(prompts()[: len(responses)], responses, **limits)


def test_the_best_meets_the_worst_and_the_margin_is_kept():
    found = pair([[("good words here", 0.9), ("so so", 0.5), ("bad", 0.1), ("lost", None)]])
    (one,) = found.pairs
    assert (one.chosen, one.rejected, one.margin) == ("good words here", "bad", pytest.approx(0.8))
    assert one.pair_id == "round-1/0"


def test_pairs_too_close_too_similar_or_unscored_are_skipped_and_counted():
    text = "one two three four five six"
    assert trigram_similarity(text, f"{text} seven") == pytest.approx(0.8)
    found = pair(
        [
            [("a b c", 0.5), ("d e f", 0.45)],
            [(text, 0.9), (f"{text} seven", 0.1)],
            [("a b c", 0.9), ("x", None)],
            [(" ", 0.9), ("x", 0.1)],
        ]
    )
    assert (found.pairs, found.too_close, found.too_similar, found.unscored) == ([], 1, 1, 2)


def test_the_buffer_holds_one_two_or_all_rounds():
    rounds = [
        [
            PreferencePair(
                pair_id=str(i), prompt=prompts()[0].prompt, chosen="a", rejected="b", source=""
            )
        ]
        for i in range(3)
    ]
    held = {
        name: [p.pair_id for p in buffered(rounds, name)]
        for name in ("current", "rolling2", "full")
    }
    assert held == {"current": ["2"], "rolling2": ["1", "2"], "full": ["0", "1", "2"]}


@pytest.mark.parametrize("lora", [None, LORA])
def test_each_round_trains_on_fresh_pairs_and_is_measured(jobs, tmp_path, lora):
    job = plain(jobs.iterative_dpo(lora=lora, buffer="full"))
    result = run_job(job, tmp_path, quiet, reward=Letters())
    rows = rows_of(tmp_path)
    assert [(row["step"], row["round"]) for row in rows] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert rows[2]["pairs"] > rows[0]["pairs"] > 0
    assert ["reward_mean" in row for row in rows] == [False, True, False, True]
    pairs = read_records(tmp_path / "pairs.jsonl", PreferencePair)
    assert {p.source for p in pairs} == {"round-1", "round-2"}
    assert all(p.margin > 0 for p in pairs)
    assert result.metrics["reward_gain_round_2"].n == 4
    assert result.metrics["pairs_round_1"].value == sum(p.source == "round-1" for p in pairs)
    assert rows[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert rows[2]["rewards/margins"] == pytest.approx(0, abs=1e-4), "a round's own reference"
    assert not (tmp_path / "log" / "work").exists()
    told = [name for named in (*rows, result.metrics) for name in named if "judge" in name]
    assert told == [], "the optimised reward is no judge"


def test_the_judge_is_another_reward_than_the_optimised_one(jobs, tmp_path):
    from reward_harness.models.folders import model_digest

    run_job(plain(jobs.bt(max_steps=1)), tmp_path / "bt", quiet)
    folder = tmp_path / "bt" / "model"
    judge = RewardRef(kind="classifier", digest=model_digest(folder), path=str(folder))
    job = plain(jobs.iterative_dpo(rounds=1)).model_copy(update={"judge": judge})
    result = run_job(job, tmp_path / "out", quiet, reward=Letters())
    assert result.metrics["judge_gain_round_1"].n == 4
    last = rows_of(tmp_path / "out")[-1]
    assert 0 <= last["reward_mean"] <= 1 and last["judge_mean"] != last["reward_mean"]
    wrong = judge.model_copy(update={"digest": "0" * 64})
    with pytest.raises(TrainingError, match="not the one the job names"):
        run_job(job.model_copy(update={"judge": wrong}), tmp_path / "no", quiet, reward=Letters())


def test_a_stopped_job_continues_at_its_round_with_the_same_weights(jobs, tmp_path):
    job = jobs.iterative_dpo(lora=LORA, max_steps=3).model_copy(
        update={"resume_root": str(tmp_path / "resume")}
    )
    whole = run_job(plain(job), tmp_path / "whole", quiet, reward=Letters())
    press, stop = stop_at(4)
    with pytest.raises(TrainingError, match="stopped by a signal"):
        run_job(job, tmp_path / "torn", press, reward=Letters(), stop=stop)
    result = run_job(job, tmp_path / "again", quiet, reward=Letters())
    assert result.resumed_from == 1 and result.metrics == whole.metrics
    for name in ("model/model.safetensors", "pairs.jsonl", "metrics.jsonl"):
        assert digest_file(tmp_path / "whole" / name) == digest_file(tmp_path / "again" / name)


def test_without_scores_or_pairs_it_says_why(jobs, tmp_path):
    with pytest.raises(TrainingError, match="too many responses got no score"):
        run_job(plain(jobs.iterative_dpo()), tmp_path / "a", quiet, reward=Silent())
    job = plain(jobs.iterative_dpo(min_margin=1.0))
    with pytest.raises(TrainingError, match="round 1 has no pair"):
        run_job(job, tmp_path / "b", quiet, reward=Letters())


def logprob(model, ids: list[int], start: int) -> float:
    """Σ log p of the tokens from ``start`` on."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double()
    found = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[1:])[:, None])
    return float(found[start - 1 :].sum())


def test_the_kl_is_that_of_the_sampled_tokens_after_the_prompt_as_it_was_cut(
    jobs, tmp_path, monkeypatch
):
    original, calls = iterative_dpo.generate, []

    def spy(model, tokenizer, prompts, **settings):
        found = original(model, tokenizer, prompts, **settings)
        calls.append((tokenizer, prompts, found))
        return found

    monkeypatch.setattr(iterative_dpo, "generate", spy)
    job = plain(jobs.iterative_dpo(max_prompt_tokens=12, max_new_tokens=4, learning_rate=2e-2))
    result = run_job(job, tmp_path, quiet, reward=Letters())
    tokenizer, prompts, drawn = calls[-1]
    assert len(drawn) == 4 and not all(one.ended for one in drawn), "some are cut"
    heads = [encode_prompt(tokenizer, turns) for turns in prompts]
    assert min(map(len, heads)) > 12
    end, start = (load_policy_folder(f)[0] for f in (tmp_path / "model", Path(job.model.path)))
    ratios = [
        logprob(end, [*head[-12:], *one.token_ids], 12)
        - logprob(start, [*head[-12:], *one.token_ids], 12)
        for head, one in zip(heads, drawn, strict=True)
    ]
    expected = sum(ratios) / 4
    assert abs(expected) > 0.01
    assert result.metrics["kl_to_start"].value == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_policies_are_rolled_out_and_measured_on_the_jobs_device(jobs, tmp_path, monkeypatch):
    original, devices = iterative_dpo.load_policy_folder, []

    def spy(folder, *, device=None, **settings):
        devices.append(device)
        return original(folder, device=device or "cpu", **settings)

    monkeypatch.setattr(iterative_dpo, "load_policy_folder", spy)
    run_job(plain(jobs.iterative_dpo(rounds=1)), tmp_path, quiet, reward=Letters())
    assert devices == ["cpu"] * 5, "held-out responses twice, a round, two policies' likelihoods"


def test_the_time_left_is_that_of_all_rounds(jobs, tmp_path):
    class Slow(Letters):
        def score_batch_results(self, batch, batch_size=32, progress=False):
            time.sleep(0.4)
            return super().score_batch_results(batch)

    left: list[float] = []

    def listen(event):
        if event.numbers:
            left.append(event.numbers["seconds_left"])

    run_job(plain(jobs.iterative_dpo(max_steps=1)), tmp_path, listen, reward=Slow())
    assert len(left) == 2 and left[0] >= 0.4, "the second round is scored as slowly"
    assert left[1] == 0
