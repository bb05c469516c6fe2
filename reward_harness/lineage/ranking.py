"""All experiments ordered by a metric of their current artifacts, best first.

Numbers of different datasets stand in one list, so each row names its data: only rows of the same
data are a fair comparison. Archived experiments are left out. The asset ``evaluations/leaderboard``
is the report with corrected comparisons; this is the quick look that needs no run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from reward_harness.errors import ArtifactError
from reward_harness.lineage.comparison import Measured
from reward_harness.lineage.ledger import Ledger
from reward_harness.lineage.references import ArtifactId

DEFAULT_METRICS = ("policy_report:*_win_rate", "rm_report:*_accuracy")
ARCHIVED = re.compile(r"(?m)^status:\s*archived\b")
ROWS = """
SELECT p.experiment, p.stage, p.digest, m.name, a.accepted, substr(sha256(p.benchmark), 1, 8),
  m.value, m.ci_low, m.ci_high, m.n, m.direction
FROM publications p
JOIN artifacts a USING (experiment, stage, digest)
JOIN metrics m USING (experiment, stage, digest)
WHERE p.current AND p.stage = ? AND m.name GLOB ? AND m.direction <> 'none'
ORDER BY if(m.direction = 'max', -m.value, m.value), p.experiment, m.name
"""


@dataclass(frozen=True, slots=True)
class Ranked:
    """One number on the board; ``data`` is equal for numbers measured on the same datasets."""

    artifact: ArtifactId
    metric: str
    measured: Measured
    data: str | None
    accepted: bool

    def record(self) -> dict[str, Any]:
        """As JSON."""
        measured = self.measured
        return {
            "artifact": str(self.artifact),
            "metric": self.metric,
            "value": measured.value,
            "ci": None if measured.ci_low is None else [measured.ci_low, measured.ci_high],
            "n": measured.n,
            "direction": measured.direction,
            "data": self.data,
            "gates_passed": self.accepted,
        }


def ranking_of(ledger: Ledger, experiments: Path, metric: str, limit: int) -> list[Ranked]:
    """The best ``limit`` numbers of a metric, ``stage:name``; the name may hold ``*`` and ``?``.

    ``ArtifactError`` if ``metric`` has another form.
    """
    stage, separator, name = metric.partition(":")
    if not (stage and separator and name):
        raise ArtifactError("not the name of a metric", got=metric, expected="stage:metric")
    return list(islice(_active(ledger, experiments, stage, name), limit))


def _active(ledger: Ledger, experiments: Path, stage: str, name: str) -> Iterator[Ranked]:
    archived: dict[str, bool] = {}
    for row in ledger.rows(ROWS, stage, name):
        experiment = row[0]
        if experiment not in archived:
            archived[experiment] = _is_archived(experiments / f"{experiment}.yaml")
        if not archived[experiment]:
            artifact = ArtifactId(experiment, row[1], row[2])
            yield Ranked(artifact, row[3], Measured(*row[6:11]), row[5], row[4])


def _is_archived(path: Path) -> bool:
    return path.is_file() and ARCHIVED.search(path.read_text(encoding="utf-8")) is not None
