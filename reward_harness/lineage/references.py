"""How a command names artifacts: ``experiment/stage``, ``experiment/stage/digest`` or a digest
alone, which means this content wherever it was published. Digests may be shortened.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from reward_harness.errors import ArtifactError
from reward_harness.lineage.ledger import Ledger

DIGEST_PREFIX = re.compile(r"^[0-9a-f]{6,64}$")
FORMS = "experiment/stage, experiment/stage/digest, or at least 6 digits of a digest"
SHOWN_DIGITS = 12


class ArtifactId(NamedTuple):
    """Where an artifact was published, and its content."""

    experiment: str
    stage: str
    digest: str

    def __str__(self) -> str:
        return "/".join(self)

    @property
    def short(self) -> str:
        """For people: the digest's first digits only."""
        return f"{self.experiment}/{self.stage}/{self.digest[:SHOWN_DIGITS]}"


def artifacts_named(ledger: Ledger, name: str) -> list[ArtifactId]:
    """The artifacts that ``name`` means: one, or one content in several experiments.

    ``ArtifactError`` if there is none, or if a shortened digest fits several contents.
    """
    parts = name.strip("/").split("/")
    if len(parts) == 2:
        found = _distinct(ledger, "experiment = ? AND stage = ? AND current", *parts)
    elif len(parts) == 3:
        where = "experiment = ? AND stage = ? AND starts_with(digest, ?)"
        found = _distinct(ledger, where, *parts)
    elif DIGEST_PREFIX.match(name):
        found = _distinct(ledger, "starts_with(digest, ?)", name)
    else:
        raise ArtifactError("not the name of an artifact", got=name, expected=FORMS)
    if not found:
        raise ArtifactError("no such artifact is published", got=name, expected=FORMS)
    if len({artifact.digest for artifact in found}) > 1:
        several = ", ".join(artifact.short for artifact in found[:6])
        raise ArtifactError("more than one artifact has this name", got=name, expected=several)
    return found


def artifact_named(ledger: Ledger, name: str) -> ArtifactId:
    """The one artifact that ``name`` means; of one content in several experiments, the newest."""
    return artifacts_named(ledger, name)[-1]


def _distinct(ledger: Ledger, where: str, *parameters: str) -> list[ArtifactId]:
    sql = f"SELECT experiment, stage, digest FROM publications WHERE {where} GROUP BY ALL"
    rows = ledger.rows(f"{sql} ORDER BY max(published), experiment, stage", *parameters)
    return [ArtifactId(*row) for row in rows]
