"""Rewards whose behaviour is known exactly, so that measurements can be checked against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from reward_harness.data.records import Candidate, Message, PreferencePair, RankedPrompt
from reward_harness.evaluation.reward_models import Resampling
from reward_harness.evaluation.scoring import Scorer
from reward_harness.rewards.base import Abstained, BaseRM, Conversation, Scored, ScoreResult

HOW = Resampling(seed=7, samples=400, confidence=0.95)


class RuleRM(BaseRM):
    """Scores a response by a function of its text; None means that it abstains."""

    def __init__(self, rule: Callable[[str], float | None]) -> None:
        self.rule = rule
        self.asked = 0

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        self.asked += len(batch)
        values = [self.rule(conversation[-1]["content"]) for conversation in batch]
        return [Abstained("no opinion") if v is None else Scored(v) for v in values]


def scorer(rule: Callable[[str], float | None], name: str = "toy") -> Scorer:
    return Scorer(name, f"Toy rule {name}", RuleRM(rule), "d" * 64)


def longer(text: str) -> float:
    return float(len(text.split()))


def quality(text: str) -> float:
    """Reads the number that the toy texts begin with."""
    return float(text.split()[0])


def pairs(n: int = 60, seed: int = 0, per_prompt: int = 1) -> list[PreferencePair]:
    """Pairs whose texts begin with their true quality and have random lengths."""
    rng = np.random.default_rng(seed)
    made: list[PreferencePair] = []
    for i in range(n):
        better, worse = sorted(rng.uniform(0, 1, 2), reverse=True)
        words = ["word " * int(k) for k in rng.integers(3, 40, 2)]
        made.append(
            PreferencePair(
                pair_id=f"p{i}",
                prompt=[Message(role="user", content=f"Question {i // per_prompt}")],
                chosen=f"{better:.6f} {words[0]}x",
                rejected=f"{worse:.6f} {words[1]}y",
                source="alpha" if i % 3 else "beta",
            )
        )
    return made


def ranked(n: int = 10, candidates: int = 4) -> list[RankedPrompt]:
    return [
        RankedPrompt(
            prompt_id=f"r{i}",
            prompt=[Message(role="user", content=f"Task {i}")],
            candidates=[
                Candidate(candidate_id=f"c{j}", text=f"{1 - j / 10:.2f} text {j}", rank=j + 1)
                for j in range(candidates)
            ],
        )
        for i in range(n)
    ]
