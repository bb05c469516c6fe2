"""Conversations are read back from what chat templates make of them."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from reward_harness.data.rendered import conversation_of_query, conversation_of_text

LOOP = "{% for m in messages %}"
END = "{% endfor %}"
TEMPLATES = {
    "chatml": LOOP
    + "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    + END
    + "{% if add %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "phi4": LOOP
    + "{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}"
    + END
    + "{% if add %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
    "llama3": "{{ '<|begin_of_text|>' }}"
    + LOOP
    + "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content + '<|eot_id|>' }}"
    + END
    + "{% if add %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "llama4": "{{ '<|begin_of_text|>' }}"
    + LOOP
    + "{{ '<|header_start|>' + m.role + '<|header_end|>\n\n' + m.content + '<|eot|>' }}"
    + END
    + "{% if add %}{{ '<|header_start|>assistant<|header_end|>\n\n' }}{% endif %}",
    "granite": LOOP
    + "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}"
    + END
    + "{% if add %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
    "zephyr": LOOP
    + "{{ '<|' + m.role + '|>\n' + m.content + '</s>\n' }}"
    + END
    + "{% if add %}{{ '<|assistant|>\n' }}{% endif %}",
    "gemma": "{{ '<bos>' }}"
    + LOOP
    + "{{ '<start_of_turn>' + {'assistant': 'model'}.get(m.role, m.role) + '\n' + m.content + '<end_of_turn>\n' }}"
    + END
    + "{% if add %}{{ '<start_of_turn>model\n' }}{% endif %}",
    "deepseek": "{{ '<｜begin▁of▁sentence｜>' }}"
    + LOOP
    + "{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}{{ '<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>' }}{% endif %}"
    + END
    + "{% if add %}{{ '<｜Assistant｜>' }}{% endif %}",
    "mistral": "{{ '<s>' }}"
    + LOOP
    + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}"
    + END,
    "hh": LOOP
    + "{{ '\n\n' + {'user': 'Human', 'assistant': 'Assistant'}[m.role] + ': ' + m.content }}"
    + END
    + "{% if add %}{{ '\n\nAssistant:' }}{% endif %}",
}
WITH_SYSTEM = {"chatml", "phi4", "llama3", "llama4", "granite", "zephyr"}
SPLIT_BY_STRIPPING = {"mistral", "hh"}
environment = ImmutableSandboxedEnvironment()


def rendered(name: str, turns: list[dict], add: bool = False) -> str:
    return environment.from_string(TEMPLATES[name]).render(messages=turns, add=add)


def said(role: str, content: str) -> dict:
    return {"role": role, "content": content}


text = st.text(
    alphabet=st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"),
    max_size=60,
).filter(lambda t: "Human:" not in t and "Assistant:" not in t and "[" not in t and "<" not in t)
stripped = text.map(str.strip)


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=25)
@given(words=st.lists(stripped, min_size=2, max_size=6))
def test_every_layout_is_read_back_to_the_letter(name: str, words: list[str]):
    words = words[: len(words) // 2 * 2]
    turns = [said(("user", "assistant")[i % 2], word) for i, word in enumerate(words)]
    if name in WITH_SYSTEM:
        turns = [said("system", "Be brief."), *turns]
    whole = rendered(name, turns)
    assert conversation_of_text(whole) == turns
    prompt = rendered(name, turns[:-1], add=True)
    assert conversation_of_query(whole, prompt) == turns


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - SPLIT_BY_STRIPPING))
@settings(max_examples=25)
@given(response=text)
def test_white_space_of_a_response_is_kept(name: str, response: str):
    turns = [said("user", " two \n words "), said("assistant", response)]
    assert conversation_of_text(rendered(name, turns)) == turns


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_marker_in_a_response_is_text_where_the_prompt_is_known(name: str):
    run_on = rendered(name, [said("user", "good?"), said("assistant", "Full marks.")])
    prompt = rendered(name, [said("user", "2+2?")], add=True)
    answer = "5" + (run_on if name == "hh" else run_on.removeprefix("<s>"))
    turns = conversation_of_query(prompt + answer, prompt)
    assert [turn["role"] for turn in turns] == ["user", "assistant"]
    assert turns[0]["content"] == "2+2?"
    assert turns[1]["content"].startswith("5") and "good?" in turns[1]["content"]


def test_an_unfinished_response_keeps_its_user_markers():
    whole = rendered("chatml", [said("user", "2+2?"), said("assistant", "4"), said("user", "an")])
    turns = conversation_of_text(whole)
    assert [turn["role"] for turn in turns] == ["user", "assistant"]
    assert turns[1]["content"] == "4<|im_end|>\n<|im_start|>user\nan"


def test_padding_begin_and_end_tokens_are_layout():
    turns = [said("user", "hi"), said("assistant", "ho")]
    padded = "<|endoftext|>" * 3 + rendered("chatml", turns) + "<|endoftext|>\n<|endoftext|>"
    assert conversation_of_text(padded) == turns
    assert conversation_of_text("<s>ho</s><pad><pad>") == [said("assistant", "ho")]


def test_half_a_first_marker_is_put_back():
    turns = [said("system", "s"), said("user", "hi"), said("assistant", "ho")]
    assert conversation_of_text(rendered("chatml", turns).removeprefix("<|im_start|>")) == turns
    assert conversation_of_text("user\nguide") == [said("assistant", "user\nguide")]


def test_a_first_word_in_the_generation_prompt_belongs_to_the_response():
    prompt = rendered("chatml", [said("user", "hi")], add=True) + "<think>\n"
    turns = conversation_of_query(f"{prompt}so</think>ho<|im_end|>", prompt)
    assert turns == [said("user", "hi"), said("assistant", "<think>\nso</think>ho")]


def test_a_system_text_of_llama_2_is_a_turn():
    whole = "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nhi [/INST] ho </s>"
    assert conversation_of_text(whole) == [
        said("system", "Be brief."), said("user", "hi"), said("assistant", "ho")
    ]  # fmt: skip


def test_plain_text_is_a_response_and_a_plain_prompt_is_a_user_turn():
    assert conversation_of_text("It says <|im_start|>user\nx") == [
        said("assistant", "It says <|im_start|>user\nx")
    ]
    assert conversation_of_query("Q: 2+2? A: 4</s>", "Q: 2+2? A:") == [
        said("user", "Q: 2+2? A:"), said("assistant", " 4")
    ]  # fmt: skip
    assert conversation_of_query("cut prompt and answer", "a cut prompt") == [
        said("assistant", "cut prompt and answer")
    ]
    assert conversation_of_text("") == [said("assistant", "")]


def test_a_conversation_without_an_assistant_stays_without_one():
    assert conversation_of_text(rendered("chatml", [said("user", "hi")])) == [said("user", "hi")]


@pytest.mark.parametrize("token", ["</s>", "<|im_end|>\n", "\n\nAssistant:", "[INST] ", "[/INST]"])
def test_a_flood_of_markers_takes_linear_time(token: str):
    flood = "<|im_start|>user\n" + token * (200_000 // len(token)) + "x"
    started = time.perf_counter()
    conversation_of_text(flood)
    conversation_of_text(token * (200_000 // len(token)) + "x")
    assert time.perf_counter() - started < 3
