"""A world whose right answer is known: judges that follow a hidden rubric over planted features.

    python -m benchmarks.hidden_rubrics --seed 3 --latency 0.1

serves it as an OpenAI-compatible endpoint in a process of its own and prints its address; ``GET
/stats`` tells what was asked. Responses carry some of forty feature words. The hidden rubric
weighs four of them, the other 36 are decoys; the judge prefers what it weighs more, and answers
the other way round for a share ``noise`` of its requests. A criterion "mentions WORD" holds where
the word occurs. Of the words that the designers propose, at most one in five is a true one.
"""

from __future__ import annotations

import argparse
import signal
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiohttp import web

from reward_harness.data.records import Candidate, Message, RankedPrompt
from reward_harness.rubrics.types import Rubric
from tests.llm.simulator import MENTION, Simulator

FEATURES = tuple(
    """
    anchor basalt candle dahlia ember falcon garnet hazel indigo jasper kettle lantern marble
    nectar onyx pepper quartz ribbon saffron thistle umber velvet walnut xenon yarrow zephyr
    acorn birch cobalt drift elm fjord glacier heron ivory juniper krill lotus mango nutmeg
    """.split()  # noqa: SIM905
)
TRUE_FEATURES = 4
PRESENT = 0.4
TRUE_EVERY = 5


def hidden_weights(seed: int) -> dict[str, float]:
    """The hidden rubric: weights of the true features."""
    rng = np.random.default_rng([seed, 1])
    chosen = rng.choice(len(FEATURES), TRUE_FEATURES, replace=False)
    return {FEATURES[int(i)]: float(rng.integers(1, 4)) for i in chosen}


def worth(weights: dict[str, float], text: str) -> float:
    """The hidden rubric's score of a text."""
    words = set(text.split())
    return sum(weight for word, weight in weights.items() if word in words)


def records(seed: int, prompts: int, candidates: int, start: int = 0) -> list[RankedPrompt]:
    """Prompts with responses of random features, without any label."""
    found: list[RankedPrompt] = []
    for number in range(start, start + prompts):
        rng = np.random.default_rng([seed, 2, number])
        masks = rng.random((candidates, len(FEATURES))) < PRESENT
        texts = [
            f"Response {number} {i}: " + " ".join(np.asarray(FEATURES)[mask].tolist())
            for i, mask in enumerate(masks)
        ]
        found.append(
            RankedPrompt(
                prompt_id=f"p{number}",
                prompt=[Message(role="user", content=f"Question {number}?")],
                candidates=[
                    Candidate(candidate_id=f"c{i}", text=text, source=f"writer-{i % 4}")
                    for i, text in enumerate(texts)
                ],
            )
        )
    return found


def true_agreement(seed: int, rubric: Rubric, unseen: list[RankedPrompt]) -> list[list[float]]:
    """Noise-free outcomes for each prompt: 1 where the rubric orders a pair as the truth does."""
    weights = hidden_weights(seed)
    outcomes: list[list[float]] = []
    for record in unseen:
        texts = [c.text for c in record.candidates]
        truth = np.array([worth(weights, t) for t in texts])
        scores = np.array([_score(rubric, t) for t in texts])
        a, b = np.triu_indices(len(texts), k=1)
        decided = truth[a] != truth[b]
        gap = (scores[a] - scores[b]) * np.sign(truth[a] - truth[b])
        right = np.where(np.abs(gap) <= 1e-8, 0.5, gap > 0)
        outcomes.append(right[decided].tolist())
    return outcomes


def _score(rubric: Rubric, text: str) -> float:
    words = set(text.split())
    total = 0.0
    for criterion in rubric.criteria:
        wanted = MENTION.search(criterion.text)
        grade = float(bool(wanted and wanted.group(1) in words))
        total += criterion.weight * (grade if criterion.polarity == 1 else 1 - grade)
    return total


@dataclass
class HiddenRubric(Simulator):
    """The endpoint of one world."""

    seed: int = 1
    noise: float = 0.0
    rounds: int = 0
    inspired: bool = False
    named: dict[str, int] = field(default_factory=lambda: {"all": 0, "true": 0})

    def __post_init__(self) -> None:
        self.weights = hidden_weights(self.seed)
        self.decoys = [word for word in FEATURES if word not in self.weights]

    def worth(self, text: str) -> float:
        return worth(self.weights, text)

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/stats", self._stats)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.rounds += self.in_flight == 0
        return await super()._handle(request)

    async def _stats(self, request: web.Request) -> web.Response:
        return web.json_response(
            {
                "calls": self.received,
                "paid": self.answered,
                "repeated": len(self.repeated()),
                "rounds": self.rounds,
                "roles": dict(self.roles),
                "max_in_flight": self.max_in_flight,
                "named": self.named,
            }
        )

    def _judge(self, user: dict[str, Any], seed: int) -> dict[str, Any]:
        preference = super()._judge(user, seed)["preference"]
        flipped = seed / 2**32 < self.noise
        return {"preference": -preference if flipped else preference}

    def _verifier(self, user: dict[str, Any], seed: int) -> dict[str, Any]:
        words = set(user["candidate"].split())
        grades = {}
        for criterion in user["criteria"]:
            wanted = MENTION.search(criterion["text"])
            grades[criterion["criterion_id"]] = 5.0 * bool(wanted and wanted.group(1) in words)
        if "0 to 1" in user["scale"] or " 1 " in user["scale"]:
            grades = {name: grade / 5 for name, grade in grades.items()}
        return {"reason": "looked", "grades": grades}

    def play(self, role: str, body: dict[str, Any]) -> str:
        """The reply of one role; every fifth proposal of a search names a true feature."""
        self.inspired = role == "proposer" and body.get("seed", 0) % TRUE_EVERY == 0
        return super().play(role, body)

    def _word(self, draw: int) -> str:
        """A word that a designer comes up with."""
        self.named["all"] += 1
        self.named["true"] += self.inspired
        words = sorted(self.weights) if self.inspired else self.decoys
        return words[int(np.random.default_rng([self.seed, 3, draw]).integers(len(words)))]

    def _initializer(self, user: dict[str, Any], seed: int) -> dict[str, Any]:
        words = dict.fromkeys(self._word(seed + i) for i in range(2))
        return {"criteria": [{"text": f"The response mentions {w}."} for w in words]}

    def _proposer(self, user: dict[str, Any], seed: int) -> dict[str, Any]:
        current = user["current_rubric"]["criteria"]
        criteria = [{k: c[k] for k in ("text", "weight", "polarity")} for c in current]
        if len(criteria) >= 8:
            criteria.pop(seed % len(criteria))
        criteria.append({"text": f"The response mentions {self._word(seed)}.", "weight": 1})
        return {"criteria": criteria}


def main() -> None:
    """Serve until the parent closes standard input or sends SIGTERM."""
    parser = argparse.ArgumentParser()
    for name, kind in (("seed", int), ("latency", float), ("noise", float), ("errors", float)):
        parser.add_argument(f"--{name}", type=kind, default=kind(0))
    parser.add_argument("--broken", type=float, default=0.0)
    given = parser.parse_args()
    endpoint = HiddenRubric(
        seed=given.seed,
        noise=given.noise,
        latency_s=given.latency,
        error_rate=given.errors,
        broken_rate=given.broken,
    )
    with endpoint:
        print(endpoint.url, flush=True)  # noqa: T201
        signal.pause()


if __name__ == "__main__":
    main()
