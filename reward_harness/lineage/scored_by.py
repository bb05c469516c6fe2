"""Which reward, and which rubric, scored each step of a policy's training.

Every row of a checkpoint's ``metrics.jsonl`` may name the digest of the reward that its scores came
from; a trainer that does not write it says the reward once, in ``job.json``. Consecutive steps of
one reward are told together.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from reward_harness.errors import ArtifactError
from reward_harness.lineage.ledger import Ledger
from reward_harness.lineage.references import ArtifactId, artifact_named

STEPS_NAME = "metrics.jsonl"
JOB_NAME = "job.json"
REWARD_NAME = "artifact.json"


@dataclass(frozen=True, slots=True)
class Scorer:
    """A reward and the steps it scored.

    ``source`` is where each step's reward is written: the steps themselves, or the job.
    ``reward`` is None where no such artifact is published here; ``made_from`` is what it was
    packaged from and gated on, and ``rubrics`` are its criteria by rubric, if it has any.
    """

    first_step: int
    last_step: int
    digest: str
    source: str
    reward: ArtifactId | None
    artifact_id: str | None
    kind: str | None
    made_from: tuple[ArtifactId, ...]
    rubrics: dict[str, list[str]]

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "steps": [self.first_step, self.last_step],
            "reward_digest": self.digest,
            "source": self.source,
            "reward": str(self.reward) if self.reward else None,
            "rm_artifact_id": self.artifact_id,
            "kind": self.kind,
            "made_from": [str(source) for source in self.made_from],
            "rubrics": self.rubrics,
        }


def scorers_of(ledger: Ledger, runs: Path, name: str) -> tuple[ArtifactId, list[Scorer]]:
    """The checkpoint that ``name`` means, and the rewards that scored it, by step.

    ``ArtifactError`` if it is no policy that a reward scored.
    """
    checkpoint = artifact_named(ledger, name)
    folder = runs.joinpath(*checkpoint)
    steps = _steps(folder)
    if not steps:
        raise ArtifactError(
            "no reward scored this artifact",
            where=checkpoint.short,
            expected="a policy trained on rewards, such as ppo_checkpoint or grpo_checkpoint",
        )
    return checkpoint, [
        _scorer(ledger, runs, checkpoint, digest, source, [step for step, _, _ in group])
        for (digest, source), group in groupby(steps, key=lambda row: row[1:])
    ]


def _steps(folder: Path) -> list[tuple[int, str, str]]:
    """Step, digest of its reward, and which file says so."""
    try:
        lines = (folder / STEPS_NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    rows = [json.loads(line) for line in lines]
    job = folder / JOB_NAME
    reward = (json.loads(job.read_bytes()).get("reward") or {}) if job.is_file() else {}
    found: list[tuple[int, str, str]] = []
    for index, row in enumerate(rows, start=1):
        own = row.get("reward_digest")
        digest = own or reward.get("digest")
        if digest:
            found.append((row.get("step", index), digest, "step" if own else "job"))
    return found


def _scorer(
    ledger: Ledger,
    runs: Path,
    checkpoint: ArtifactId,
    digest: str,
    source: str,
    steps: list[int],
) -> Scorer:
    reward = _published(ledger, checkpoint.experiment, digest)
    content = _reward_content(runs, reward)
    rubrics = content.get("rubric") or {}
    return Scorer(
        first_step=steps[0],
        last_step=steps[-1],
        digest=digest,
        source=source,
        reward=reward,
        artifact_id=content.get("artifact_id"),
        kind=content.get("kind"),
        made_from=_made_from(ledger, reward),
        rubrics={name: _criteria(rubric) for name, rubric in rubrics.items()},
    )


def _criteria(rubric: dict[str, Any]) -> list[str]:
    return [f"{c['criterion_id']}: {c['text']}" for c in rubric["criteria"]]


def _published(ledger: Ledger, experiment: str, digest: str) -> ArtifactId | None:
    """The reward of this content: the experiment's own, else whoever published it last."""
    sql = """
    SELECT experiment, stage, digest FROM publications WHERE digest = ?
    ORDER BY experiment = ? DESC, published DESC LIMIT 1
    """
    rows = ledger.rows(sql, digest, experiment)
    return ArtifactId(*rows[0]) if rows else None


def _reward_content(runs: Path, reward: ArtifactId | None) -> dict[str, Any]:
    path = runs.joinpath(*reward, REWARD_NAME) if reward else None
    return json.loads(path.read_bytes()) if path and path.is_file() else {}


def _made_from(ledger: Ledger, reward: ArtifactId | None) -> tuple[ArtifactId, ...]:
    sql = """
    SELECT i.input_experiment, i.input_stage, i.input_digest
    FROM inputs i JOIN publications p USING (experiment, stage, seq)
    WHERE p.newest_of_digest AND p.experiment = ? AND p.stage = ? AND p.digest = ?
    ORDER BY i.input_stage
    """
    return tuple(ArtifactId(*row) for row in ledger.rows(sql, *reward)) if reward else ()
