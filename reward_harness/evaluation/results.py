"""``report.json``: the measurements of a report as a file format, read again by the leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from reward_harness.errors import ArtifactError
from reward_harness.evaluation.policies import PolicyMeasures
from reward_harness.evaluation.report import rounded
from reward_harness.evaluation.reward_models import Agreement, LengthBaselines, RewardMeasures
from reward_harness.hashing import canonical_json
from reward_harness.manifest import Frozen, Gate

REPORT_NAME = "report.json"
RESULTS_VERSION = "1"


class Trace(Frozen):
    """What a trainer's ``metrics.jsonl`` says: its length and how its main number moved.

    ``first`` and ``last`` are means over the first and last third of the steps.
    """

    steps: int
    quantity: str | None = None
    first: float | None = None
    last: float | None = None


class RewardResults(Frozen):
    """Everything ``rm_report`` measured."""

    version: str = RESULTS_VERSION
    experiment: str
    served: str
    rewards: list[RewardMeasures]
    baselines: LengthBaselines | None
    agreements: list[Agreement]
    gates: dict[str, Gate]
    classifier_training: Trace | None
    bootstrap_samples: int
    confidence: float
    seed: int


class ScorerName(Frozen):
    """One scorer of a policy report."""

    name: str
    label: str
    digest: str


class Sampling(Frozen):
    """How responses were sampled."""

    temperature: float
    max_new_tokens: int
    samples_per_prompt: int
    dtype: str


class PolicyResults(Frozen):
    """Everything ``policy_report`` measured; the first scorer is the reward training optimised."""

    version: str = RESULTS_VERSION
    experiment: str
    reference: str
    scorers: list[ScorerName]
    policies: list[PolicyMeasures]
    training: dict[str, Trace]
    explanations: dict[str, str]
    gated_out: dict[str, str] = Field(
        default_factory=dict[str, str], description="policies left out: their gate's reason"
    )
    sampling: Sampling
    bootstrap_samples: int
    confidence: float
    seed: int


R = TypeVar("R", RewardResults, PolicyResults)


def write_results(path: Path, results: Frozen) -> None:
    """Canonical JSON with floats rounded, so that equal measurements make equal bytes."""
    path.write_bytes(canonical_json(rounded(results.model_dump(mode="json"))))


def read_results(path: Path, kind: type[R]) -> R:
    """A report's measurements; ``ArtifactError`` if another version of the code wrote them."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactError(
            "report cannot be read",
            where=str(path),
            got=str(error).splitlines()[0],
            expected=f"results version {RESULTS_VERSION}",
            fix="Make the report again with this version of the code.",
        ) from error
