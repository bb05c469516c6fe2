"""Provenance over artifacts that a store really published."""

from __future__ import annotations

import io
import json
import shutil

import pytest
from rich.console import Console

from reward_harness.errors import ArtifactError
from reward_harness.lineage.provenance import lineage_of
from reward_harness.lineage.show import lineage_json, lineage_text
from reward_harness.store import Artifact
from reward_harness.workspace import Workspace
from tests.lineage.conftest import Publish


@pytest.fixture
def graph(publish: Publish) -> dict[str, Artifact]:
    made = {"ranked_prompts": publish("exp", "ranked_prompts", {})}
    made["rubric_population"] = publish(
        "exp", "rubric_population", {"ranked_prompts": made["ranked_prompts"]}
    )
    made["best_rubric"] = publish(
        "exp",
        "best_rubric",
        {name: made[name] for name in ("ranked_prompts", "rubric_population")},
    )
    made["rm_artifact"] = publish(
        "exp", "rm_artifact", {"best_rubric": made["best_rubric"]}, gate=False
    )
    return made


def test_the_tree_holds_every_upstream_artifact_once(store, graph):
    lineage = lineage_of(store, "exp")
    assert [root.stage for root in lineage.roots] == ["rm_artifact"]
    assert {node.digest for node in lineage.nodes()} == {a.digest for a in graph.values()}
    assert len(lineage.nodes()) == 4


def test_costs_are_summed_over_artifacts_not_over_paths(store, graph):
    cost = lineage_of(store, "exp").total_cost()
    assert (cost.llm_calls, cost.seconds, cost.peak_memory_bytes) == (8, 6.0, 7)


def test_one_stage_shows_only_what_it_was_made_from(store, graph):
    nodes = lineage_of(store, "exp", "rubric_population").nodes()
    assert [node.stage for node in nodes] == ["rubric_population", "ranked_prompts"]


def test_an_old_input_stays_in_the_lineage_after_a_newer_one_was_published(store, graph, publish):
    newer = publish("exp", "ranked_prompts", {}, content="changed")
    assert newer.digest != graph["ranked_prompts"].digest
    upstream = {n.digest for n in lineage_of(store, "exp", "rm_artifact").nodes()}
    assert graph["ranked_prompts"].digest in upstream
    assert newer.digest not in upstream
    roots = {root.stage for root in lineage_of(store, "exp").roots}
    assert roots == {"rm_artifact", "ranked_prompts"}


def test_inputs_of_another_experiment_are_followed(store, graph, publish):
    board = publish("all", "leaderboard", {"exp/rm_artifact": graph["rm_artifact"]})
    lineage = lineage_of(store, "all")
    assert lineage.roots[0].digest == board.digest
    assert lineage.roots[0].inputs[0].identity == (
        "exp",
        "rm_artifact",
        graph["rm_artifact"].digest,
    )
    assert len(lineage.nodes()) == 5


def test_a_deleted_artifact_is_named_as_missing(store, graph):
    shutil.rmtree(graph["ranked_prompts"].path)
    nodes = {node.stage: node for node in lineage_of(store, "exp", "rm_artifact").nodes()}
    assert nodes["ranked_prompts"].digest == graph["ranked_prompts"].digest
    assert nodes["ranked_prompts"].manifest is None


def test_an_unknown_experiment_is_an_error_with_advice(store):
    with pytest.raises(ArtifactError, match=r"harness experiment run nothing"):
        lineage_of(store, "nothing")


def test_json_and_text_name_digests_code_costs_and_gates(store, graph):
    workspace = Workspace(store.root.parents[1])
    record = json.loads(lineage_json(workspace, "exp", None))
    root = record["artifacts"][record["roots"][0]]
    assert root["digest"] == graph["rm_artifact"].digest
    assert root["inputs"] == {"best_rubric": f"exp/best_rubric/{graph['best_rubric'].digest}"}
    assert root["code"]["version"] == "3"
    assert root["gates"]["attack"]["passed"] is False
    assert root["cost"]["llm_calls"] == 2
    assert record["total_cost"]["llm_calls"] == 8

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(lineage_text(workspace, "exp"))
    text = console.export_text()
    assert graph["best_rubric"].digest[:12] in text
    assert "gates failed: attack" in text
    assert text.count("· above") == 1
