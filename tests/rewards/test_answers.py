"""The exact-answer reward: what counts as the answer, its artifact, and its way through the stages."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from reward_harness.data.files import read_records
from reward_harness.data.records import Message, RLPrompt, prompt_key
from reward_harness.errors import ArtifactError, DataError
from reward_harness.rewards.answers import AnswerRM, last_number
from reward_harness.rewards.base import Abstained, conversation_of
from reward_harness.rewards.load import load_rm
from reward_harness.rm.answers import answers_artifact
from reward_harness.rm.artifact import write_artifact
from reward_harness.spec import read_experiment
from reward_harness.stages.make import make
from tests.conftest import copy_project

QUESTION = "What is 4 plus 7?"
CHAINED = ("preference_pairs", "rl_prompts", "rm_artifact", "rm_deployment")


def asked(answer: str | None, question: str = QUESTION) -> RLPrompt:
    prompt = [Message(role="user", content=question)]
    return RLPrompt(prompt_id="one", prompt=prompt, answer=answer, source="toy")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4 + 7 = 11.", "11"),
        ("11, because 4 and 7", "7"),
        ("It costs $1,234.50", "1234.50"),
        ("minus: -3", "-3"),
        ("11-7", "7"),
        ("one of 3,4", "4"),
        ("GPT4 says nothing", None),
        ("", None),
    ],
)
def test_the_answer_is_the_last_number(text: str, number: str | None):
    assert last_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("response", "score"),
    [("11", 1.0), ("4 + 7 = 11.", 1.0), ("11, for 4 + 7 = 12", 0.0), ("I do not know", 0.0)],
)
def test_a_response_is_worth_its_exact_answer(response: str, score: float):
    rm = AnswerRM({prompt_key(asked(None).prompt): "11"})
    assert rm.score(conversation_of(QUESTION, response)) == score


def test_a_prompt_without_a_known_answer_is_not_scored():
    rm = AnswerRM({prompt_key(asked(None).prompt): "11"})
    (found,) = rm.score_batch_results([conversation_of("What is 1 plus 1?", "2")])
    assert isinstance(found, Abstained)


def test_answers_are_packaged_in_one_file_whose_content_is_checked(tmp_path: Path):
    artifact = answers_artifact([asked("11")])
    rm = load_rm(write_artifact(artifact, tmp_path / "rm.json"))
    assert rm.score(conversation_of(QUESTION, "It is 11.")) == 1.0
    changed = (tmp_path / "rm.json").read_text().replace('"11"', '"12"')
    (tmp_path / "rm.json").write_text(changed)
    with pytest.raises(ArtifactError, match="does not match the artifact id"):
        load_rm(tmp_path / "rm.json")


@pytest.mark.parametrize(("answer", "reason"), [(None, "without an answer"), ("B", "not a number")])
def test_a_prompt_whose_answer_is_no_number_is_an_error(answer: str | None, reason: str):
    with pytest.raises(DataError, match=reason):
        answers_artifact([asked(answer)])


def test_the_shipped_experiment_gates_and_deploys_the_answers_of_its_prompts(tmp_path: Path):
    workspace = copy_project(tmp_path / "project")
    spec = read_experiment(workspace.experiments, "sums")
    made = {name: make(workspace, spec, name)[0] for name in CHAINED}
    splits = {
        split: read_records(made["rl_prompts"].file(f"{split}.jsonl"), RLPrompt)
        for split in ("train", "test")
    }
    assert sum(map(len, splits.values())) == 100 and len(splits["test"]) >= 30
    artifact = made["rm_artifact"]
    assert all(gate.passed for gate in artifact.manifest.gates.values())
    assert artifact.manifest.metrics["heldout_agreement"].value == 1.0
    rm = load_rm(artifact.path)
    for prompt in (*splits["train"], *splits["test"]):
        question = prompt.prompt[0].content
        assert rm.score(conversation_of(question, f"That is {prompt.answer}.")) == 1.0
        assert rm.score(conversation_of(question, question)) == 0.0
