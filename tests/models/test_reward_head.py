from pathlib import Path

import pytest
import torch
from transformers import MPNetConfig, MPNetModel, RobertaConfig, RobertaModel

from reward_harness.errors import ArtifactError
from reward_harness.models.folders import model_folder
from reward_harness.models.reward_head import RewardBatch, RewardModel
from reward_harness.models.step_head import EncodedSteps, encode_steps, step_features
from reward_harness.models.tiny import encoder_tokenizer
from reward_harness.sections import ModelSpec

CONVERSATIONS = [
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello there"}],
    [
        {"role": "user", "content": "what is the way?"},
        {"role": "assistant", "content": "left"},
        {"role": "user", "content": "and then, after the long water?"},
        {"role": "assistant", "content": "you go up and over the first one"},
    ],
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def reward_model(cache: Path, name: str, max_length: int = 128, **settings) -> RewardModel:
    folder = model_folder(ModelSpec(source="random", name=name), cache)
    model = RewardModel.from_backbone(folder, max_length=max_length, **settings)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.mark.parametrize(
    ("name", "pooling"),
    [("tiny-encoder", "mean"), ("tiny-encoder", "response_mean"), ("tiny-causal", "last")],
)
def test_left_and_right_padding_and_the_batch_do_not_change_a_score(cache: Path, name, pooling):
    model = reward_model(cache, name, pooling=pooling)
    rows = [model.encode(c) for c in CONVERSATIONS]
    with torch.no_grad():
        left, right = model(model.batch(rows, "left")), model(model.batch(rows, "right"))
        alone = torch.cat([model(model.batch([row])) for row in rows])
    assert torch.allclose(left, right, atol=1e-5)
    assert torch.allclose(alone, right, atol=1e-5)
    assert abs(float(right[0] - right[1])) > 1e-3


def test_an_encoder_reads_cls_context_sep_response_sep(cache: Path):
    model = reward_model(cache, "tiny-encoder")
    row = model.encode(CONVERSATIONS[0])
    tokenizer = model.tokenizer
    assert tokenizer.decode(row.ids) == "[CLS]user: hi[SEP]hello there[SEP]"
    assert tokenizer.decode(row.ids[slice(*row.pooled)]) == "hello there[SEP]"
    whole = reward_model(cache, "tiny-encoder", pooling="mean").encode(CONVERSATIONS[0])
    assert whole.pooled == (0, len(whole.ids))


def test_a_decoder_reads_the_end_token_and_not_padding(cache: Path):
    model = reward_model(cache, "tiny-causal")
    row = model.encode(CONVERSATIONS[0])
    assert row.ids[slice(*row.pooled)] == (model.tokenizer.eos_token_id,)
    batch = model.batch([row, model.encode(CONVERSATIONS[1])])
    read = batch.ids[batch.weights.bool()]
    assert read.tolist() == [model.tokenizer.eos_token_id] * 2
    assert model.tokenizer.pad_token_id != model.tokenizer.eos_token_id


@pytest.mark.parametrize("name", ["tiny-encoder", "tiny-causal"])
def test_truncation_keeps_the_response_and_is_counted(cache: Path, name: str):
    whole = reward_model(cache, name).encode(CONVERSATIONS[1])
    short = reward_model(cache, name, max_length=len(whole.ids) - 10).encode(CONVERSATIONS[1])
    assert (whole.cut_context, short.cut_context, short.cut_response) == (0, 10, 0)
    assert "you go up and over the first one" in reward_model(cache, name).tokenizer.decode(
        short.ids
    )
    tiny = reward_model(cache, name, max_length=8).encode(CONVERSATIONS[1])
    assert len(tiny.ids) <= 8 and tiny.cut_response > 0


def test_scores_keep_the_order_of_the_conversations(cache: Path):
    model = reward_model(cache, "tiny-encoder")
    scores = model.score_conversations(CONVERSATIONS * 3, batch_tokens=64)
    assert scores[:2] == pytest.approx(scores[2:4], abs=1e-5)
    assert scores[0] == pytest.approx(model.score_conversations(CONVERSATIONS[:1])[0], abs=1e-5)
    assert scores[0] != pytest.approx(scores[1], abs=1e-3)
    assert model.score_conversations([]) == []


@pytest.mark.parametrize("name", ["tiny-encoder", "tiny-causal"])
def test_a_saved_model_gives_the_same_scores(cache: Path, tmp_path: Path, name: str):
    model = reward_model(cache, name)
    model.save(tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    assert {
        "reward_head.safetensors",
        "reward_model.json",
        "config.json",
        "model.safetensors",
    } <= names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pkl"))]
    assert RewardModel.load(tmp_path).score_conversations(CONVERSATIONS) == pytest.approx(
        model.score_conversations(CONVERSATIONS), abs=1e-6
    )


def test_an_untrained_head_gives_zero_and_has_no_bias(cache: Path):
    folder = model_folder(ModelSpec(source="random", name="tiny-encoder"), cache)
    model = RewardModel.from_backbone(folder, max_length=64)
    assert model.head.bias is None
    assert model.score_conversations(CONVERSATIONS) == [0.0, 0.0]


def test_a_folder_without_a_head_is_not_a_reward_model(cache: Path):
    with pytest.raises(ArtifactError, match="not a reward model"):
        RewardModel.load(model_folder(ModelSpec(source="random", name="tiny-encoder"), cache))


def test_a_model_of_the_last_turn_scores_only_the_message_that_is_answered(cache, tmp_path):
    model = reward_model(cache, "tiny-encoder", reads="last_turn")
    model.save(tmp_path)
    loaded = RewardModel.load(tmp_path)
    whole, last = CONVERSATIONS[1], CONVERSATIONS[1][2:]
    assert loaded.encode(whole) == loaded.encode(last)
    assert loaded.score_conversations([whole]) == pytest.approx(model.score_conversations([last]))
    everything = reward_model(cache, "tiny-encoder")
    assert everything.encode(whole) != everything.encode(last)


@pytest.mark.parametrize("kind", [(RobertaConfig, RobertaModel), (MPNetConfig, MPNetModel)])
def test_backbones_that_count_positions_from_their_padding_are_asked_as_they_count(tmp_path, kind):
    config, backbone = kind
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    settings = config(
        vocab_size=1000, num_hidden_layers=1, initializer_range=0.2, pad_token_id=1, **sizes
    )
    torch.manual_seed(0)
    backbone(settings, add_pooling_layer=False).save_pretrained(tmp_path)
    encoder_tokenizer().save_pretrained(tmp_path)
    model = RewardModel.from_backbone(tmp_path, max_length=64, pooling="mean")
    ids = torch.arange(5, 11)[None]
    batch = RewardBatch(ids, torch.ones_like(ids), torch.full(ids.shape, 1 / 6))
    with torch.no_grad():
        # without positions given, the backbone numbers them itself
        states = model.backbone(input_ids=ids).last_hidden_state[0]
        found = model.pool(batch)[0]
        (step,) = step_features(model, [EncodedSteps(tuple(range(5, 11)), ((2, 6),))])
        rows = [model.encode(c) for c in CONVERSATIONS]
        left, right = model.pool(model.batch(rows, "left")), model.pool(model.batch(rows, "right"))
    assert torch.allclose(found, states.mean(dim=0), atol=1e-6)
    assert torch.allclose(step, states[2:6].mean(dim=0), atol=1e-6)
    assert torch.allclose(left, right, atol=1e-5)


def test_a_decoder_scores_a_response_to_nothing(cache: Path):
    model = reward_model(cache, "tiny-causal")
    bare, empty = CONVERSATIONS[0][1:], [{"role": "user", "content": ""}, CONVERSATIONS[0][1]]
    assert model.score_conversations([bare]) == model.score_conversations([empty])
    assert "hello there" in model.tokenizer.decode(model.encode(bare).ids)
    assert encode_steps(model, [], ["one", "two"]) == encode_steps(model, empty[:1], ["one", "two"])
    last = reward_model(cache, "tiny-causal", reads="last_turn")
    assert last.encode(bare) == model.encode(bare)
