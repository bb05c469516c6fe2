"""When a number counts as a regression: direction, threshold, interval, zero, negative, newest."""

from __future__ import annotations

import pytest

from reward_harness.errors import ArtifactError
from reward_harness.lineage.comparison import Measured, compare, difference_interval
from reward_harness.lineage.regressions import find_regressions
from tests.lineage.conftest import number


def measured(value: float, half: float | None = 0.001, direction: str = "max") -> Measured:
    bounds = (None, None) if half is None else (value - half, value + half)
    return Measured(value, *bounds, 100, direction)


@pytest.mark.parametrize(
    ("value", "baseline", "direction", "verdict"),
    [
        (0.95, 1.0, "max", "warning"),
        (0.951, 1.0, "max", "within"),
        (0.90, 1.0, "max", "critical"),
        (0.901, 1.0, "max", "warning"),
        (1.10, 1.0, "max", "better"),
        (1.05, 1.0, "min", "warning"),
        (1.10, 1.0, "min", "critical"),
        (0.50, 1.0, "min", "better"),
        (0.10, 1.0, "none", "undirected"),
        (-1.05, -1.0, "max", "warning"),
        (-0.95, -1.0, "max", "better"),
        (-0.90, -1.0, "min", "critical"),
        (-1.10, -1.0, "min", "better"),
        (-0.05, 0.0, "max", "warning"),
        (0.10, 0.0, "min", "critical"),
        (0.04, 0.0, "min", "within"),
        (0.0, 0.0, "max", "within"),
    ],
)
def test_verdict(value, baseline, direction, verdict):
    change = compare(measured(value, direction=direction), measured(baseline), 5.0)
    assert change.verdict == verdict


def test_a_zero_baseline_is_compared_as_such():
    change = compare(measured(-0.2), measured(0.0), 5.0)
    assert (change.relative, change.worse_by) == (False, pytest.approx(20.0))
    assert change.record()["worse_by_points"] == pytest.approx(20.0)


def test_a_negative_baseline_counts_by_its_size():
    assert compare(measured(-3.0), measured(-2.0), 5.0).worse_by == pytest.approx(50.0)


def test_a_difference_whose_interval_holds_zero_is_none():
    assert compare(measured(0.8, half=0.3), measured(1.0, half=0.1), 5.0).verdict == "within"
    assert compare(measured(0.8, half=0.1), measured(1.0, half=0.1), 5.0).verdict == "critical"


def test_without_an_interval_nothing_is_proven():
    assert compare(measured(0.5, half=None), measured(1.0), 5.0).verdict == "unproven"
    assert compare(measured(0.5), measured(1.0, half=None), 5.0).verdict == "unproven"


def test_the_threshold_can_be_zero_and_equal_is_never_worse():
    assert compare(measured(1.0), measured(1.0), 0.0).verdict == "within"
    assert compare(measured(0.99), measured(1.0), 0.0).verdict == "critical"


def test_the_interval_of_a_difference_is_newcombes():
    """Newcombe 1998, table II example (a): 56/70 against 48/80 gives .0524 to .3339."""
    first = Measured(56 / 70, 0.6919, 0.8769)
    second = Measured(48 / 80, 0.4904, 0.7003)
    assert difference_interval(first, second) == pytest.approx((0.0526, 0.3339), abs=5e-4)


DAYS = [f"2026-01-{day:02d}T00:00:00+00:00" for day in range(1, 10)]


@pytest.fixture
def report(publish):
    """Publishes a report of the dataset ``data`` on a given day."""
    datasets = {name: publish("data", "rl_prompts", content=name) for name in ("same", "other")}

    def run(experiment, value, at, data="same", direction="max", half=0.001, gate=None):
        metrics = {"win": number(value, half, direction)}
        return publish(
            experiment,
            "policy_report",
            {"rl_prompts": datasets[data]},
            content=f"{experiment} {value}",
            metrics=metrics,
            at=at,
            gate=gate,
        )

    return run


def found_in(ledger, **options):
    with ledger() as opened:
        return find_regressions(opened, **options)


def test_the_newest_comparable_one_before_it_is_the_baseline(report, ledger):
    report("a", 0.9, DAYS[0])
    newest = report("b", 0.8, DAYS[2])
    report("c", 0.99, DAYS[1])
    report("late", 0.95, DAYS[5])
    judged = report("judged", 0.6, DAYS[4])
    found = found_in(ledger, experiment="judged")
    (regression,) = found.found
    assert regression.artifact.digest == judged.digest
    assert regression.baseline.digest == newest.digest
    assert regression.change.worse_by == pytest.approx(25.0)
    assert (found.artifacts, found.compared) == (1, 1)


def test_newest_is_by_time_not_by_the_text_of_the_time(report, ledger):
    report("a", 0.9, "2026-01-01T09:00:00+00:00")
    newest = report("b", 0.8, "2026-01-01T08:00:00-05:00")
    report("judged", 0.6, "2026-01-02T00:00:00+00:00")
    (regression,) = found_in(ledger, experiment="judged").found
    assert regression.baseline.digest == newest.digest


def test_another_dataset_is_not_comparable(report, ledger):
    report("a", 0.9, DAYS[0], data="other")
    report("judged", 0.1, DAYS[1])
    found = found_in(ledger, experiment="judged")
    assert (found.compared, found.found) == (0, ())


def test_what_its_gates_rejected_is_no_baseline_but_is_judged(report, ledger):
    good = report("a", 0.9, DAYS[0], gate=True)
    report("b", 0.5, DAYS[1], gate=False)
    report("judged", 0.6, DAYS[2], gate=False)
    (regression,) = found_in(ledger, experiment="judged").found
    assert regression.baseline.digest == good.digest


def test_the_same_content_again_is_not_its_own_baseline(report, ledger, publish):
    older = report("a", 0.9, DAYS[0])
    for day in (2, 3):
        report("judged", 0.6, DAYS[day])
    (regression,) = found_in(ledger, experiment="judged").found
    assert regression.baseline.digest == older.digest


def test_own_baselines_ignore_other_experiments(report, ledger):
    first = report("judged", 0.9, DAYS[0])
    report("b", 0.61, DAYS[1])
    report("judged", 0.6, DAYS[2])
    assert found_in(ledger, experiment="judged").found == ()
    (regression,) = found_in(ledger, experiment="judged", baseline="own").found
    assert regression.baseline.digest == first.digest


def test_a_named_baseline_may_be_newer(report, ledger):
    report("judged", 0.6, DAYS[0])
    later = report("b", 0.9, DAYS[3])
    name = f"b/policy_report/{later.digest[:12]}"
    for baseline in ("b", name):
        (regression,) = found_in(ledger, experiment="judged", baseline=baseline).found
        assert regression.baseline.digest == later.digest
    with pytest.raises(ArtifactError, match="no such baseline"):
        found_in(ledger, baseline="nobody")


def test_a_metric_that_is_better_low_regresses_upwards(report, ledger):
    report("a", 0.2, DAYS[0], direction="min")
    report("judged", 0.3, DAYS[1], direction="min")
    found = found_in(ledger)
    assert [r.change.verdict for r in found.found] == ["critical"]
    assert found.proven


def test_worst_comes_first_and_the_unproven_last(report, ledger):
    report("a", 1.0, DAYS[0])
    report("b", 0.94, DAYS[1])
    report("c", 0.5, DAYS[2])
    report("d", 0.2, DAYS[3], half=None)
    verdicts = [(r.artifact.experiment, r.change.verdict) for r in found_in(ledger).found]
    assert verdicts == [("c", "critical"), ("b", "warning"), ("d", "unproven")]
