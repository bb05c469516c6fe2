"""Published reward models on their own shapes, against the arithmetic that their authors publish."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from reward_harness.errors import ArtifactError, ScoringError, SpecError
from reward_harness.models.published import NATIVE
from reward_harness.rewards.base import Failed, conversation_of
from reward_harness.rewards.pretrained import load_pretrained
from tests.rewards import published_models as tiny

CHATS = [
    conversation_of("what is two and two?", "it is four, as everybody who can count should know"),
    conversation_of("name a city", "Paris"),
    conversation_of("say nothing", ""),
]
STEPS = ["First, two and two.", "That is four.", "So the answer is four."]
RESPONSE = "\n\n".join(STEPS)


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("published")


def rendered(tokenizer, chat) -> torch.Tensor:
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    return tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]


def test_a_sequence_classifier_scores_as_transformers_does(room: Path):
    folder = tiny.llama_classifier(room / "llama")
    rm = load_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        expected = [float(model(rendered(tokenizer, chat)).logits[0, 0]) for chat in CHATS]
    assert rm.score(CHATS) == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 4) for value in expected}) == 3
    value, details = rm.score(CHATS[0], return_details=True)
    assert details["raw_logits"] == [value]
    assert details["tokens_scored"] == rendered(tokenizer, CHATS[0]).shape[1]


def test_left_and_right_padding_give_the_same_number(room: Path):
    model = load_pretrained(tiny.llama_classifier(room / "padding")).model
    rows = [model.encode(chat) for chat in CHATS]
    assert len({len(row) for row in rows}) == 3
    left, right = model.score_ids(rows, "left"), model.score_ids(rows, "right")
    assert left == pytest.approx(right, abs=1e-5)
    assert [model.score_ids([row])[0] for row in rows] == pytest.approx(right, abs=1e-5)


def test_trailing_padding_tokens_that_belong_to_the_text_are_read(room: Path):
    model = load_pretrained(tiny.llama_classifier(room / "ends")).model
    pad = model.opened.tokenizer.pad_token_id
    row = model.encode(CHATS[0])
    alone, longer = model.score_ids([row])[0], model.score_ids([[*row, pad]])[0]
    assert model.score_ids([row, [*row, pad]]) == pytest.approx([alone, longer], abs=1e-5)
    assert abs(alone - longer) > 1e-3


def test_batches_keep_to_the_token_budget_and_each_text_is_tokenised_once(room, monkeypatch):
    rm = load_pretrained(tiny.llama_classifier(room / "budget"), batch_tokens=64)
    chats = [conversation_of("?", "word " * n) for n in (1, 30, 2, 25, 3, 1, 12)]
    shapes, encoded = [], []
    states, encode = rm.model.opened.states, rm.model.encode
    monkeypatch.setattr(
        type(rm.model.opened),
        "states",
        lambda self, ids, mask: shapes.append(tuple(ids.shape)) or states(ids, mask),
    )
    monkeypatch.setattr(rm.model, "encode", lambda chat: encoded.append(chat) or encode(chat))
    together = rm.score(chats)
    assert len(encoded) == len(chats) - 1  # one text stands twice
    assert all(rows * width <= 64 or rows == 1 for rows, width in shapes)
    assert sum(rows for rows, _ in shapes) == 6
    assert together == pytest.approx([rm.score(chat) for chat in chats], abs=1e-5)


def test_too_long_a_conversation_keeps_its_end(room: Path):
    rm = load_pretrained(tiny.llama_classifier(room / "long"), max_length=16)
    value, details = rm.score(conversation_of("question " * 50, "the end"), return_details=True)
    assert details["tokens_scored"] == 16
    assert value == pytest.approx(rm.score(conversation_of("question " * 80, "the end")), abs=1e-5)


def test_an_encoder_reads_prompt_and_response_as_a_pair(room: Path):
    folder = tiny.bert_classifier(room / "bert")
    rm = load_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    with torch.inference_mode():
        for chat in CHATS:
            pair = tokenizer(chat[0]["content"], chat[1]["content"], return_tensors="pt")
            assert chat[1]["content"] == "" or pair["token_type_ids"].sum() > 0
            expected.append(float(model(**pair).logits[0, 0]))
    assert rm.score(CHATS) == pytest.approx(expected, abs=1e-5)


def test_a_model_without_reward_head_or_with_two_labels_is_refused(room: Path):
    from safetensors.torch import load_file, save_file

    folder = tiny.llama_classifier(room / "headless")
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"no reward head.*score\.weight"):
        load_pretrained(folder)
    with pytest.raises(SpecError, match="num_labels=3"):
        load_pretrained(tiny.llama_classifier(room / "three", labels=3))
    with pytest.raises(SpecError, match="is no reward model"):
        load_pretrained(tiny.llama_causal(room / "plain"))


def test_qwen_math_rm_reads_two_layers_at_the_last_token(room: Path):
    folder = tiny.qwen_reward(room / "qwen-rm", "Qwen2ForRewardModel")
    rm = load_pretrained(folder)
    model = NATIVE["Qwen2ForRewardModel"].from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = []
    with torch.inference_mode():
        for chat in CHATS:
            state = model.model(rendered(tokenizer, chat)).last_hidden_state[0, -1]
            first, _, second = model.score
            expected.append(float(second(torch.relu(first(state)))))
    assert rm.score(CHATS) == pytest.approx(expected, abs=1e-5)


def test_internlm2_reward_needs_consent_and_reads_its_reward_token(room: Path):
    folder = tiny.internlm_reward(room / "internlm2-7b-reward")
    with pytest.raises(SpecError, match="trust_remote_code=True"):
        load_pretrained(folder)
    rm = load_pretrained(folder, trust_remote_code=True)
    model, token = rm.model.opened.model, rm.model.opened.settings.reward_token_id
    assert type(model).__name__ == "InternLM2ForRewardModel"
    ids = rendered(rm.model.opened.tokenizer, CHATS[0])
    ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    with torch.inference_mode():
        expected = float(model.v_head(model.model(ids).last_hidden_state[0, -1]))
    assert rm.score(CHATS)[0] == pytest.approx(expected, abs=1e-5)


def test_qwen_math_prm_scores_each_step_at_its_token(room: Path):
    folder = tiny.qwen_reward(room / "qwen-prm", "Qwen2ForProcessRewardModel")
    rm = load_pretrained(folder, aggregation="min")
    model = NATIVE["Qwen2ForProcessRewardModel"].from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = conversation_of("what is two and two?", "<extra_0>".join(STEPS) + "<extra_0>")
    ids = rendered(tokenizer, chat)
    with torch.inference_mode():
        logits = model.score(model.model(ids).last_hidden_state)[0].softmax(-1)
    expected = logits[ids[0] == tokenizer.convert_tokens_to_ids("<extra_0>"), 1].tolist()
    assert rm.score_steps("what is two and two?", RESPONSE) == pytest.approx(expected, abs=1e-5)
    assert len(expected) == 3
    assert rm.score(prompt="what is two and two?", response=RESPONSE) == pytest.approx(
        min(expected), abs=1e-5
    )
    smuggled = RESPONSE.replace("four.", "four.<extra_0>")
    assert rm.score_steps("what is two and two?", smuggled) == pytest.approx(expected, abs=1e-5)


def test_rlhflow_prm_reads_plus_against_minus_step_by_step(room: Path):
    folder = tiny.llama_causal(room / "RLHFlow-Llama3.1-8B-PRM")
    rm = load_pretrained(folder, aggregation="mean")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    marks = [tokenizer.encode(mark, add_special_tokens=False)[-1] for mark in "+-"]
    turns, expected = [], []
    for number, step in enumerate(STEPS):
        turns.append({"role": "user", "content": step if number else f"2+2? {step}"})
        turns.append({"role": "assistant", "content": "+"})
        ids = rendered(tokenizer, turns)[0].tolist()
        answer = len(ids) - 1 - ids[::-1].index(marks[0])
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, answer - 1, marks]
        expected.append(float(logits.softmax(-1)[0]))
    assert rm.score_steps("2+2?", RESPONSE) == pytest.approx(expected, abs=1e-5)
    assert rm.score(prompt="2+2?", response=RESPONSE) == pytest.approx(sum(expected) / 3, abs=1e-5)


def test_a_token_classifier_scores_the_separator_after_each_step(room: Path):
    folder = tiny.qwen_tokens(room / "trl-prm")
    rm = load_pretrained(folder)
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids_of(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    ids, ends = [tokenizer.bos_token_id, *ids_of("2+2?")], []
    for step in STEPS:
        ids += ids_of(step) + ids_of("\n")
        ends.append(len(ids) - 1)
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0, ends].softmax(-1)[:, 1].tolist()
    assert rm.score_steps("2+2?", RESPONSE) == pytest.approx(expected, abs=1e-5)
    later = rm.score_steps("2+2?", f"{RESPONSE}\n\nAnd nothing else matters.")
    assert later[:3] == pytest.approx(expected, abs=1e-5)


def test_what_is_too_long_or_has_no_steps_has_no_score(room: Path):
    rm = load_pretrained(tiny.qwen_tokens(room / "short-prm"), max_length=24)
    fits, too_long, empty = rm.score_batch_results(
        [
            conversation_of("2+2?", "four"),
            conversation_of("2+2?", "word " * 100),
            conversation_of("2+2?", " \n\n "),
        ]
    )
    assert 0 < fits.value < 1
    assert isinstance(too_long, Failed)
    assert "reads at most 24" in too_long.error
    assert empty.reason == "the response has no steps"
    with pytest.raises(ScoringError, match="reads at most 24"):
        rm.score_steps("2+2?", "word " * 100)
    with pytest.raises(ScoringError, match="not steps"):
        load_pretrained(tiny.llama_classifier(room / "orm")).score_steps("2+2?", RESPONSE)
