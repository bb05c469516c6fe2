"""The sentences at the top of a report follow from its numbers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toy_rewards import HOW, longer, pairs, quality, scorer

from reward_harness.data.records import Message
from reward_harness.evaluation.board import board_lead, board_of
from reward_harness.evaluation.policies import PolicyOutput, Sample, compare_policies
from reward_harness.evaluation.policy_advice import explain, policy_steps
from reward_harness.evaluation.policy_advice import lead as policy_lead
from reward_harness.evaluation.results import (
    PolicyResults,
    RewardResults,
    Sampling,
    ScorerName,
    Trace,
    read_results,
    write_results,
)
from reward_harness.evaluation.reward_advice import lead, reward_steps
from reward_harness.evaluation.reward_models import HeldOut, length_baselines, measure_scorer
from reward_harness.evaluation.traces import read_trace
from reward_harness.manifest import Gate

DATA = HeldOut(pairs(150), pairs(60, seed=1), ())


def rewards(*rules, served="one", gates=None, training=None, names=("one", "two")) -> RewardResults:
    found = [measure_scorer(scorer(r, n), DATA, HOW) for r, n in zip(rules, names, strict=False)]
    return RewardResults(
        experiment="toy",
        served=served,
        rewards=[m.measures for m in found],
        baselines=length_baselines(DATA.test, HOW),
        agreements=[],
        gates=gates or {},
        classifier_training=training,
        bootstrap_samples=400,
        confidence=0.95,
        seed=7,
    )


def texts(steps, kind=None) -> str:
    return "\n".join(f"{s.text} {s.because}" for s in steps if kind in (None, s.kind))


def test_a_good_reward_is_recommended_and_a_better_one_than_the_served_is_named():
    steps = reward_steps(rewards(lambda t: 0.0, quality))
    assert steps[0].kind == "do" and "Toy rule two" in steps[0].text
    assert "reward_model.serve: two" in steps[1].text


def test_a_reward_that_only_reads_length_is_stopped_and_called_fooled():
    results = rewards(longer)
    assert "not clearly above" in lead(results)
    assert "Do not train" in texts(reward_steps(results), "stop")
    assert "fooled by length" in texts(reward_steps(results), "warn")


def test_a_failed_gate_stops_only_where_it_is_enforced():
    failed = Gate(passed=False, value=0.3, threshold=0.1)
    enforced = reward_steps(rewards(quality, gates={"length_padding": failed}))
    assert "length_padding" in texts(enforced, "stop")
    recorded = failed.model_copy(update={"enforced": False})
    assert "length_padding" in texts(
        reward_steps(rewards(quality, gates={"length_padding": recorded})), "warn"
    )


@pytest.mark.parametrize(
    ("last", "reason"),
    [(0.69, "undertrained"), (0.1, "does not carry over"), (0.5, "0.690 → 0.500")],
)
def test_low_accuracy_is_explained_by_the_training_loss(last, reason):
    trace = Trace(steps=25, quantity="loss", first=0.69, last=last)
    results = rewards(
        lambda t: -quality(t), served="classifier", names=("classifier",), training=trace
    )
    assert reason in texts(reward_steps(results), "warn")


def output(name: str, change: float, ratio: float | None, noise: float = 0.0) -> PolicyOutput:
    samples = [
        Sample(
            prompt_id=f"q{i}",
            prompt=[Message(role="user", content=f"Question {i}")],
            text=f"{i / 40 + change + noise * (-1) ** i:.4f} answer",
            tokens=10,
            ended=True,
            log_ratio=ratio,
        )
        for i in range(40)
    ]
    return PolicyOutput(name, name[0] * 64, samples)


def policies(*outputs: PolicyOutput, second=quality, trace: Trace | None = None) -> PolicyResults:
    found = [scorer(quality, "rubric"), scorer(second, "classifier")]
    compared = compare_policies([output("sft", 0.0, None), *outputs], found, "sft", HOW)
    traces = {o.name: trace for o in outputs if trace}
    return PolicyResults(
        experiment="toy",
        reference="sft",
        scorers=[ScorerName(name=s.name, label=s.label, digest=s.digest) for s in found],
        policies=compared.measures,
        training=traces,
        explanations={
            m.name: explain(m, "rubric", traces.get(m.name), compared.measures[0])
            for m in compared.measures[1:]
        },
        sampling=Sampling(temperature=0.7, max_new_tokens=8, samples_per_prompt=1, dtype="float32"),
        bootstrap_samples=400,
        confidence=0.95,
        seed=7,
    )


def test_the_clearest_gain_is_shipped():
    results = policies(output("grpo", 0.05, 1.0), output("ppo", 0.2, 2.0))
    assert policy_steps(results)[0].text == "Ship PPO."
    assert policy_lead(results).startswith("PPO raises the mean reward over SFT")


def test_a_gain_that_the_other_scorer_disputes_is_not_shipped():
    results = policies(output("ppo", 0.2, 2.0), second=lambda t: -quality(t))
    assert policy_steps(results)[0].text.startswith("Keep SFT")
    assert "not classifier" in texts(policy_steps(results), "warn")
    assert "disputes" in policy_lead(results)


def test_a_decline_is_explained_by_steps_kl_and_the_reward_in_training():
    trace = Trace(steps=5, quantity="reward_mean", first=0.4, last=0.45)
    results = policies(output("ppo", -0.1, 0.3), trace=trace)
    text = results.explanations["ppo"]
    assert text.startswith("The mean reward fell")
    assert "only 5 steps" in text
    assert "0.3 nats" in text
    assert "from 0.4 to 0.45, which does not show on held-out prompts" in text
    assert text in texts(policy_steps(results), "stop")


def test_a_far_policy_is_told_to_stay_closer():
    text = policies(output("ppo", -0.1, 50.0)).explanations["ppo"]
    assert "raise the KL weight" in text


def test_a_change_within_noise_says_how_many_prompts_would_settle_it():
    results = policies(output("dpo", 0.01, 0.5, noise=0.2))
    text = results.explanations["dpo"]
    assert "may be noise" in text
    assert "DPO learns from preference pairs and never saw this reward" in text
    needed = int(re.search(r"about ([\d,]+) prompts", text).group(1).replace(",", ""))
    assert needed > 40


def test_results_survive_the_round_trip_through_their_file(tmp_path):
    results = policies(output("ppo", 0.2, 2.0))
    write_results(tmp_path / "report.json", results)
    again = read_results(tmp_path / "report.json", PolicyResults)
    write_results(tmp_path / "again.json", again)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "report.json").read_bytes()
    assert again.policies[1].by_scorer["rubric"].change.value == pytest.approx(0.2, abs=1e-4)


def test_many_comparisons_on_the_board_are_corrected_together():
    first = policies(output("ppo", 0.2, 2.0), output("dpo", 0.004, 0.1, noise=0.1))
    others = [
        policies(output("ppo", 0.0, 0.1)).model_copy(update={"experiment": f"e{i}"})
        for i in range(8)
    ]
    board = board_of([rewards(quality)], [first, *others])
    assert board.policies[0].policy == "ppo" and board.policies[0].experiment == "toy"
    alone = first.policies[1].by_scorer["rubric"].p_value
    assert board.policies[0].adjusted_p == pytest.approx(min(1.0, alone * 10), rel=1e-6)
    assert board_lead(board).startswith("1 of 10 trained policies")


def test_a_trace_compares_the_first_and_last_third(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step":{i},"reward_mean":{i / 10}}}\n' for i in range(1, 7)))
    trace = read_trace(path, "ppo")
    assert (trace.steps, trace.quantity) == (6, "reward_mean")
    assert (trace.first, trace.last) == (pytest.approx(0.15), pytest.approx(0.55))
    path.write_text('{"step":1}\n')
    assert read_trace(path, "ppo") == Trace(steps=1)
