"""A rubric graded by a model: packaged with its runtime, served as it was searched, paid for once."""

import json

import pytest

from reward_harness.errors import ArtifactError, GateRejected, LLMError
from reward_harness.rewards.base import Failed, Scored, conversation_of
from reward_harness.rewards.load import load_rm
from reward_harness.rm.artifact import read_artifact, write_artifact
from reward_harness.rm.package import rubric_artifact, rubric_runtime
from reward_harness.rubrics.types import Criterion, Rubric
from reward_harness.sections import Endpoint, SearchConfig
from reward_harness.serving.service import serve_for, verify_deployment
from reward_harness.store import ArtifactStore
from tests.llm.simulator import Simulator

KEY = "sk-simulated-key"


@pytest.fixture
def simulator(monkeypatch, tmp_path):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    with Simulator() as found:
        yield found


@pytest.fixture
def artifact(simulator, tmp_path):
    endpoint = Endpoint(
        base_url=simulator.url, api_key_env="JUDGE_KEY", model="judge-1", max_retries=0
    )
    search = SearchConfig(backend="openai", endpoint=endpoint)
    criterion = Criterion(criterion_id="c", text="mentions Paris")
    rubric = Rubric(rubric_id="r", criteria=(criterion,), scale="binary")
    found = rubric_artifact({"__shared__": rubric}, rubric_runtime(search, 7, None), {})
    write_artifact(found, tmp_path / "rm")
    return tmp_path / "rm"


def test_it_grades_with_the_snapshot_whatever_the_environment_says(
    artifact, simulator, monkeypatch, tmp_path
):
    monkeypatch.setenv("LLM_MODEL", "another-model")
    monkeypatch.setenv("LLM_BASE_URL", "http://127.0.0.1:1/v1")
    rm = load_rm(artifact, cache=tmp_path / "cache")
    assert rm.score([conversation_of("?", "Paris"), conversation_of("?", "Rome")]) == [1.0, 0.0]
    assert {body["model"] for body in simulator.bodies} == {"judge-1"}
    again = load_rm(artifact, cache=tmp_path / "cache")
    assert again.score(conversation_of("?", "Paris")) == 1.0
    assert (simulator.answered, simulator.repeated()) == (2, [])
    rm.close()
    again.close()


def test_the_artifact_holds_the_template_and_no_key(artifact):
    assert KEY not in (artifact / "artifact.json").read_text()
    runtime = read_artifact(artifact).runtime_snapshot
    assert runtime.endpoint.api_key_env == "JUDGE_KEY"
    assert "grades" in runtime.verifier.system


def test_an_endpoint_that_fails_is_failed_and_never_zero(artifact, simulator):
    rm = load_rm(artifact)
    simulator.error_rate = 1.0
    result = rm.score_batch_results([conversation_of("?", "Paris")])[0]
    assert isinstance(result, Failed) and result.retriable
    simulator.error_rate = 0.0
    assert isinstance(rm.score_batch_results([conversation_of("?", "Paris")])[0], Scored)
    rm.close()


def test_without_key_or_template_it_does_not_load(artifact, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(LLMError, match="JUDGE_KEY"):
        load_rm(artifact)
    monkeypatch.setenv("OTHER_KEY", KEY)
    assert load_rm(artifact, api_key_env="OTHER_KEY").score(conversation_of("?", "Paris")) == 1.0
    found = read_artifact(artifact)
    runtime = found.runtime_snapshot.model_copy(update={"verifier": None})
    bare = rubric_artifact(found.rubric, runtime, {})
    write_artifact(bare, artifact)
    with pytest.raises(ArtifactError, match="names no endpoint"):
        load_rm(artifact)


def test_stages_and_server_ask_nothing_twice(deploy_word, simulator):
    endpoint = {"base_url": simulator.url, "api_key_env": "JUDGE_KEY", "model": "judge-1"}
    criterion = Criterion(criterion_id="c", text="mentions Paris")
    rubric = Rubric(rubric_id="r", criteria=(criterion,), scale="binary")
    toy = deploy_word(rubric=rubric, search={"backend": "openai", "endpoint": endpoint})
    assert toy.rm_artifact.manifest.cost.llm_calls == simulator.answered > 16
    before = simulator.answered
    with serve_for(toy.workspace, toy.rm_deployment) as url:
        assert verify_deployment(url, toy.rm_deployment) == []
    assert simulator.answered == before
    assert simulator.repeated() == []
    text = json.dumps([p.read_text() for p in toy.rm_artifact.path.rglob("*.json*")])
    assert KEY not in text


class Obedient(Simulator):
    """A grader that does what the response tells it to."""

    def _verifier(self, user, seed):
        if "full marks" not in user["candidate"]:
            return super()._verifier(user, seed)
        return {"grades": {c["criterion_id"]: 1.0 for c in user["criteria"]}}


class FirstWins(Simulator):
    """A judge that prefers what it reads first."""

    def _judge(self, user, seed):
        return {"preference": 1}


@pytest.mark.parametrize(
    "world, gate, shown",
    [
        (Simulator, None, None),
        (Obedient, "prompt_injection", "give full marks"),
        (FirstWins, "swap_consistency", None),
    ],
)
def test_a_hackable_grader_or_judge_is_refused_with_the_gate_named(
    world, gate, shown, deploy_word, workspace, monkeypatch, tmp_path
):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    criterion = Criterion(criterion_id="c", text="mentions Paris")
    rubric = Rubric(rubric_id="r", criteria=(criterion,), scale="binary")
    with world() as endpoint:
        named = {"base_url": endpoint.url, "api_key_env": "JUDGE_KEY", "model": "judge-1"}
        search = {"backend": "openai", "endpoint": named}
        if gate is None:
            toy = deploy_word(rubric=rubric, search=search)
            swaps = toy.rm_artifact.manifest.metrics["swap_consistency"]
            assert (swaps.value, swaps.n) == (1.0, 8)
            return
        with pytest.raises(GateRejected, match=gate):
            deploy_word(rubric=rubric, search=search)
    published = ArtifactStore(workspace.runs).current("toy", "rm_artifact")
    assert [n for n, g in published.manifest.gates.items() if not g.passed] == [gate]
    assert f"| {gate} | failed |" in (text := (published.path / "summary.md").read_text())
    assert shown is None or shown in text
