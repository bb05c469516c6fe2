"""What was made, at any remove, from an artifact: what a change of it has made stale, or would.

Only the artifacts that are current count; each is judged by its newest publication. An artifact is
*stale* if an input it was made from is no longer the current one of its stage, or is stale itself.
What the experiment files say now is another question: `harness experiment show` answers it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reward_harness.lineage.ledger import Ledger
from reward_harness.lineage.references import ArtifactId, artifacts_named

DOWNSTREAM = """
WITH RECURSIVE edges AS (
  SELECT p.experiment, p.stage, p.digest, p.current,
         i.input_experiment AS from_experiment, i.input_stage AS from_stage,
         i.input_digest AS from_digest
  FROM publications p JOIN inputs i USING (experiment, stage, seq)
  WHERE p.newest_of_digest
), seeds AS (
  SELECT unnest(?) AS experiment, unnest(?) AS stage, unnest(?) AS digest
), reached AS (
  SELECT experiment, stage, digest FROM seeds
  UNION
  SELECT e.experiment, e.stage, e.digest FROM edges e JOIN reached r
  ON e.from_experiment = r.experiment AND e.from_stage = r.stage AND e.from_digest = r.digest
)
SELECT e.experiment, e.stage, e.digest, e.from_experiment, e.from_stage, e.from_digest,
       now.digest IS NOT DISTINCT FROM e.from_digest, made.seconds, made.llm_calls
FROM reached r JOIN edges e USING (experiment, stage, digest)
LEFT JOIN (FROM publications WHERE current) now
  ON now.experiment = e.from_experiment AND now.stage = e.from_stage
JOIN artifacts made ON made.experiment = e.experiment AND made.stage = e.stage
  AND made.digest = e.digest
WHERE e.current
"""


@dataclass(frozen=True, slots=True)
class Affected:
    """A current artifact downstream; what making it took is what making it again may take."""

    artifact: ArtifactId
    stale: bool
    seconds: float
    llm_calls: int


@dataclass(frozen=True, slots=True)
class Impact:
    """Of one content: where it is published, whether it is current there, what was made from it."""

    artifacts: tuple[ArtifactId, ...]
    current: tuple[ArtifactId, ...]
    affected: tuple[Affected, ...]

    @property
    def seconds(self) -> float:
        """What making everything downstream took."""
        return sum(found.seconds for found in self.affected)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "artifacts": [str(artifact) for artifact in self.artifacts],
            "current": [str(artifact) for artifact in self.current],
            "affected": [
                {
                    "artifact": str(found.artifact),
                    "state": "stale" if found.stale else "would be stale",
                    "seconds": found.seconds,
                    "llm_calls": found.llm_calls,
                }
                for found in self.affected
            ],
            "seconds": self.seconds,
        }


def impact_of(ledger: Ledger, name: str) -> Impact:
    """The impact of the artifact named ``name``; ``ArtifactError`` if there is none."""
    artifacts = artifacts_named(ledger, name)
    columns = [list(column) for column in zip(*artifacts, strict=True)]
    inputs: dict[ArtifactId, list[tuple[ArtifactId, bool]]] = {}
    costs: dict[ArtifactId, tuple[float, int]] = {}
    for row in ledger.rows(DOWNSTREAM, *columns):
        made, source, is_current = ArtifactId(*row[:3]), ArtifactId(*row[3:6]), row[6]
        if made not in artifacts:
            inputs.setdefault(made, []).append((source, is_current))
            costs[made] = row[7], row[8]
    states: dict[ArtifactId, bool] = {}
    affected = [
        Affected(artifact, _is_stale(artifact, inputs, states), *costs[artifact])
        for artifact in inputs
    ]
    current = {
        ArtifactId(*row)
        for row in ledger.rows(
            "SELECT experiment, stage, digest FROM publications WHERE current AND digest = ?",
            artifacts[0].digest,
        )
    }
    return Impact(
        tuple(artifacts),
        tuple(artifact for artifact in artifacts if artifact in current),
        tuple(sorted(affected, key=lambda found: (not found.stale, found.artifact))),
    )


def _is_stale(
    artifact: ArtifactId,
    inputs: Mapping[ArtifactId, list[tuple[ArtifactId, bool]]],
    known: dict[ArtifactId, bool],
) -> bool:
    """Whether an input is not current, or is itself stale; inputs outside the impact are fresh."""
    if artifact not in known:
        known[artifact] = any(
            not is_current or _is_stale(source, inputs, known)
            for source, is_current in inputs.get(artifact, [])
        )
    return known[artifact]
