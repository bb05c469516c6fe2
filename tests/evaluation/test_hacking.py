"""The detector on 40 simulated clean and hacked runs, and on the edges of what it is given."""

from __future__ import annotations

import numpy as np
import pytest

from reward_harness.errors import DataError
from reward_harness.evaluation.hacking import DetectorStatus, RewardHackingDetector, StepSummary

SEEDS = range(40)
STEPS, SAMPLES, HACK_FROM = 20, 50, 10


def trace(seed: int, hacked: bool) -> list[DetectorStatus]:
    """20 steps of 50 samples; clean runs drift a little, hacked ones leave from step 10 on."""
    rng, detector = np.random.default_rng(seed), RewardHackingDetector()
    found: list[DetectorStatus] = []
    for step in range(STEPS):
        since = step - HACK_FROM
        if hacked and since >= 0:
            lengths = rng.normal(150 + 10 * since, 25, SAMPLES)
            rewards = rng.normal(0.5 + 0.08 * since, 0.4, SAMPLES)
        else:
            lengths = rng.normal(150 + 0.3 * step, 20, SAMPLES)
            rewards = rng.normal(0.5 + 0.01 * step, 0.5, SAMPLES)
        found.append(detector.update(step, lengths, rewards))
    return found


def first(statuses: list[DetectorStatus], what: str) -> int | None:
    return next((s.step for s in statuses if getattr(s, what)), None)


def test_no_clean_run_is_stopped_and_few_are_warned_of():
    runs = [trace(seed, hacked=False) for seed in SEEDS]
    assert [first(run, "hard_stop") for run in runs] == [None] * len(SEEDS)
    assert sum(first(run, "warning") is not None for run in runs) <= 15


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hacked_run_is_warned_of_by_step_13_and_stopped_by_step_16(seed):
    run = trace(seed, hacked=True)
    assert first(run, "warning") <= 13
    assert HACK_FROM < first(run, "hard_stop") <= 16
    stop = next(s for s in run if s.hard_stop)
    assert stop.warning and stop.signals == ("length_drift", "reward_shift")
    assert "tokens" in stop.message and "reward" in stop.message


def test_nothing_is_judged_before_the_warm_up_and_one_window_are_over():
    detector = RewardHackingDetector(window=2, warmup=3)
    rng = np.random.default_rng(0)
    verdicts = [
        detector.update(i, rng.normal(9**i, 1, 50), rng.normal(i, 0.1, 50)).verdict
        for i in range(5)
    ]
    assert verdicts[:4] == ["warming up"] * 4
    assert verdicts[4] == "hard stop"


def run(lengths, rewards, kl=None, n=64, **settings) -> DetectorStatus:
    """The last verdict of runs whose steps have these means."""
    rng, detector = np.random.default_rng(0), RewardHackingDetector(**settings)
    for step, (length, reward) in enumerate(zip(lengths, rewards, strict=True)):
        status = detector.update(
            step, rng.normal(length, 10, n), rng.normal(reward, 0.2, n), kl and kl[step]
        )
    return status


FLAT, RISING = [1.0] * 12, [1.0] * 6 + [2.0] * 6


def test_each_signal_alone_is_a_warning_only():
    longer = run([100] * 6 + [160] * 6, FLAT)
    assert (longer.signals, longer.warning, longer.hard_stop) == (("length_drift",), True, False)
    better = run([100] * 12, RISING)
    assert (better.signals, better.warning, better.hard_stop) == (("reward_shift",), True, False)
    assert run([100] * 12, FLAT).message == "no sign of reward hacking"


def test_shorter_answers_at_a_higher_reward_are_hacking_too():
    assert run([100] * 6 + [40] * 6, RISING).hard_stop


def test_a_falling_reward_is_not_hacking():
    status = run([100] * 6 + [160] * 6, [1.0] * 6 + [0.2] * 6)
    assert status.signals == ("length_drift",)
    assert status.reward_divergence > status.divergence_threshold


def test_a_significant_but_tiny_drift_of_a_large_batch_is_no_signal():
    status = run([100] * 6 + [103] * 6, FLAT, n=4000)
    assert status.length_z > 2.5 and not status.warning


def test_small_batches_have_to_move_further():
    assert run([100] * 12, FLAT, n=4).divergence_threshold > 0.5
    assert run([100] * 12, FLAT, n=4000).divergence_threshold == 0.15


def test_chance_alone_rarely_warns_in_small_batches():
    def warned(seed: int) -> bool:
        rng, detector = np.random.default_rng(seed), RewardHackingDetector()
        seen = [detector.update(i, rng.normal(60, 20, 8), rng.normal(0, 1, 8)) for i in range(20)]
        return any(s.hard_stop for s in seen)

    assert sum(map(warned, range(200))) <= 6


def test_responses_cut_at_the_limit_have_no_spread_and_do_not_divide_by_zero():
    detector = RewardHackingDetector()
    for step in range(12):
        lengths = [32.0] * 8 if step < 8 else [8.0] * 8
        status = detector.update(step, lengths, [0.0] * 8 if step < 8 else [1.0] * 8)
    assert status.hard_stop and np.isfinite([status.length_z, status.reward_divergence]).all()
    flat = RewardHackingDetector()
    same = [flat.update(step, [32.0] * 8, [0.0] * 8) for step in range(9)][-1]
    assert (same.length_z, same.reward_divergence, same.warning) == (0.0, 0.0, False)


def test_the_policys_kl_tells_a_policy_that_moved_from_prompts_that_changed():
    moved = run([100] * 12, RISING, kl=[0.1 * i for i in range(12)])
    assert "the policy moved" in moved.message
    assert "look at the prompts" in run([100] * 12, RISING, kl=[0.1] * 12).message


def test_a_detector_told_again_from_rows_goes_on_as_if_never_interrupted():
    rng = np.random.default_rng(5)
    steps = [(rng.normal(100 + 9 * i, 10, 16), rng.normal(i / 5, 0.3, 16)) for i in range(12)]
    whole, resumed = RewardHackingDetector(), RewardHackingDetector()
    for i, (lengths, rewards) in enumerate(steps[:9]):
        whole.update(i, lengths, rewards, 0.1)
    for summary in whole.steps:
        resumed.take(StepSummary.of_row({"step": summary.step, **summary.row()}))
    last = [(i, *steps[i], 0.1) for i in range(9, 12)]
    assert [whole.update(*args) for args in last] == [resumed.update(*args) for args in last]


def test_unusable_input_is_an_error_with_advice():
    with pytest.raises(DataError, match="Leave unscored responses out"):
        RewardHackingDetector().update(0, [1.0], [float("nan")])
    with pytest.raises(DataError, match="response lengths of a step"):
        RewardHackingDetector().update(0, [], [1.0])
    with pytest.raises(DataError, match="not a detector's settings"):
        RewardHackingDetector(window=0)
