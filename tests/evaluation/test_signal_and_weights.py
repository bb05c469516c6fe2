"""Signal design on criteria whose worth is known, and weights of a composite on toy responses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toy_rewards import HOW

from reward_harness.data.records import Candidate, Message, RankedPrompt
from reward_harness.errors import DataError
from reward_harness.evaluation.report import render
from reward_harness.evaluation.signal_design import (
    GradedItems,
    design_signal,
    fit_weights,
    signal_metrics,
)
from reward_harness.evaluation.signal_page import signal_page, signal_summary
from reward_harness.evaluation.weights import weigh, weights_metrics
from reward_harness.evaluation.weights_page import weights_page, weights_summary

GROUPS, EACH = 60, 5
PARTS = ("fit", "fit", "validate", "measure")


def items(*columns: str, seed: int = 0) -> GradedItems:
    """Criteria by name: strong and weak signals, noise, the opposite, a constant, half missing."""
    rng = np.random.default_rng(seed)
    n = GROUPS * EACH
    truth = rng.normal(size=n)
    made = {
        "strong": truth + 0.3 * rng.normal(size=n),
        "weak": truth + 2.0 * rng.normal(size=n),
        "noise": rng.normal(size=n),
        "opposite": -truth + 0.3 * rng.normal(size=n),
        "constant": np.ones(n),
        "gaps": np.where(rng.uniform(size=n) < 0.5, np.nan, truth),
    }
    return GradedItems(
        names=columns,
        descriptions=[f"about {name}" for name in columns],
        grades=np.stack([made[name] for name in columns], axis=1),
        truth=truth,
        groups=[f"g{i // EACH}" for i in range(n)],
        parts=[PARTS[i // EACH % 4] for i in range(n)],
    )


def designed(*columns: str):
    return design_signal(items(*columns), HOW, experiment="toy", domain="text", proxy="a rule")


def test_criteria_that_follow_the_truth_are_kept_and_others_dropped():
    found = designed("strong", "weak", "opposite", "constant", "gaps")
    by_name = {c.name: c for c in found.criteria}
    assert [name for name, c in by_name.items() if c.kept] == ["strong", "weak", "gaps"]
    assert by_name["strong"].spearman.low > 0.8
    assert by_name["opposite"].spearman.high < -0.8
    assert by_name["constant"].spearman is None
    assert by_name["gaps"].graded_share == pytest.approx(0.5, abs=0.1)
    assert sum(c.weight for c in found.criteria) == pytest.approx(1.0)
    assert by_name["strong"].weight > by_name["weak"].weight
    assert by_name["opposite"].weight == 0.0 and by_name["opposite"].loss is None


def test_fitted_weights_beat_equal_ones_where_criteria_differ_in_worth():
    found = designed("strong", "weak")
    assert found.fitted.value > 0.85
    assert found.fitted_over_equal.low > 0
    assert found.groups == {"fit": 30, "validate": 15, "measure": 15}


def test_ablation_finds_the_criterion_that_carries_the_signal():
    by_name = {c.name: c for c in designed("strong", "weak").criteria}
    assert by_name["strong"].loss.low > 0.05
    assert by_name["weak"].loss.value < 0.05


def test_weights_are_equal_where_nothing_tells_criteria_apart():
    twins = items("strong", "strong")
    weights = fit_weights(twins, twins.grades, [0, 1])
    assert weights == pytest.approx([0.5, 0.5], abs=1e-3)


def test_no_signal_is_said_and_an_empty_part_is_an_error():
    found = designed("opposite", "constant")
    assert found.fitted is None and signal_metrics(found)["criteria_kept"].value == 0
    page = render(signal_page(found, []))
    assert "there is no signal" in page and "Do not train on this signal." in page
    some = items("strong")
    with pytest.raises(DataError, match="a part has no items"):
        design_signal(
            GradedItems(
                some.names,
                some.descriptions,
                some.grades,
                some.truth,
                some.groups,
                ["fit"] * len(some.groups),
            ),
            HOW,
            experiment="toy",
            domain="text",
            proxy="a rule",
        )


def test_the_signal_page_walks_the_five_steps():
    found = designed("strong", "weak", "noise")
    page = render(signal_page(found, []))
    for heading in ("1, 2 · Name", "3 · Validate", "4 · Weight", "5 · Ablate"):
        assert heading in page
    assert "| strong · about strong |" in signal_summary(found)


def ranked(n: int = 40) -> list[RankedPrompt]:
    """Each prompt: a good short response and a worse, verbose one."""
    return [
        RankedPrompt(
            prompt_id=f"r{i}",
            prompt=[Message(role="user", content=f"Task {i}")],
            candidates=[
                Candidate(candidate_id="a", text="Do this.", rank=1),
                Candidate(candidate_id="b", text="Great question! " + "word " * 30, rank=2),
            ],
        )
        for i in range(n)
    ]


def test_weights_show_what_a_verbose_reward_picks_before_any_training():
    prompts = ranked()
    # the learned part prefers the verbose response, both rules the short one
    parts = [np.array([[0.4, 1.0, 1.0], [0.7, 0.0, 0.5]]) for _ in prompts]
    found = weigh(prompts, parts, HOW, experiment="toy", learned="a toy")
    alone, rules = found.rows[0], found.rows[-1]
    assert (alone.verbose_rate.value, rules.verbose_rate.value) == (1.0, 0.0)
    assert (alone.best_share.value, rules.best_share.value) == (0.0, 1.0)
    assert rules.verbose_change.value == -1.0 and alone.verbose_change is None
    assert found.all_verbose.value == found.all_best.value == 0.5
    assert alone.score_mean.value == pytest.approx(0.55)
    assert alone.score_std == pytest.approx(0.15)
    assert rules.words_change.value == 2 - 32
    assert weights_metrics(found)["verbose_100_0_0"].value == 1.0
    page = render(weights_page(found, []))
    assert "prefers verbose responses" in page
    assert "| 1 / 0 / 0 |" in weights_summary(found)


def test_prompts_with_an_unscored_response_are_left_out_and_counted():
    prompts = ranked(10)
    parts = [np.array([[0.4, 1.0, 1.0], [0.7, 0.0, 0.5]]) for _ in prompts]
    parts[3][0, 0] = np.nan
    found = weigh(prompts, parts, HOW, experiment="toy", learned="a toy")
    assert (found.n_prompts, found.unscored_share) == (9, pytest.approx(0.1))
