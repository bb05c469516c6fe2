"""What was asked and what it cost, and the caps on it.

A request is admitted and counted in one step, so ``max_calls`` is never overrun. Tokens and money
are known only with the reply: those caps stop the next request, and what is then in flight (at most
the endpoint's ``concurrency``) may still be added to them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from reward_harness.errors import BudgetExceeded, LLMError

ADVICE = "What was paid for is kept: raise the cap and run the same command to go on."


@dataclass(frozen=True, slots=True)
class Caps:
    """Spend caps; a call is one HTTP request, retries included; tokens are prompt and reply."""

    max_calls: int | None = None
    max_usd: float | None = None
    max_tokens: int | None = None


def known_usd(*amounts: float | None) -> float | None:
    """The sum of the costs that are known; None where none is."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known else None


@dataclass(slots=True)
class Usage:
    """What was asked so far; ``usd`` is None until an endpoint reports a cost."""

    calls: int = 0
    cached: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = None
    calls_by_role: dict[str, int] = field(default_factory=dict[str, int])
    cached_by_role: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def tokens(self) -> int:
        """Tokens of prompts and replies."""
        return self.prompt_tokens + self.completion_tokens

    def count_cached(self, role: str, answers: int = 1) -> None:
        """Note questions that the store answered."""
        self.cached += answers
        self.cached_by_role[role] = self.cached_by_role.get(role, 0) + answers

    def count_call(self, role: str) -> None:
        """Note one HTTP request."""
        self.calls += 1
        self.calls_by_role[role] = self.calls_by_role.get(role, 0) + 1

    def count_reply(self, reported: Any, caps: Caps, where: str) -> int:
        """Note a reply's ``usage`` object; returns its tokens.

        What is missing, negative or no number counts as not reported; ``LLMError`` where a cap
        needs it.
        """
        told = cast("dict[str, Any]", reported) if isinstance(reported, dict) else {}
        prompt, reply = amount(told, "prompt_tokens"), amount(told, "completion_tokens")
        cost = amount(told, "cost")
        self.prompt_tokens += int(prompt or 0)
        self.completion_tokens += int(reply or 0)
        if cost is not None:
            self.usd = (self.usd or 0.0) + cost
        elif caps.max_usd is not None:
            raise _unreported("cost", "max_usd", where)
        if prompt is None and reply is None and caps.max_tokens is not None:
            raise _unreported("tokens", "max_tokens", where)
        return int(prompt or 0) + int(reply or 0)


def check_caps(caps: Caps, usage: Usage) -> None:
    """``BudgetExceeded`` where a cap is reached."""
    if caps.max_calls is not None and usage.calls >= caps.max_calls:
        raise BudgetExceeded("call budget used up", got=f"{usage.calls} calls", fix=ADVICE)
    if caps.max_tokens is not None and usage.tokens >= caps.max_tokens:
        raise BudgetExceeded("token budget used up", got=f"{usage.tokens} tokens", fix=ADVICE)
    if caps.max_usd is not None and (usage.usd or 0.0) >= caps.max_usd:
        raise BudgetExceeded("money budget used up", got=f"{usage.usd} USD", fix=ADVICE)


def amount(told: Mapping[str, Any], name: str) -> float | None:
    """A reported amount: finite and not negative, else None."""
    value = told.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _unreported(what: str, cap: str, where: str) -> LLMError:
    return LLMError(
        f"the endpoint reports no {what}, so {cap} cannot be kept",
        where=where,
        fix="Use max_calls with this endpoint.",
    )
