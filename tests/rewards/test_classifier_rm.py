from pathlib import Path

import pytest

from reward_harness.errors import ArtifactError
from reward_harness.rewards.base import Failed, conversation_of
from reward_harness.rewards.classifier import ClassifierRM, Normalization
from reward_harness.rewards.load import load_rm
from reward_harness.rm.artifact import Scaling, read_artifact, write_artifact
from reward_harness.rm.package import describe_classifier, link_tree

CHATS = [
    conversation_of(
        "what is two and two?", "it is four, as everybody who counts on fingers can check"
    ),
    conversation_of("name a city", "Paris"),
    conversation_of(
        [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello"},
            {"role": "user", "content": "bye"},
        ],
        "see you",
    ),
]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    import torch

    from reward_harness.models.embedded import model_folder as folder_of
    from reward_harness.models.reward_head import RewardModel
    from reward_harness.sections import ModelSpec

    cache = tmp_path_factory.mktemp("cache")
    backbone = folder_of(ModelSpec(source="random", name="tiny-encoder"), cache)
    model = RewardModel.from_backbone(backbone, max_length=64)
    torch.manual_seed(1)
    torch.nn.init.normal_(model.head.weight)
    model.save(cache / "reward")
    return cache / "reward"


@pytest.fixture
def artifact_folder(model_folder: Path, tmp_path: Path) -> Path:
    link_tree(model_folder, tmp_path / "rm" / "model")
    write_artifact(
        describe_classifier(tmp_path / "rm" / "model", Scaling(mean=1.0, std=2.0, n=8)),
        tmp_path / "rm",
    )
    return tmp_path / "rm"


def test_scores_are_the_models_and_do_not_depend_on_company(model_folder: Path):
    rm = ClassifierRM.load(model_folder)
    together = rm.score(CHATS)
    assert together == pytest.approx(rm.model.score_conversations(CHATS), abs=1e-6)
    assert [rm.score(chat) for chat in CHATS] == pytest.approx(together, abs=1e-6)
    assert len(set(together)) == 3


def test_details_hold_the_logit_and_the_normalized_score(model_folder: Path):
    rm = ClassifierRM.load(model_folder, normalization=Normalization(mean=1.0, std=2.0))
    value, details = rm.score(CHATS[0], return_details=True)
    assert details["raw_logits"] == [value]
    assert details["normalized_score"] == pytest.approx((value - 1.0) / 2.0)
    assert details["tokens_scored"] == len(rm.model.encode(CHATS[0]).ids)


def test_a_bad_conversation_fails_alone(model_folder: Path):
    results = ClassifierRM.load(model_folder).score_batch_results([CHATS[0], [], CHATS[1]])
    assert isinstance(results[1], Failed)
    assert results[0].value != results[2].value


def test_equal_conversations_are_computed_once(model_folder: Path, monkeypatch):
    rm = ClassifierRM.load(model_folder)
    expected, sizes, forward = rm.score(CHATS), [], rm.model.score_counted
    monkeypatch.setattr(
        rm.model, "score_counted", lambda batch: sizes.append(len(batch)) or forward(batch)
    )
    assert rm.score([*CHATS, *reversed(CHATS)]) == pytest.approx(
        [*expected, *reversed(expected)], abs=1e-6
    )
    assert sizes == [3]


def test_an_empty_response_has_a_finite_score(model_folder: Path):
    assert ClassifierRM.load(model_folder).score_batch([conversation_of("?", "")])[0] is not None


def test_the_artifact_scores_as_the_model(model_folder: Path, artifact_folder: Path):
    rm = load_rm(artifact_folder)
    assert rm.score(CHATS) == pytest.approx(ClassifierRM.load(model_folder).score(CHATS), abs=1e-6)
    assert rm.artifact_id == read_artifact(artifact_folder).artifact_id
    assert rm.score(CHATS[0], return_details=True)[1]["artifact_id"] == rm.artifact_id


def test_one_changed_byte_of_the_weights_is_refused(artifact_folder: Path):
    head = artifact_folder / "model" / "reward_head.safetensors"
    data = bytearray(head.read_bytes())
    data[-1] ^= 1
    head.unlink()  # a hard link: the original stays as it is
    head.write_bytes(data)
    with pytest.raises(ArtifactError, match="does not match its digest"):
        load_rm(artifact_folder)


def test_weights_do_not_fit_into_one_file(artifact_folder: Path, tmp_path: Path):
    with pytest.raises(ArtifactError, match="Export to a folder"):
        write_artifact(read_artifact(artifact_folder), tmp_path / "rm.json")
