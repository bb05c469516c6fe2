"""What ``RemoteRM`` says to servers that are not this project's, and how it reads their answers.

    vllm        POST /classify {model, messages, use_activation: false}   one conversation a request
    vllm-score  POST /v1/score {model, text_1, text_2}                    prompts and responses
    tei         POST /predict {inputs: [[prompt, response]], raw_scores: true}
    openrlhf    POST /get_reward {query, prompts, labels}                 texts in ChatML

An answer of another form is a ``ValueError``, ``KeyError``, ``IndexError`` or ``TypeError``, which
the caller makes ``Failed``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from reward_harness.rewards.base import Conversation, Item
from reward_harness.rubrics.grading import prompt_text


class Wire(Protocol):
    """One protocol; ``items_per_request`` is 1 where a request holds one conversation."""

    path: str
    items_per_request: int | None

    def body(self, items: Sequence[Item], model: str | None) -> dict[str, Any]:
        """The request for these items."""
        ...

    def read(self, answer: Any) -> list[Any]:
        """The scores in the answer, in order."""
        ...


class VLLMClassify:
    """vLLM's classification of a conversation, by the chat template it has for the model."""

    path: str = "/classify"
    items_per_request: int | None = 1

    def body(self, items: Sequence[Item], model: str | None) -> dict[str, Any]:
        [item] = items
        turns = [dict(turn) for turn in item.conversation]
        return {"model": model, "messages": turns, "use_activation": False}

    def read(self, answer: Any) -> list[Any]:
        [entry] = answer["data"]
        [score] = entry["probs"]
        return [score]


class VLLMScore:
    """vLLM's score of pairs of texts."""

    path: str = "/v1/score"
    items_per_request: int | None = None

    def body(self, items: Sequence[Item], model: str | None) -> dict[str, Any]:
        prompts, responses = _sides(items)
        return {"model": model, "text_1": prompts, "text_2": responses, "use_activation": False}

    def read(self, answer: Any) -> list[Any]:
        return [entry["score"] for entry in sorted(answer["data"], key=lambda e: e["index"])]


class TEIPredict:
    """text-embeddings-inference: raw scores of pairs."""

    path: str = "/predict"
    items_per_request: int | None = None

    def body(self, items: Sequence[Item], model: str | None) -> dict[str, Any]:
        pairs = [list(pair) for pair in zip(*_sides(items), strict=True)]
        return {"inputs": pairs, "raw_scores": True, "truncate": True}

    def read(self, answer: Any) -> list[Any]:
        scores: list[Any] = []
        for labels in answer:
            [label] = labels
            scores.append(label["score"])
        return scores


class OpenRLHFReward:
    """The reward server that OpenRLHF's trainers ask."""

    path: str = "/get_reward"
    items_per_request: int | None = None

    def body(self, items: Sequence[Item], model: str | None) -> dict[str, Any]:
        prompts = [f"{_chatml(i.conversation[:-1])}<|im_start|>assistant\n" for i in items]
        responses = [item.conversation[-1]["content"] for item in items]
        query = [p + r for p, r in zip(prompts, responses, strict=True)]
        return {"query": query, "prompts": prompts, "labels": [None] * len(items)}

    def read(self, answer: Any) -> list[Any]:
        return list(answer["rewards"])


WIRES: dict[str, Wire] = {
    "vllm": VLLMClassify(),
    "vllm-score": VLLMScore(),
    "tei": TEIPredict(),
    "openrlhf": OpenRLHFReward(),
}


def _sides(items: Sequence[Item]) -> tuple[list[str], list[str]]:
    prompts = [prompt_text(item.conversation[:-1]) for item in items]
    return prompts, [item.conversation[-1]["content"] for item in items]


def _chatml(turns: Conversation) -> str:
    return "".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in turns)
