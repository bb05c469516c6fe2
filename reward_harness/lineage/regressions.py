"""Which current numbers are worse than those of the newest comparable artifact before them.

Comparable: the same stage, measured on datasets of the same digests. Only artifacts whose enforced
gates passed are baselines, and the newest by time of publication is taken, whichever experiment
made it. See ``comparison`` for when a difference counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reward_harness.errors import ArtifactError
from reward_harness.lineage.comparison import Change, Measured, Verdict, compare
from reward_harness.lineage.ledger import Ledger
from reward_harness.lineage.references import ArtifactId, artifacts_named

NEWEST, OWN = "newest", "own"
REPORTED: tuple[Verdict, ...] = ("critical", "warning", "unproven")

PAIRS = """
CREATE OR REPLACE TEMP TABLE pairs AS
WITH accepted AS (
  SELECT p.*, lag(p.digest) OVER w AS before
  FROM publications p JOIN artifacts a USING (experiment, stage, digest)
  WHERE a.accepted AND p.benchmark IS NOT NULL AND {candidate}
  WINDOW w AS (PARTITION BY {group} ORDER BY p.published, p.experiment, p.digest)
), candidates AS (
  SELECT *, lag(experiment) OVER w AS earlier_experiment, lag(digest) OVER w AS earlier_digest
  FROM accepted WHERE before IS DISTINCT FROM digest
  WINDOW w AS (PARTITION BY {group} ORDER BY published, experiment, digest)
), subjects AS (
  SELECT experiment, stage, digest, benchmark, {until} AS until FROM publications
  WHERE current AND benchmark IS NOT NULL AND {subject}
)
SELECT s.experiment, s.stage, s.digest,
  if(c.digest = s.digest, c.earlier_experiment, c.experiment) AS base_experiment,
  if(c.digest = s.digest, c.earlier_digest, c.digest) AS base_digest
FROM subjects s ASOF LEFT JOIN candidates c ON {same} AND s.until >= c.published
"""
COUNTS = "SELECT count(*), count(base_digest) FROM pairs"
WORSE = """
SELECT p.experiment, p.stage, p.digest, p.base_experiment, p.base_digest, m.name,
  m.value, m.ci_low, m.ci_high, m.n, m.direction, b.value, b.ci_low, b.ci_high, b.n, b.direction
FROM pairs p
JOIN metrics m ON (m.experiment, m.stage, m.digest) = (p.experiment, p.stage, p.digest)
JOIN metrics b ON (b.experiment, b.stage, b.digest) = (p.base_experiment, p.stage, p.base_digest)
  AND b.name = m.name
WHERE m.direction <> 'none'
  AND if(m.direction = 'max', b.value - m.value, m.value - b.value)
  >= ? * if(b.value = 0, 1, abs(b.value))
"""
"""Leaves out, with room for rounding, what no threshold would report."""
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Regression:
    """A metric of a current artifact that is worse than its baseline's."""

    artifact: ArtifactId
    baseline: ArtifactId
    metric: str
    change: Change

    def record(self) -> dict[str, Any]:
        """As JSON."""
        names = {"artifact": str(self.artifact), "baseline": str(self.baseline)}
        return names | {"metric": self.metric} | self.change.record()


@dataclass(frozen=True, slots=True)
class Regressions:
    """What was compared and what is worse; worst first."""

    artifacts: int
    compared: int
    found: tuple[Regression, ...]

    def of(self, verdict: Verdict) -> list[Regression]:
        """Those of one verdict."""
        return [regression for regression in self.found if regression.change.verdict == verdict]

    @property
    def proven(self) -> bool:
        """Whether anything is surely worse."""
        return bool(self.of("critical") or self.of("warning"))

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "artifacts": self.artifacts,
            "compared": self.compared,
            "regressions": [regression.record() for regression in self.found],
        }


def find_regressions(
    ledger: Ledger,
    *,
    threshold_pct: float = 5.0,
    baseline: str = NEWEST,
    experiment: str | None = None,
) -> Regressions:
    """Compare every current artifact, or those of one experiment, with its baseline.

    ``baseline``: ``newest`` (of any experiment), ``own`` (of the same experiment), an experiment's
    key, or an artifact; of the last two the newest is taken also if it is newer.
    """
    group, candidate, until, parameters = _baseline(ledger, baseline)
    same = " AND ".join(f"s.{column.strip()} = c.{column.strip()}" for column in group.split(","))
    subject = "experiment = ?" if experiment else "true"
    query = PAIRS.format(group=group, candidate=candidate, until=until, subject=subject, same=same)
    parameters = [*parameters, *([experiment] if experiment else [])]
    ledger.rows(query, *parameters)
    ((artifacts, compared),) = ledger.rows(COUNTS)
    share = threshold_pct / 100 * (1 - ROUNDING)
    rows = ledger.rows(WORSE, share)
    found = [_regression(row, threshold_pct) for row in rows]
    reported = [regression for regression in found if regression.change.verdict in REPORTED]
    return Regressions(artifacts, compared, tuple(sorted(reported, key=_order)))


def _baseline(ledger: Ledger, name: str) -> tuple[str, str, str, list[object]]:
    """Columns within which baselines are sought, which publications may be one, until when."""
    if name == NEWEST:
        return "benchmark", "true", "published", []
    if name == OWN:
        return "benchmark, experiment", "true", "published", []
    ever = "'infinity'::DOUBLE"
    if "/" in name:
        artifact = artifacts_named(ledger, name)[-1]
        where = "(experiment, stage, digest) = (?, ?, ?)"
        return "benchmark", where, ever, list(artifact)
    if not ledger.rows("SELECT 1 FROM publications WHERE experiment = ? LIMIT 1", name):
        raise ArtifactError(
            "no such baseline",
            got=name,
            expected="newest, own, an experiment that published something, or an artifact",
        )
    return "benchmark", "experiment = ?", ever, [name]


def _regression(row: Sequence[Any], threshold_pct: float) -> Regression:
    experiment, stage, digest, base_experiment, base_digest, metric = row[:6]
    return Regression(
        ArtifactId(experiment, stage, digest),
        ArtifactId(base_experiment, stage, base_digest),
        metric,
        compare(Measured(*row[6:11]), Measured(*row[11:16]), threshold_pct),
    )


def _order(regression: Regression) -> tuple[int, float, ArtifactId, str]:
    rank = REPORTED.index(regression.change.verdict)
    return rank, -regression.change.worse_by, regression.artifact, regression.metric
