"""From an external run back to the reward's artifact: ``rm-…`` to experiment, stage and digest."""

from __future__ import annotations

import json

from reward_harness.lineage.ledger import Ledger
from reward_harness.lineage.references import ArtifactId
from reward_harness.workspace import Workspace

REWARDS = """
SELECT experiment, stage, digest FROM publications
WHERE stage = 'rm_artifact' GROUP BY ALL ORDER BY max(published) DESC
"""


def reward_of(ledger: Ledger, workspace: Workspace, rm_artifact_id: str) -> ArtifactId | None:
    """The newest published artifact of this reward, or None if none is published here."""
    for row in ledger.rows(REWARDS):
        path = workspace.runs.joinpath(*row, "artifact.json")
        if path.is_file() and json.loads(path.read_bytes()).get("artifact_id") == rm_artifact_id:
            return ArtifactId(*row)
    return None
