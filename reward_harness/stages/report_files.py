"""What every report stage writes and says of its sources."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from reward_harness.evaluation import plots
from reward_harness.evaluation.report import Page, Source, render
from reward_harness.store import Artifact


def sources_of(artifacts: Iterable[Artifact]) -> list[Source]:
    """Each artifact once, in order."""
    unique = {artifact.manifest.artifact_id: artifact.manifest for artifact in artifacts}
    return [Source(m.stage, m.experiment, m.digest, m.code.version) for m in unique.values()]


def write_report(
    folder: Path, page: Page, summary: str, draw: plots.Draw, size: tuple[float, float]
) -> None:
    """``report.html``, ``summary.md`` and ``plot.png``."""
    (folder / "report.html").write_text(render(page), encoding="utf-8")
    (folder / "summary.md").write_text(summary, encoding="utf-8")
    plots.save_png(draw, size, folder / "plot.png")
