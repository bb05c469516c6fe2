"""Published process reward models: where each reads its steps, and what it reads there.

``step_token`` (Qwen2.5-Math-PRM): the response's steps are each followed by ``<extra_0>``; a step's
score is the softmax probability of the second label at that token. ``plus_minus`` (RLHFlow): each
step is a user turn, answered by ``+``; the score is the probability of ``+`` against ``-`` where
the answer stands. ``separator`` (TRL's ``PRMTrainer``): prompt and steps as plain text, each step
followed by its separator; the score is the second label's probability at the separator.

One causal forward reads all steps of a response: later steps do not change earlier scores. A step
token in the text itself is removed, for it would be one more step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch

from reward_harness.errors import SpecError
from reward_harness.models.batches import length_batches, pad_batch
from reward_harness.models.chat import encode_text, pad_id
from reward_harness.models.published import Opened
from reward_harness.rewards.base import Failed
from reward_harness.rewards.process import STEP_TOKEN, Solution, StepScores, with_step_tokens
from reward_harness.rubrics.grading import prompt_text

BATCH_TOKENS = 16384
SEPARATOR = "\n"

Scheme = Literal["step_token", "plus_minus", "separator"]


@dataclass(frozen=True, slots=True)
class Marked:
    """Token ids of a solution, and the position of each step's score."""

    ids: list[int]
    positions: list[int]


class PublishedSteps:
    """Scores steps with an opened process reward model; calls from several threads take turns."""

    def __init__(
        self,
        opened: Opened,
        scheme: Scheme,
        identity: Callable[[], str | None] = lambda: None,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self.opened, self.scheme = opened, scheme
        self.batch_tokens = batch_tokens
        self.identity = identity
        self._turn = threading.Lock()
        self._mark = {
            "step_token": self._with_step_tokens,
            "plus_minus": self._as_dialogue,
            "separator": self._separated,
        }[scheme]
        self._right, self._labels = self._answers()

    def score_solutions(self, solutions: Sequence[Solution]) -> list[StepScores | Failed]:
        """One result for each solution; one that is too long for the model is ``Failed``."""
        rows = [self._mark(solution) for solution in solutions]
        longest = self.opened.max_length
        fitting = [index for index, row in enumerate(rows) if len(row.ids) <= longest]
        found: dict[int, StepScores | Failed] = {
            index: Failed(f"{len(row.ids)} tokens, the model reads at most {longest}")
            for index, row in enumerate(rows)
        }
        lengths = [len(rows[index].ids) for index in fitting]
        with self._turn, torch.inference_mode():
            for batch in length_batches(lengths, self.batch_tokens):
                chosen = [fitting[number] for number in batch]
                values = self._forward([rows[index] for index in chosen])
                for index, scores in zip(chosen, values, strict=True):
                    found[index] = StepScores(scores, len(rows[index].ids))
        return [found[index] for index in range(len(rows))]

    def _forward(self, rows: Sequence[Marked]) -> list[tuple[float, ...]]:
        padded = pad_batch([row.ids for row in rows], pad_id(self.opened.tokenizer))
        ids, mask = (tensor.to(self.opened.device) for tensor in padded)
        states, head = self.opened.states(ids, mask), self.opened.head
        assert head is not None
        found: list[tuple[float, ...]] = []
        for row, of_row in zip(rows, states, strict=True):
            logits = head(of_row[row.positions]).float()[:, self._labels]
            found.append(tuple(logits.softmax(dim=-1)[:, self._right].tolist()))
        return found

    def _answers(self) -> tuple[int, list[int]]:
        """Which of the compared labels means right, and their columns in the head's logits."""
        if self.scheme != "plus_minus":
            return 1, [0, 1]
        plus, minus = (encode_text(self.opened.tokenizer, mark)[-1] for mark in "+-")
        return 0, [plus, minus]

    def _with_step_tokens(self, solution: Solution) -> Marked:
        tokenizer = self.opened.tokenizer
        [step_id, *others] = encode_text(tokenizer, STEP_TOKEN)
        if others:
            raise SpecError(
                f"the tokenizer has no token {STEP_TOKEN}",
                where=str(self.opened.settings.name_or_path),
            )
        turns = with_step_tokens(solution)
        ids = encode_text(tokenizer, str(tokenizer.apply_chat_template(turns, tokenize=False)))
        return Marked(ids, [index for index, token in enumerate(ids) if token == step_id])

    def _as_dialogue(self, solution: Solution) -> Marked:
        tokenizer, plus = self.opened.tokenizer, self._labels[0]
        turns: list[dict[str, str]] = []
        ids: list[int] = []
        positions: list[int] = []
        rendered = ""
        for number, step in enumerate(solution.steps):
            asked = f"{prompt_text(solution.prompt)} {step}" if number == 0 else step
            turns.append({"role": "user", "content": asked})
            text = str(
                tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            )
            if not text.startswith(rendered):
                raise SpecError(
                    "the chat template changes earlier turns, so steps cannot be told apart",
                    where=str(self.opened.settings.name_or_path),
                )
            ids += encode_text(tokenizer, text[len(rendered) :])
            positions.append(len(ids) - 1)
            ids.append(plus)
            rendered = f"{text}+"
            turns.append({"role": "assistant", "content": "+"})
        return Marked(ids, positions)

    def _separated(self, solution: Solution) -> Marked:
        tokenizer = self.opened.tokenizer
        begin = tokenizer.bos_token_id
        ids = [cast("int", begin)] if begin is not None else []
        ids += encode_text(tokenizer, prompt_text(solution.prompt))
        positions: list[int] = []
        for step in solution.steps:
            ids += encode_text(tokenizer, step) + encode_text(tokenizer, SEPARATOR)
            positions.append(len(ids) - 1)
        return Marked(ids, positions)
