"""A reward for verl: ``compute_score``, asked of a reward server or an artifact.

    python -m verl.trainer.main_ppo … \\
      reward.custom_reward_function.path=pkg://reward_harness.integrations.verl \\
      reward.custom_reward_function.name=compute_score \\
      +reward.custom_reward_function.reward_kwargs.url=http://127.0.0.1:8100

verl hands a reward function the response and the row's ``extra_info``, but not the prompt: the data
must carry it there, as ``extra_info.prompt`` (text or turns). A response without a score raises:
verl has no way to leave one out, and a number would be learned from. (Its ``rate_limited`` manager
turns any error of a reward function into 0.0: do not use it.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from reward_harness.errors import ScoringError
from reward_harness.integrations.opening import reward_of_process
from reward_harness.rewards.base import Item, conversation_of

PROMPT_KEYS = ("prompt", "raw_prompt", "question")


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any = None,
    extra_info: Mapping[str, Any] | None = None,
    *,
    url: str | None = None,
    folder: str | None = None,
    key: str | None = None,
    expect_digest: str | None = None,
    **_: Any,
) -> dict[str, float]:
    """``{"score": …}`` for one response, in the reward's own scale.

    Args:
        data_source, ground_truth: verl's; the reward is the judge, so neither is read.
        solution_str: the response.
        extra_info: the row's, with ``prompt``; ``prompt_id`` chooses a prompt's own rubric.
        url: the reward server, or from ``HARNESS_REWARD_URL``; or
        folder: an artifact to score with in this process.
        key: the server's key, or from ``HARNESS_SERVER_KEY``.
        expect_digest: the only artifact whose answers are taken.

    Raises:
        ScoringError: the response has no score, or the row no prompt.
    """
    info = extra_info or {}
    rm = reward_of_process(url, folder, key, expect_digest)
    prompt_id = info.get("prompt_id")
    item = Item(
        conversation_of(_prompt(info), solution_str),
        None if prompt_id is None else str(prompt_id),
    )
    return {"score": rm.require(rm.score_items([item])[0]).value}


def _prompt(info: Mapping[str, Any]) -> str | list[dict[str, str]]:
    found = next((info[name] for name in PROMPT_KEYS if info.get(name) is not None), None)
    if isinstance(found, str):
        return found
    if found is None:
        raise ScoringError(
            "verl gives a reward function no prompt",
            where="extra_info",
            got=f"the keys {sorted(info)}",
            expected=f"one of {', '.join(PROMPT_KEYS)}",
            fix="Copy the row's prompt there when the data is made; docs/trainers.md shows how.",
        )
    # parquet gives turns back as an array of structs
    turns = cast("Sequence[Mapping[str, str]]", found)
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]
