"""The weekly re-search through the real graph: the incumbent stays unless something better came."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest
import yaml

from harness_assets.graph import stage_key
from harness_jobs.definitions import defs, job_named
from harness_jobs.registry import registered_instance
from harness_jobs.schedules import weekly_rubric_research
from harness_resources.store import Store
from reward_harness.spec import read_experiment
from reward_harness.stages.make import Services, make
from reward_harness.stages.reproduce import reproduce
from reward_harness.store import ArtifactStore
from reward_harness.workspace import Workspace
from tests.graph.conftest import planned, stale_stages
from tests.llm.simulator import Simulator

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("graph"), pytest.mark.timeout(900)]
MONDAY = datetime(2026, 1, 5, 3, tzinfo=UTC)
LIKED = ("because", "water", "seven")
DECOYS = ("stone", "river", "blue")
RUBRIC_STAGES = ("ranked_prompts", "rubric_population", "best_rubric")


def asked_on(workspace: Workspace, day: datetime) -> dict[str, dg.RunRequest]:
    """The schedule's requests of one tick, by experiment."""
    with (
        registered_instance(workspace, []) as instance,
        dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=day,
            resources={"store": Store()},
            repository_def=defs().get_repository_def(),
        ) as context,
    ):
        found = weekly_rubric_research.evaluate_tick(context).run_requests
    return {str(request.partition_key): request for request in found}


def researched(workspace: Workspace, request: dg.RunRequest) -> dict[str, dg.MetadataValue]:
    """Run what the schedule asked for; the metadata of ``best_rubric``."""
    with registered_instance(workspace, []) as instance:
        result = job_named("search_rubrics").execute_in_process(
            instance=instance,
            partition_key=request.partition_key,
            run_config=request.run_config,
            asset_selection=list(request.asset_selection or ()),
            tags=dict(request.tags),
        )
    (event,) = result.asset_materializations_for_node("rubrics__best_rubric")
    return dict(event.metadata)


def test_a_research_that_finds_nothing_better_publishes_the_incumbent_again(
    finished: Workspace,
) -> None:
    store = ArtifactStore(finished.runs)
    population, best = (store.current("smoke", name) for name in RUBRIC_STAGES[1:])
    request = asked_on(finished, MONDAY)["smoke"]
    metadata = researched(finished, request)
    found = store.current("smoke", "rubric_population")
    assert found.digest != population.digest
    kept = store.current("smoke", "best_rubric")
    assert kept.digest == best.digest
    assert kept.publication.inputs["rubric_population"] == found.digest
    assert stale_stages(finished, "smoke") == planned(finished, "smoke") == set()
    made = metadata["made"].value
    assert made.startswith("re-search 2026-01-05: the one in force, published again; ")
    note = kept.publication.notes["comparison"]
    assert note["incumbent"] == best.digest and not note["replaced"]
    if note["difference"] is not None:
        assert note["difference"]["ci_low"] <= 0
    assert researched(finished, request)["made"].value.startswith("reused")
    assert store.current("smoke", "rubric_population").digest == found.digest
    assert reproduce(finished, found.manifest.artifact_id, Services()).same_content
    assert reproduce(finished, kept.manifest.artifact_id, Services()).same_content


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulator]:
    """An endpoint whose proposer, at first, names no word that the ranks are about."""
    with Simulator(vocabulary=DECOYS, liked=LIKED) as running:
        monkeypatch.setenv("LLM_API_KEY", running.key)
        monkeypatch.setenv("LLM_BASE_URL", running.url)
        yield running


def ranked_by_words(workspace: Workspace) -> None:
    """A source and the experiment `better` on it: responses with more liked words rank higher."""
    counts, lines = [0, 1, 2, 3], []
    for number in range(40):
        rng = random.Random(number)
        candidates = []
        for count in rng.sample(counts, len(counts)):
            words = rng.sample(LIKED, count) + [w for w in DECOYS if rng.random() < 0.5]
            text = f"Answer {number}: {' '.join(rng.sample(words, len(words)))}."
            named = f"c{number}-{count}"
            candidates.append({"candidate_id": named, "text": text, "rank": len(counts) - count})
        prompt = [{"role": "user", "content": f"What is number {number}?"}]
        line = {"prompt_id": f"p{number}", "prompt": prompt, "candidates": candidates}
        lines.append(json.dumps(line))
    (workspace.data / "words.jsonl").write_text("\n".join(lines) + "\n")
    source = {"description": "Counted words.", "licence": "none", "reader": "ranked-prompts"}
    source |= {"path": "data/words.jsonl", "fields": ["prompt_id", "prompt", "candidates"]}
    (workspace.sources / "words.yaml").write_text(yaml.safe_dump(source))
    search = {"backend": "openai", "generations": 2, "population_size": 3}
    body = {"extends": "tour", "search": search, "dataset": {"ranked": {"source": "words"}}}
    (workspace.experiments / "better.yaml").write_text(yaml.safe_dump(body))


def test_a_better_rubric_replaces_the_incumbent_with_the_comparison_beside_it(
    workspace: Workspace, endpoint: Simulator
) -> None:
    ranked_by_words(workspace)
    with registered_instance(workspace, ["better"]):
        pass
    spec = read_experiment(workspace.experiments, "better")
    first = [make(workspace, spec, name)[0] for name in RUBRIC_STAGES][-1]
    endpoint.vocabulary = (*LIKED, DECOYS[0])
    metadata = researched(workspace, asked_on(workspace, MONDAY)["better"])
    best = ArtifactStore(workspace.runs).current("better", "best_rubric")
    assert best.digest != first.digest
    rows = {row.data["rubric"]: row.data for row in metadata["comparison"].records}
    assert rows["challenger"]["agreement"] > rows["in force"]["agreement"]
    note = best.publication.notes["comparison"]
    assert note["replaced"] and note["incumbent"] == first.digest
    assert note["difference"]["ci_low"] > 0
    assert best.manifest.metrics["heldout_agreement"].value == note["challenger"]["value"]
    assert metadata["made"].value.startswith("re-search 2026-01-05: found by this run; ")
    criteria = [row.data for row in metadata["criteria"].records]
    assert "mentions" in criteria[0]["criterion"] and criteria[0]["graded by"] == "model"
    better, worse = (float(grade) for grade in criteria[0]["grades"].split(" : "))
    assert better > worse
    assert "data:image/png;base64," in metadata["summary"].value
    assert {"rubric_population", "best_rubric"}.isdisjoint(planned(workspace, "better"))


def test_experiments_without_held_out_prompts_are_not_searched_again(
    workspace: Workspace, edit: Callable[..., None]
) -> None:
    with registered_instance(workspace, ["smoke", "tour"]):
        pass
    edit("smoke", lambda spec: spec["search"].update(scope="prompt_local"))
    assert set(asked_on(workspace, MONDAY)) == {"tour"}
    (selected,) = asked_on(workspace, MONDAY).values()
    assert selected.asset_selection == [stage_key(name) for name in RUBRIC_STAGES[1:]]
