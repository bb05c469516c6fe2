"""Toy rubrics, held-out prompts and artifacts for the rewards room."""

from pathlib import Path

import pytest

from reward_harness.data.records import Candidate, Message, RankedPrompt
from reward_harness.rm.artifact import RMArtifact, RubricRuntime, write_artifact
from reward_harness.rm.package import rubric_artifact
from reward_harness.rubrics.checks import Regex, WordCount
from reward_harness.rubrics.types import Criterion, Rubric

RUNTIME = RubricRuntime(backend="heuristic", locale="en", endpoint=None, votes=1, seed=7)


def criterion(name: str, check, weight: float = 1.0, polarity: int = 1) -> Criterion:
    return Criterion(
        criterion_id=name,
        text=name,
        weight=weight,
        kind="programmatic",
        check=check,
        polarity=polarity,
    )


@pytest.fixture
def named_city() -> Rubric:
    """Honest: names the capital (weight 6) without hedging; longer texts earn nothing."""
    return Rubric(
        rubric_id="city",
        criteria=(
            criterion("names", Regex(pattern=r"\b(Paris|Rome|Oslo)\b"), weight=6.0),
            criterion("hedges", Regex(pattern=r"\bI think\b"), polarity=-1),
            criterion(
                "orders", Regex(pattern=r"grade|judge|rubric|assistant:|preference"), polarity=-1
            ),
        ),
    )


@pytest.fixture
def longer_wins() -> Rubric:
    return Rubric(rubric_id="long", criteria=(criterion("words", WordCount(min_words=200)),))


@pytest.fixture
def heldout() -> list[RankedPrompt]:
    """Twelve prompts with a right answer, a hesitant one and an empty phrase."""
    cities = {"France": "Paris", "Italy": "Rome", "Norway": "Oslo"}
    prompts = []
    for number in range(12):
        country = list(cities)[number % 3]
        texts = [
            f"The capital of {country} is {cities[country]}, where the government sits.",
            f"I think it is {cities[country]}.",
            "The capital is a big place.",
        ]
        prompts.append(
            RankedPrompt(
                prompt_id=f"p{number}",
                prompt=[
                    Message(role="user", content=f"{number}: what is the capital of {country}?")
                ],
                candidates=[
                    Candidate(candidate_id=f"c{rank}", text=text, rank=rank)
                    for rank, text in enumerate(texts, start=1)
                ],
            )
        )
    return prompts


@pytest.fixture
def city_artifact(tmp_path: Path, named_city: Rubric) -> tuple[Path, RMArtifact]:
    """The honest rubric as an unpublished artifact folder."""
    artifact = rubric_artifact({"__shared__": named_city}, RUNTIME, {})
    write_artifact(artifact, tmp_path / "city")
    return tmp_path / "city", artifact
