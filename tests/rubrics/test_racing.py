"""Racing and pooled fitting: fewer calls, the hidden rubric found, one result however often it is
interrupted.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.hidden_rubrics import FEATURES, HiddenRubric, hidden_weights, records
from benchmarks.hidden_rubrics import true_agreement as outcomes_of
from reward_harness.errors import BudgetExceeded
from reward_harness.llm.gateway import Caps
from reward_harness.rubrics.search.racing import anchors_of, candidate_order
from reward_harness.rubrics.search.session import SearchResult, SearchSession, search_rubrics
from reward_harness.rubrics.search.surroundings import Surroundings
from reward_harness.sections import Endpoint, SearchConfig

SEED = 1
DATA = records(SEED, 24, 12)
UNSEEN = records(SEED, 100, 8, start=1000)


@pytest.fixture
def world(monkeypatch):
    with HiddenRubric(seed=SEED) as running:
        monkeypatch.setenv("TEST_KEY", running.key)
        yield running


def config(world: HiddenRubric, **changed) -> SearchConfig:
    endpoint = Endpoint(base_url=world.url, api_key_env="TEST_KEY", model="m", max_retries=4)
    return SearchConfig(backend="openai", endpoint=endpoint, **changed)


def agreement(rubric) -> float:
    return float(np.mean([v for prompt in outcomes_of(SEED, rubric, UNSEEN) for v in prompt]))


def initial_of(result: SearchResult):
    unit = result.state.units[0]
    return next(m.rubric for m in unit.archive if m.rubric.digest == unit.initial)


def test_the_world_has_mostly_decoys():
    weights = hidden_weights(SEED)
    assert len(FEATURES) - len(weights) >= 30
    assert set(weights) < set(FEATURES)


def test_anchors_are_a_seeded_part_or_nothing():
    cells = anchors_of(range(40), [16] * 40, 3)
    assert cells is not None
    assert (len(cells.prompts), cells.candidates) == (10, 8)
    assert cells == anchors_of(range(40), [16] * 40, 3)
    assert cells != anchors_of(range(40), [16] * 40, 4)
    assert anchors_of(range(8), [6] * 8, 3) is None
    one = anchors_of([5], [16], 3)
    assert one is not None
    assert (one.prompts, one.candidates) == ((5,), 8)
    assert sorted(candidate_order(16, 3, "p")) == list(range(16))


def test_a_hidden_rubric_is_recovered_on_unseen_prompts(world):
    result = search_rubrics(DATA, config(world), seed=SEED)
    assert world.named["true"] <= 0.2 * world.named["all"]
    assert agreement(initial_of(result)) <= 0.65
    assert agreement(result.best_rubrics["__shared__"]) >= 0.9
    assert world.repeated() == []


def test_racing_and_fitting_are_what_finds_it_cheaply(world):
    search_rubrics(DATA, config(world, generations=5), seed=SEED)
    raced = world.roles["verifier"]
    world.roles.clear()
    search_rubrics(DATA, config(world, generations=5, racing=False), seed=SEED)
    assert raced < 0.85 * world.roles["verifier"]
    unfitted = search_rubrics(DATA, config(world, fit_weights=False), seed=SEED)
    assert agreement(unfitted.best_rubrics["__shared__"]) < 0.9


def test_interrupted_at_many_points_it_finds_the_same_and_pays_once(world, tmp_path):
    whole = search_rubrics(DATA, config(world, generations=5), seed=SEED)
    needed, stops = world.answered, 0
    world.paid.clear()
    around = Surroundings(
        cache=tmp_path / "cache",
        checkpoint=tmp_path / "search.json",
        caps=Caps(max_calls=needed // 7 + 1),
    )
    while True:
        try:
            result = search_rubrics(DATA, config(world, generations=5), seed=SEED, around=around)
        except BudgetExceeded:
            stops += 1
            continue
        if result.out_of_budget is None:
            break
        stops += 1
    assert stops >= 6
    assert result.best_rubrics == whole.best_rubrics
    assert world.repeated() == []
    assert world.answered == needed


def test_a_session_shows_what_each_generation_admitted(world):
    session = SearchSession.create(DATA, config(world, generations=2), seed=SEED)
    session.run()
    session.close()
    unit = session.state.units[0]
    assert unit.pool
    assert sum(record.tried for record in unit.stats.modes.values()) > 0
