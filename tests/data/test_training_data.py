"""Confidence proxies and filters, pairs from repeated scores, feedback under a constitution."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reward_harness.data.confidence import (
    confidences,
    keep_confident,
    length_stratum,
    proxy_confidence,
)
from reward_harness.data.distill import distilled_pairs
from reward_harness.data.files import read_records
from reward_harness.data.mixture import Part, mixed
from reward_harness.data.records import Message, PreferencePair, prompt_key
from reward_harness.data.scored import ScoredResponse
from reward_harness.errors import DataError
from reward_harness.llm.feedback import (
    CheckedFeedback,
    ModelFeedback,
    Preferred,
    read_constitution,
    tidied,
)
from reward_harness.llm.roles import open_roles
from reward_harness.prompts import load_templates
from reward_harness.rewards.base import Failed
from reward_harness.sections import DistilledSection, Endpoint, MixPart, SourceUse
from reward_harness.spec import read_experiment
from reward_harness.stages.make import make

PROMPTS = Path(__file__).resolve().parents[2] / "prompts"
ASK = [Message(role="user", content="why is the sky blue?")]
texts = st.text(alphabet="ab c", max_size=24)


def pair(
    name: str,
    chosen: str = "a b",
    rejected: str = "c",
    margin: float | None = None,
    source: str = "x",
):
    return PreferencePair(
        pair_id=name, prompt=ASK, chosen=chosen, rejected=rejected, source=source, margin=margin
    )


def test_the_proxy_weighs_length_and_wording():
    found = proxy_confidence("the cat sat on the mat", "the dog sat on the mat quietly")
    assert found == pytest.approx(0.4 * (1 / 6.5) + 0.6 * (1 - 2 / 7))
    assert found == pytest.approx(0.490110, abs=1e-6)


@given(first=texts, second=texts)
def test_the_proxy_is_symmetric_and_bounded(first: str, second: str):
    value = proxy_confidence(first, second)
    assert value == proxy_confidence(second, first) and 0 <= value <= 1
    assert proxy_confidence(first, first) == 0


def test_the_top_share_is_kept_in_order_and_ties_go_by_id():
    pairs = [pair(name) for name in "dcba"]
    kept = keep_confident(pairs, [0.1, 0.9, 0.5, 0.5], fraction=0.5)
    assert [p.pair_id for p in kept] == ["c", "a"]
    assert [p.pair_id for p in keep_confident(pairs, [0.1, 0.9, 0.5, 0.5], threshold=0.5)] == list(
        "cba"
    )
    assert keep_confident(pairs, [1, 2, 3, 4], fraction=1.0) == pairs
    hundred = [pair(str(number)) for number in range(100)]
    shares = (0.55, 0.07, 0.501, 0.29)
    sizes = [len(keep_confident(hundred, [*range(100)], fraction=share)) for share in shares]
    assert sizes == [55, 7, 51, 29]


def test_a_stratified_filter_loses_no_stratum():
    longer = [pair(f"l{i}", chosen="a b c") for i in range(4)]
    shorter = [pair(f"s{i}", rejected="a b c") for i in range(4)]
    scores = [0.9, 0.8, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1]
    plain = keep_confident(longer + shorter, scores, fraction=0.5)
    fair = keep_confident(longer + shorter, scores, fraction=0.5, stratify=length_stratum)
    assert [p.pair_id for p in plain] == ["l0", "l1", "l2", "l3"]
    assert [p.pair_id for p in fair] == ["l0", "l1", "s0", "s1"]


def test_margins_need_a_source_that_grades():
    assert confidences([pair("a", margin=-0.5)], "margin") == [0.5]
    with pytest.raises(DataError, match="'a' has no margin"):
        confidences([pair("a")], "margin")


def scored(name: str, score: float, std: float = 0.0) -> ScoredResponse:
    return ScoredResponse(
        response_id=name, prompt=ASK, response=f"text {name}", score=score, std=std
    )


def test_pairs_are_best_against_worst_and_neighbours_beyond_margin_and_noise():
    rows = [scored("a", 1.0), scored("b", 0.9, 0.05), scored("c", 0.5, 0.05), scored("d", 0.0, 0.6)]
    pairs, origins = distilled_pairs(rows, DistilledSection())
    assert [p.pair_id for p in pairs] == ["a>d", "b>c"]
    assert pairs[1].margin == pytest.approx(0.4) and origins[1].noise == pytest.approx(0.1)
    free = DistilledSection(min_margin=0.05, noise_factor=0.0)
    assert [p.pair_id for p in distilled_pairs(rows, free)[0]] == ["a>d", "c>d", "b>c", "a>b"]
    few = free.model_copy(update={"max_pairs_per_prompt": 2})
    assert [p.pair_id for p in distilled_pairs(rows, few)[0]] == ["a>d", "c>d"]
    assert distilled_pairs([], few) == ([], [])


def test_the_scores_of_held_out_prompts_do_not_decide_which_pairs_are_trained_on():
    other = [Message(role="user", content="held out")]
    held = [scored(f"h{s}", s).model_copy(update={"prompt": other}) for s in (0.0, 0.5, 1.0)]
    rows = [scored("a", 0.1), scored("b", 0.05), scored("c", 0.0), *held]
    section = DistilledSection(min_margin=0.15)
    key = prompt_key(ASK)
    assert key not in {prompt_key(p.prompt) for p in distilled_pairs(rows, section)[0]}
    pairs, _ = distilled_pairs(rows, section, lambda found: found == key)
    trained = [p.pair_id for p in pairs if prompt_key(p.prompt) == key]
    assert trained == [p.pair_id for p in distilled_pairs(rows[:3], section)[0]] != []


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8))
def test_every_pair_beats_its_noise(scores: list[float]):
    rows = [scored(str(i), s, std=0.02 * i) for i, s in enumerate(scores)]
    section = DistilledSection()
    pairs, origins = distilled_pairs(rows, section)
    assert len(pairs) == len(origins) <= section.max_pairs_per_prompt
    for origin in origins:
        assert origin.margin > origin.noise
        assert origin.margin >= section.min_margin * (max(scores) - min(scores))


def test_the_offline_judge_prefers_what_keeps_the_principles():
    judge = CheckedFeedback(read_constitution(PROMPTS))
    good = "Air scatters blue light more than red, so blue reaches us from all sides of the sky."
    bad = (
        "Great question! The sky is blue. The sky is blue. The sky is always blue, everyone knows."
    )
    there = asyncio.run(judge.prefer("why is the sky blue?", good, bad))
    back = asyncio.run(judge.prefer("why is the sky blue?", bad, good))
    assert (there.preference, there.confidence, back.preference) == (1, "high", -1)
    assert asyncio.run(judge.prefer("x", good, good)) == Preferred(0, "low")


def test_a_revision_drops_openers_repetitions_and_torn_ends():
    draft = "Great question! Air scatters light. Air scatters light. Blue the most. And then the"
    assert tidied(draft) == "Air scatters light. Blue the most."
    revised = asyncio.run(CheckedFeedback(read_constitution(PROMPTS)).revise("why blue?", draft))
    assert revised.response == tidied(draft) and "direct" in revised.critique
    assert tidied("torn end") == "torn end"


class Judge(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint that prefers the longer side and counts what it is asked."""

    asked: ClassVar[list[dict]] = []
    biased = False

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        user = json.loads(body["messages"][1]["content"])
        type(self).asked.append(user)
        if "left" in user:
            lead = 1 if self.biased else len(user["left"]) - len(user["right"])
            reply = {"preference": (lead > 0) - (lead < 0), "confidence": "medium"}
        elif "draft" in user:
            reply = {"critique": "too short", "response": user["draft"] + " indeed."}
        else:
            reply = {"response": "a draft"}
        content = json.dumps({"choices": [{"message": {"content": json.dumps(reply)}}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def endpoint(monkeypatch):
    Judge.asked, Judge.biased = [], False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Judge)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FEEDBACK_KEY", "secret")
    yield Endpoint(
        base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key_env="FEEDBACK_KEY", model="m"
    )
    server.shutdown()
    server.server_close()


def with_model(endpoint: Endpoint, store: Path, ask):
    async def run():
        roles = open_roles(endpoint, load_templates(None, "en"), store)
        feedback = ModelFeedback(roles, read_constitution(PROMPTS))
        found = await ask(feedback)
        await roles.aclose()
        return found

    return asyncio.run(run())


def test_a_model_judges_both_orders_and_is_never_asked_again(endpoint, tmp_path):
    def ask(feedback):
        return feedback.prefer("why?", "a long answer", "short")

    found = with_model(endpoint, tmp_path / "s.sqlite", ask)
    assert found == Preferred(1, "medium", True) and len(Judge.asked) == 2
    assert set(Judge.asked[0]) == {"prompt", "left", "right", "principles"}
    assert with_model(endpoint, tmp_path / "s.sqlite", ask) == found and len(Judge.asked) == 2


def test_a_judge_that_goes_by_position_prefers_nothing(endpoint, tmp_path):
    Judge.biased = True
    found = with_model(
        endpoint, tmp_path / "s", lambda f: f.prefer("why?", "a long answer", "short")
    )
    assert found == Preferred(0, "low", False)


def test_a_model_drafts_and_revises(endpoint, tmp_path):
    async def both(feedback):
        draft = await feedback.draft("why?")
        assert not isinstance(draft, Failed)
        return await feedback.revise("why?", draft)

    found = with_model(endpoint, tmp_path / "s", both)
    assert (found.response, found.critique) == ("a draft indeed.", "too short")


def test_a_mixture_is_the_largest_that_keeps_the_ratio_and_repeats_nothing():
    parts = [
        Part("human", 3.0, [pair(str(i)) for i in range(9)]),
        Part("ai", 1.0, [pair(str(i)) for i in range(10)]),
    ]
    found = mixed(parts, seed=0)
    names = [p.pair_id.split("/")[0] for p in found]
    assert (names.count("human"), names.count("ai")) == (9, 3)
    assert len({p.pair_id for p in found}) == 12 and found == mixed(parts, seed=0)
    even = mixed([replace(parts[0], weight=1.0), parts[1]], seed=0)
    assert {p.pair_id for p in found if p.pair_id.startswith("ai")} <= {p.pair_id for p in even}
    with pytest.raises(DataError, match="no part in the mixture"):
        mixed([replace(parts[0], weight=100.0), parts[1]], seed=0)
    alone = mixed([replace(parts[0], weight=0.0), parts[1]], seed=0)
    assert len(alone) == 10 and {p.source for p in alone} == {"ai"}


def test_a_dataset_stage_mixes_sources_and_filters_its_training_pairs(workspace):
    text = """\
extends: smoke
dataset:
  preferences:
    source: smoke
    weight: 2
    mix: [{source: sums, weight: 1}]
    limit: 40
    confidence: {by: proxy, keep: 0.5, stratify: length}
"""
    (workspace.experiments / "mixed.yaml").write_text(text)
    (workspace.experiments / "whole.yaml").write_text(text.replace("keep: 0.5", "keep: 1.0"))
    half, whole = (
        make(workspace, read_experiment(workspace.experiments, key), "preference_pairs")[0]
        for key in ("mixed", "whole")
    )
    splits = {
        (name, split): read_records(artifact.file(f"{split}.jsonl"), PreferencePair)
        for name, artifact in (("half", half), ("whole", whole))
        for split in ("train", "test")
    }
    assert splits["half", "test"] == splits["whole", "test"]
    assert 0.5 <= len(splits["half", "train"]) / len(splits["whole", "train"]) < 0.6
    assert {p.pair_id.split("/")[0] for p in splits["whole", "train"]} == {"smoke", "sums"}
    assert half.manifest.notes["source"] == "smoke + sums"


def test_mixtures_of_any_ratio_are_held_to_the_same_pairs(workspace):
    text = """\
extends: smoke
dataset:
  preferences: {source: smoke, weight: W, mix: [{source: sums, weight: 1}], limit: 40}
"""
    splits = {}
    for weight in (0, 3):
        key = f"weight-{weight}"
        (workspace.experiments / f"{key}.yaml").write_text(text.replace("W", str(weight)))
        artifact = make(workspace, read_experiment(workspace.experiments, key), "preference_pairs")[
            0
        ]
        for split in ("train", "test"):
            splits[weight, split] = read_records(artifact.file(f"{split}.jsonl"), PreferencePair)
    assert splits[0, "test"] == splits[3, "test"]
    assert {p.source for p in splits[0, "test"]} == {"smoke", "sums"}
    assert {p.source for p in splits[0, "train"]} == {"sums"}
    sources = [p.source for p in splits[3, "train"]]
    assert abs(sources.count("smoke") - 3 * sources.count("sums")) <= 3


def test_a_limit_of_the_training_split_nests_and_leaves_what_is_held_out(workspace):
    text = "extends: smoke\ndataset: {preferences: {source: smoke, train_limit: N}}\n"
    found = {}
    for limit in ("2", "4", "null"):
        (workspace.experiments / "some.yaml").write_text(text.replace("N", limit))
        spec = read_experiment(workspace.experiments, "some")
        artifact = make(workspace, spec, "preference_pairs")[0]
        for split in ("train", "test"):
            records = read_records(artifact.file(f"{split}.jsonl"), PreferencePair)
            found[limit, split] = {p.pair_id for p in records}
            if split == "train" and limit != "null":
                assert len({prompt_key(p.prompt) for p in records}) == int(limit)
    assert found["2", "train"] < found["4", "train"] < found["null", "train"]
    assert found["2", "test"] == found["null", "test"]


def test_a_filter_by_lot_keeps_as_many_and_others_for_another_seed():
    pairs = [pair(str(i)) for i in range(40)]
    kept = [
        {p.pair_id for p in keep_confident(pairs, confidences(pairs, "random", s), fraction=0.5)}
        for s in (0, 0, 1)
    ]
    assert kept[0] == kept[1] != kept[2] and len(kept[2]) == 20


def test_a_mixture_of_nothing_is_an_error():
    with pytest.raises(ValidationError, match="at least one weight"):
        SourceUse(source="a", weight=0, mix=[MixPart(source="b", weight=0)])
