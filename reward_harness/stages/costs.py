"""What a stage's calls to a model took, as its manifest records it."""

from __future__ import annotations

from reward_harness.llm.budget import Usage, known_usd
from reward_harness.llm.roles import ModelRoles
from reward_harness.manifest import Cost
from reward_harness.rubrics.search.state import Spent


def cost_of(usage: Usage | Spent) -> Cost:
    """What a gateway, or a whole search, was asked."""
    return Cost(
        llm_calls=usage.calls,
        llm_cached=usage.cached,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        usd=usage.usd,
    )


def cost_of_roles(roles: ModelRoles | None) -> Cost:
    """What these roles asked; nothing where no model plays them."""
    return Cost() if roles is None else cost_of(roles.gateway.usage)


def added(first: Cost, second: Cost) -> Cost:
    """Both together."""
    return Cost(
        llm_calls=first.llm_calls + second.llm_calls,
        llm_cached=first.llm_cached + second.llm_cached,
        prompt_tokens=first.prompt_tokens + second.prompt_tokens,
        completion_tokens=first.completion_tokens + second.completion_tokens,
        usd=known_usd(first.usd, second.usd),
    )
