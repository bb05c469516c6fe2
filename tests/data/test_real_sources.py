"""The pins of the shipped sources against the real files (set HARNESS_DATA_MIRROR to a folder that has them)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from reward_harness.data.derive import derive
from reward_harness.data.readers import READERS
from reward_harness.data.records import PreferencePair, RLPrompt
from reward_harness.data.source_spec import read_source
from reward_harness.data.sources import resolve
from reward_harness.spec import read_experiment
from reward_harness.stages.make import make
from reward_harness.workspace import Workspace

pytestmark = pytest.mark.real_data

COUNTS = {
    "hh-rlhf-harmless": (2303, 9),
    "gsm8k": (7473, 0),
    "gsm8k-solutions": (7473, 0),
    "gsm8k-test": (1319, 0),
    "prm800k-validation": (1818, 0),
    "big-bench-mistake": (2186, 0),
    "gsm8k-steps": (7473 + 5416, 0),
    "alpaca-eval-test": (1877, 0),
    "alpaca-demo": (999, 0),
    "prometheus-vicuna": (80, 0),
}


@pytest.fixture(autouse=True)
def mirror() -> Iterator[None]:
    if not os.environ.get("HARNESS_DATA_MIRROR"):
        pytest.skip("HARNESS_DATA_MIRROR is not set")
    yield


@pytest.mark.parametrize("name", COUNTS)
def test_a_shipped_source_resolves_to_what_it_pins(workspace: Workspace, name: str) -> None:
    spec = read_source(workspace, name)
    resolved = resolve(workspace, name, READERS[spec.reader or ""].record)
    assert (len(resolved.records), len(resolved.left_out)) == COUNTS[name]
    assert resolved.sha256 == spec.sha256
    assert resolved.origin == "mirror"


def test_gsm8k_answers_are_numbers(workspace: Workspace) -> None:
    for prompt in resolve(workspace, "gsm8k", RLPrompt).records:
        assert prompt.answer is not None
        float(prompt.answer)


def test_hh_harmless_holds_out_more_than_700_pairs(workspace: Workspace) -> None:
    spec = read_experiment(workspace.experiments, "hh-harmless")
    metrics = make(workspace, spec, "preference_pairs")[0].manifest.metrics
    assert metrics["records_test"].value == 737
    assert metrics["left_out"].value == 9
    assert metrics["longer_wins_share"].value == pytest.approx(0.4401, abs=1e-4)
    assert metrics["near_duplicate_share"].value < 0.02
    pairs = resolve(workspace, "hh-rlhf-harmless", PreferencePair).records
    assert len(derive(pairs, RLPrompt)) == 2301
