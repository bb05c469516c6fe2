"""A reward for TRL's trainers: a picklable callable over any reward of this project.

    GRPOTrainer(reward_funcs=RewardFunction(url="http://127.0.0.1:8100"), …)

TRL calls it with keyword ``prompts, completions, completion_ids`` and the dataset's columns, and
leaves ``None`` out of the baseline; a column ``prompt_id`` chooses a prompt's own rubric. What got
no score is counted, and never a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from reward_harness.errors import SpecError
from reward_harness.integrations.opening import open_reward
from reward_harness.rewards.base import BaseRM, Item, Scored, conversation_of, reason_of

KEPT_REASONS = 20


class RewardFunction:
    """Scores completions with a reward artifact or a served reward, opened when first called.

    Args:
        folder: an ``rm_artifact`` folder or exported file, scored in this process; or
        url: a reward server.
        rm: or any reward, which then has to pickle if the function does.
        key: the server's key.
        expect_digest: the only artifact whose answers are taken.

    Attributes:
        scored, unscored: how many completions had a score, and how many had none.
        reasons: the last reasons for having none.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        url: str | None = None,
        *,
        rm: BaseRM | None = None,
        key: str | None = None,
        expect_digest: str | None = None,
        device: str = "cpu",
        name: str = "reward",
    ) -> None:
        if sum(source is not None for source in (folder, url, rm)) != 1:
            raise SpecError("a reward function needs one source", expected="folder, url or rm")
        self.__name__ = name  # TRL names its metrics after it
        self._folder = None if folder is None else Path(folder)
        self._url, self._key, self._expect_digest = url, key, expect_digest
        self._device, self._given = device, rm
        self._opened: BaseRM | None = None
        self.scored = 0
        self.unscored = 0
        self.reasons: list[str] = []

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """One score for each completion, None where there is none."""
        ids = columns.get("prompt_id") or [None] * len(prompts)
        items = [
            Item(conversation_of(_turns(prompt), _text(completion)), prompt_id)
            for prompt, completion, prompt_id in zip(prompts, completions, ids, strict=True)
        ]
        values: list[float | None] = []
        for result in self._rm().score_items(items):
            if isinstance(result, Scored):
                values.append(result.value)
                self.scored += 1
            else:
                values.append(None)
                self.unscored += 1
                self.reasons = [*self.reasons, reason_of(result)][-KEPT_REASONS:]
        return values

    @property
    def unscored_share(self) -> float:
        """Share of all completions so far that had no score."""
        asked = self.scored + self.unscored
        return self.unscored / asked if asked else 0.0

    def _rm(self) -> BaseRM:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> BaseRM:
        if self._given is not None:
            return self._given
        return open_reward(
            self._url,
            self._folder,
            key=self._key,
            expect_digest=self._expect_digest,
            device=self._device,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def _turns(prompt: Any) -> str | list[dict[str, str]]:
    """A prompt as TRL gives it: a text, or a list of messages."""
    if isinstance(prompt, str):
        return prompt
    messages = cast("Sequence[Any]", prompt)
    return [{"role": m["role"], "content": _content(m["content"])} for m in messages]


def _text(completion: Any) -> str:
    """The response: a text, or the last message's."""
    return completion if isinstance(completion, str) else _content(completion[-1]["content"])


def _content(content: Any) -> str:
    """A message's text; of a list of parts, the text parts."""
    if isinstance(content, str):
        return content
    parts = cast("Sequence[Any]", content or [])
    return "".join(part["text"] for part in parts if part.get("type") == "text")
