"""A study's numbers come from its members' metrics alone, paired by seed."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats

from reward_harness.environment import environment_of
from reward_harness.errors import ArtifactError, DataError
from reward_harness.evaluation.report import Figure
from reward_harness.evaluation.results import read_results
from reward_harness.evaluation.study import (
    StudyResults,
    over_seeds,
    paired_p,
    study_results,
)
from reward_harness.evaluation.study_page import (
    measure_title,
    study_lead,
    study_page,
    study_summary,
)
from reward_harness.manifest import Code, Metric, Outcome
from reward_harness.scaling.power_law import levelled, power_law
from reward_harness.stages.study_report import make_study_report
from reward_harness.store import ArtifactStore, Recipe
from reward_harness.studies import Curve, Front, StudySpec, expand
from reward_harness.workspace import Workspace

MEASURE = "policy_report.reward"
STUDY = StudySpec(
    name="lr",
    base="tour",
    description="Does the learning rate matter?",
    grid={"policy.ppo.learning_rate": [1, 2]},
    seeds=[1, 2, 3],
    measures=[MEASURE],
)


def metrics_of(study: StudySpec, values: dict[str, list[float]], **more: str) -> dict:
    """``values``: variant to one value a seed."""
    return {
        member.key: {
            MEASURE: Metric(
                value=values[member.variant][study.seeds.index(member.seed)],
                direction=more.get("direction", "max"),
            )
        }
        for member in expand(study)
        if member.variant in values
    }


def test_differences_are_paired_by_seed_and_have_students_interval() -> None:
    values = {"learning-rate-1": [0.1, 0.5, 0.9], "learning-rate-2": [0.2, 0.61, 1.0]}
    found = study_results(STUDY, expand(STUDY), metrics_of(STUDY, values))
    base, other = found.rows
    assert base.difference is None
    assert base.over_seeds.value == pytest.approx(0.5)
    expected = stats.t.interval(0.95, 2, loc=0.5, scale=stats.sem([0.1, 0.5, 0.9]))
    assert (base.over_seeds.low, base.over_seeds.high) == pytest.approx(expected)
    assert other.difference is not None
    assert other.difference.value == pytest.approx(0.31 / 3)
    assert other.adjusted_p == pytest.approx(stats.ttest_rel(*values.values()).pvalue)
    assert other.verdict == "better"


def test_a_measure_to_be_small_is_worse_when_it_grows() -> None:
    values = {"learning-rate-1": [0.1, 0.5, 0.9], "learning-rate-2": [0.2, 0.61, 1.0]}
    found = study_results(STUDY, expand(STUDY), metrics_of(STUDY, values, direction="min"))
    assert found.rows[1].verdict == "worse"


def test_p_values_are_corrected_over_all_comparisons() -> None:
    study = STUDY.model_copy(update={"grid": {"policy.ppo.learning_rate": [1, 2, 3]}})
    values = {
        "learning-rate-1": [0.0, 0.0, 0.0],
        "learning-rate-2": [0.10, 0.12, 0.13],
        "learning-rate-3": [0.3, -0.2, 0.1],
    }
    found = study_results(study, expand(study), metrics_of(study, values))
    raw = [paired_p(values[v]) for v in ("learning-rate-2", "learning-rate-3")]
    assert [row.adjusted_p for row in found.rows[1:]] == pytest.approx([2 * raw[0], raw[1]])


def test_one_seed_has_its_reports_interval_and_is_compared_with_nothing() -> None:
    study = STUDY.model_copy(update={"seeds": [1]})
    only = Metric(value=0.5, ci_low=0.4, ci_high=0.6, n=40, direction="max")
    found = study_results(study, expand(study), {m.key: {MEASURE: only} for m in expand(study)})
    interval = found.rows[0].over_seeds
    assert (interval.low, interval.high, interval.n) == (0.4, 0.6, 40)
    assert all(row.difference is None and row.verdict == "unclear" for row in found.rows)


def test_members_that_have_not_run_are_named_and_the_rest_is_reported() -> None:
    found = study_results(
        STUDY, expand(STUDY), metrics_of(STUDY, {"learning-rate-1": [0.1, 0.5, 0.9]})
    )
    assert found.missing == tuple(f"lr--learning-rate-2--s{seed}" for seed in (1, 2, 3))
    assert "not run" in study_page(found, []).next_steps[0].text
    with pytest.raises(DataError, match="harness study run lr"):
        study_results(STUDY, expand(STUDY), {})


def test_over_seeds_of_one_value_is_a_point_and_equal_differences_are_no_difference() -> None:
    assert over_seeds([0.3]).low == over_seeds([0.3]).high == 0.3
    assert paired_p([0.0, 0.0]) == 1.0


@pytest.mark.parametrize("floor", [None, 1.5])
def test_power_law_recovers_what_made_the_points(floor: float | None) -> None:
    points = [(x, 1.5 + 20.0 * x**-0.4) for x in (1e2, 1e3, 1e4, 1e5, 1e6)]
    low, scale, exponent = power_law(points, floor)
    assert (low, scale, exponent.value) == pytest.approx((1.5, 20.0, 0.4), rel=1e-3)
    assert exponent.low <= exponent.value <= exponent.high


def test_power_law_needs_four_sizes_unless_its_floor_is_given() -> None:
    points = [(1.0, 3.0), (2.0, 2.5), (4.0, 2.2)]
    with pytest.raises(DataError, match=r"too few sizes.*expected 4"):
        power_law(points)
    assert power_law(points, 1.0)[0] == 1.0
    with pytest.raises(DataError, match="too few points"):
        power_law(points[:2], 1.0)


def test_a_seeds_level_is_taken_off_and_the_law_is_surer_for_it() -> None:
    noise = {1: 0.004, 2: -0.003, 3: 0.001}
    points = [
        (seed, x, 0.5 + 3.0 * x**-0.5 + 0.1 * seed + noise[seed] * (1 if x in (90, 360) else -1))
        for seed in (1, 2, 3)
        for x in (90.0, 180.0, 360.0, 720.0)
    ]
    level, levels = levelled(points)
    assert levels == 2 and sum(y for _, y in level) == pytest.approx(sum(y for *_, y in points))
    raw = power_law([(x, y) for _, x, y in points])[2]
    low, _, found = power_law(level, levels=levels)
    assert found.high - found.low < (raw.high - raw.low) / 5
    assert found.low < 0.5 < found.high and low == pytest.approx(0.7, abs=0.1)
    torn, none = levelled(points[1:])
    assert none == 0 and torn == [(x, y) for _, x, y in points[1:]]


def published(workspace: Workspace, values: dict[str, list[float]]) -> None:
    store = ArtifactStore(workspace.runs)
    for member in expand(STUDY):
        value = values[member.variant][STUDY.seeds.index(member.seed)]

        def built(folder: Path, value: float = value) -> Outcome:
            (folder / "summary.md").write_text(str(value))
            return Outcome(metrics={"reward": Metric(value=value, direction="max")})

        store.produce(
            Recipe(member.key, "policy_report", "1", {}, {}),
            built,
            snapshot={},
            environment=environment_of,
            code=Code(version="1"),
            run_id="test",
        )


def test_report_is_made_from_the_store_and_reused(workspace: Workspace) -> None:
    with pytest.raises(ArtifactError, match="no member of the study has run"):
        make_study_report(workspace, STUDY)
    published(workspace, {"learning-rate-1": [0.1, 0.5, 0.9], "learning-rate-2": [0.2, 0.61, 1]})
    study = STUDY.model_copy(
        update={
            "curve": Curve(x="policy.ppo.learning_rate", measure=MEASURE, floor=0.0),
            "front": Front(first=MEASURE, second=MEASURE),
        }
    )
    artifact, reused = make_study_report(workspace, study)
    assert not reused
    assert make_study_report(workspace, study)[1]
    results = read_results(artifact.file("report.json"), StudyResults)
    assert results.front == ("learning-rate-2",)
    assert results.curve is not None and results.curve.exponent.value < 0
    assert "learning-rate-2" in study_summary(results)
    assert "Pareto front" in artifact.file("report.html").read_text()
    assert len(artifact.manifest.inputs) == 6


def figures(study: StudySpec, values: dict[str, list[float]]) -> dict[str, list[str]]:
    page = study_page(study_results(study, expand(study), metrics_of(study, values)), [])
    return {
        section.title: [block.svg for block in section.blocks if isinstance(block, Figure)]
        for section in page.sections
    }


def test_the_page_draws_differences_the_law_and_the_front() -> None:
    study = STUDY.model_copy(
        update={
            "grid": {"policy.ppo.learning_rate": [1, 2, 4, 8]},
            "curve": Curve(x="policy.ppo.learning_rate", measure=MEASURE),
            "front": Front(first=MEASURE, second=MEASURE),
        }
    )
    values = {
        f"learning-rate-{x}": [0.1 + 1 / x + s for s in (0, 0.01, 0.02)] for x in (1, 2, 4, 8)
    }
    drawn = figures(study, values)
    assert [len(found) for found in drawn.values()] == [1, 1, 1]
    assert list(drawn) == ["Reward", "Power law", "Pareto front"]
    assert "difference from learning-rate-1" in drawn["Reward"][0]
    assert "policy.ppo.learning_rate" in drawn["Power law"][0]
    assert figures(STUDY, {"learning-rate-1": [1, 2, 3]})["Reward"] == []


def test_the_lead_names_what_came_nearest_where_nothing_is_told_apart() -> None:
    values = {"learning-rate-1": [0.1, 0.5, 0.9], "learning-rate-2": [0.3, 0.4, 1.0]}
    lead = study_lead(study_results(STUDY, expand(STUDY), metrics_of(STUDY, values)))
    assert "the nearest is learning-rate-2 in policy_report.reward, +0.0667" in lead
    two = {key: m for key, m in metrics_of(STUDY, values).items() if not key.endswith("s3")}
    assert "over 2 seeds" in study_lead(study_results(STUDY, expand(STUDY), two))


def test_measures_are_titled_in_words() -> None:
    assert measure_title("policy_report.ppo_kl|grpo_kl") == "PPO KL or GRPO KL"
    assert measure_title("bt_reward_model.heldout_loss") == "Heldout loss"
