"""A reward for OpenRLHF in its own process: this file as ``--reward.remote_url``.

    --reward.remote_url http://127.0.0.1:8100/get_reward    # the server: nothing to install there
    --reward.remote_url …/reward_harness/integrations/openrlhf.py

The second form loads ``reward_func`` from this file and asks the server at ``HARNESS_REWARD_URL``,
or scores with the artifact in ``HARNESS_REWARD_FOLDER``. A response without a score raises, which
OpenRLHF logs and answers by stopping: it has no reward to train on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reward_harness.data.rendered import conversation_of_query
from reward_harness.integrations.opening import reward_of_process

if TYPE_CHECKING:
    import torch


def reward_func(
    queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]
) -> dict[str, Any]:
    """Rewards of rendered ``queries``, each of which starts with its rendered prompt.

    Returns:
        ``rewards`` and ``scores``, float32 tensors ``(B,)``, and an empty ``extra_logs``.

    Raises:
        ScoringError: a query has no score.
    """
    import torch

    chats = [conversation_of_query(q, p) for q, p in zip(queries, prompts, strict=True)]
    rm = reward_of_process()
    values = [rm.require(result).value for result in rm.score_batch_results(chats)]
    rewards: torch.Tensor = torch.tensor(values, dtype=torch.float32)
    return {"rewards": rewards, "scores": rewards, "extra_logs": {}}
