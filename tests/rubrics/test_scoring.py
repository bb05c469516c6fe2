"""The scoring formula, with the numbers of its specification, and a rubric's identity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reward_harness.rewards.base import Abstained, Failed, Scored
from reward_harness.rubrics.checks import WordCount
from reward_harness.rubrics.types import Criterion, Rubric, scale_grade, score, unit_grade


def rubric(*weights: float, polarity: tuple[int, ...] = (), **fields) -> Rubric:
    signs = polarity or (1,) * len(weights)
    criteria = [
        Criterion(criterion_id=f"c{i}", text=f"criterion {i}", weight=w, polarity=p)
        for i, (w, p) in enumerate(zip(weights, signs, strict=True))
    ]
    return Rubric(rubric_id="r", criteria=criteria, **fields)


def units(scale: str, *values: float | None) -> dict[str, float | None]:
    return {f"c{i}": None if v is None else unit_grade(scale, v) for i, v in enumerate(values)}


def value(r: Rubric, grades) -> float:
    result = score(r, grades)
    assert isinstance(result, Scored)
    return result.value


def test_spec_numbers():
    assert value(rubric(2, 1, scale="binary"), units("binary", 1, 0)) == pytest.approx(2 / 3)
    assert value(rubric(2, 1), units("likert_0_5", 5, 2.5)) == pytest.approx(0.833333, abs=1e-6)
    assert value(rubric(1, 1), units("likert_0_5", 5, 2.5)) == pytest.approx(0.75)
    assert value(rubric(1, 1, missing="skip"), units("likert_0_5", 4, None)) == pytest.approx(0.8)


@pytest.mark.parametrize("scale", ["unit_0_1", "likert_1_5", "likert_0_5"])
@given(st.floats(0, 1), st.floats(0, 1))
def test_scales_are_strictly_increasing(scale, first, second):
    low, high = sorted((scale_grade(scale, first), scale_grade(scale, second)))
    if high - low > 1e-6:
        assert unit_grade(scale, low) < unit_grade(scale, high)


def test_scales_are_linear_and_declared():
    assert [unit_grade("likert_0_5", v) for v in (1, 1.5, 2)] == pytest.approx([0.2, 0.3, 0.4])
    assert [unit_grade("likert_1_5", v) for v in (1, 3, 5)] == [0, 0.5, 1]
    with pytest.raises(ValueError, match="outside likert_1_5"):
        unit_grade("likert_1_5", 0)


def test_missing_grades():
    grades = units("unit_0_1", 1, None)
    assert value(rubric(1, 1, missing="no"), grades) == 0.5
    assert value(rubric(1, 1, missing="skip"), grades) == 1.0
    assert isinstance(score(rubric(1, 1, missing="error"), grades), Failed)
    assert isinstance(score(rubric(1, 1, missing="skip"), {}), Abstained)


def test_weight_zero_everywhere_is_uniform():
    assert value(rubric(0, 0), units("unit_0_1", 1, 0)) == 0.5


def test_polarity_minus_one_counts_the_fault():
    assert value(rubric(1, 1, polarity=(1, -1)), units("unit_0_1", 1, 1)) == 0.5
    assert value(rubric(1, 1, polarity=(1, -1)), units("unit_0_1", 1, 0.25)) == pytest.approx(0.875)


def test_unknown_criterion_is_refused():
    assert isinstance(score(rubric(1), {"c0": 1.0, "ghost": 1.0}), Failed)


@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 1)), min_size=1, max_size=6),
    st.integers(0, 5),
    st.floats(0, 1),
)
def test_a_better_grade_never_lowers_the_score(parts, index, better):
    r = rubric(*[w for w, _ in parts])
    grades = {f"c{i}": g for i, (_, g) in enumerate(parts)}
    name = f"c{index % len(parts)}"
    improved = {**grades, name: max(grades[name], better)}
    assert value(r, improved) >= value(r, grades) - 1e-12


@given(st.floats(0, 5), st.sampled_from(["likert_0_5"]))
def test_scale_round_trip(grade, scale):
    assert scale_grade(scale, unit_grade(scale, grade)) == pytest.approx(grade)


@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 1)), min_size=1, max_size=6),
    st.integers(0, 5),
    st.floats(0, 1),
)
def test_more_of_a_fault_never_raises_the_score(parts, index, worse):
    r = rubric(*[w for w, _ in parts], polarity=(-1,) * len(parts))
    grades = {f"c{i}": g for i, (_, g) in enumerate(parts)}
    name = f"c{index % len(parts)}"
    assert value(r, {**grades, name: max(grades[name], worse)}) <= value(r, grades) + 1e-12


grade_rows = st.lists(
    st.tuples(st.floats(0, 10), st.sampled_from([1, -1]), st.one_of(st.none(), st.floats(0, 1))),
    min_size=1,
    max_size=6,
)


@given(grade_rows, st.sampled_from(["no", "skip"]), st.randoms(use_true_random=False))
def test_order_and_ids_change_neither_score_nor_identity(rows, missing, random):
    r = rubric(*[w for w, _, _ in rows], polarity=tuple(p for _, p, _ in rows), missing=missing)
    grades = {f"c{i}": g for i, (_, _, g) in enumerate(rows)}
    order = list(range(len(rows)))
    random.shuffle(order)
    moved = Rubric(
        rubric_id="moved",
        criteria=[r.criteria[i].model_copy(update={"criterion_id": f"x{i}"}) for i in order],
        missing=missing,
    )
    assert moved.digest == r.digest
    first, second = score(r, grades), score(moved, {f"x{i}": grades[f"c{i}"] for i in order})
    if isinstance(first, Scored):
        assert isinstance(second, Scored)
        assert second.value == pytest.approx(first.value)
        assert -1e-12 <= first.value <= 1 + 1e-12
    else:
        assert isinstance(second, Abstained)


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.sampled_from(["text", "weight", "polarity"]))
def test_another_content_is_another_rubric(first, second, field):
    r = rubric(first, second)
    known = r.digest
    other = {"text": "another", "weight": first + 1, "polarity": -1}[field]
    changed = r.criteria[0].model_copy(update={field: other})
    assert r.model_copy(update={"criteria": (changed, r.criteria[1])}).digest != known


def test_identity_is_content():
    a = rubric(2, 1)
    renamed = Rubric(
        rubric_id="other",
        criteria=[c.model_copy(update={"criterion_id": f"x{i}"}) for i, c in enumerate(a.criteria)][
            ::-1
        ],
        metadata={"note": 1},
    )
    assert renamed.digest == a.digest
    assert rubric(2, 1.5).digest != a.digest
    assert rubric(2, 1, scale="binary").digest != a.digest
    assert Rubric.model_validate_json(a.model_dump_json()).digest == a.digest


def test_a_check_belongs_to_programmatic_criteria_only():
    with pytest.raises(ValidationError, match="programmatic criterion has a check"):
        Criterion(criterion_id="a", text="b", check=WordCount())
    with pytest.raises(ValidationError, match="programmatic criterion has a check"):
        Criterion(criterion_id="a", text="b", kind="programmatic")


def test_duplicate_ids_are_refused():
    c = Criterion(criterion_id="a", text="b")
    with pytest.raises(ValidationError, match="duplicate criterion_id"):
        Rubric(rubric_id="r", criteria=[c, c])
