"""Where things lie: the project root and the folders of architecture fixed below it.

The root is ``HARNESS_ROOT`` if set, else the nearest folder at or above the working directory that
holds ``workspace.yaml``, else the checkout this package was installed from.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from reward_harness.errors import SpecError

MARKER = "workspace.yaml"


@dataclass(frozen=True, slots=True)
class Workspace:
    """All paths of one checkout or of one test's private root."""

    root: Path

    @classmethod
    def discover(cls) -> Workspace:
        """Find the root; ``SpecError`` if there is none."""
        if named := os.environ.get("HARNESS_ROOT"):
            return cls(Path(named).resolve())
        here = Path.cwd().resolve()
        candidates = [here, *here.parents, Path(__file__).resolve().parents[1]]
        for folder in candidates:
            if (folder / MARKER).is_file():
                return cls(folder)
        raise SpecError(
            "no project found",
            where=str(here),
            expected=f"a folder with {MARKER} at or above it",
            fix="Change into the project, or set HARNESS_ROOT.",
        )

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def experiments(self) -> Path:
        return self.data / "experiments"

    @property
    def studies(self) -> Path:
        return self.data / "studies"

    @property
    def sources(self) -> Path:
        return self.data / "sources"

    @property
    def runs(self) -> Path:
        return self.data / "runs"

    @property
    def deployments(self) -> Path:
        return self.data / "deployments"

    @property
    def attacks(self) -> Path:
        return self.data / "attacks"

    @property
    def cache(self) -> Path:
        return Path(os.environ.get("HARNESS_CACHE_DIR") or self.data / "cache")

    @property
    def dagster_home(self) -> Path:
        return Path(os.environ.get("DAGSTER_HOME") or self.data / "dagster")

    @property
    def prompts(self) -> Path:
        return self.root / "prompts"


def reports_url() -> str:
    """Base URL of the report server that ``harness ui`` runs; materializations link to it."""
    return os.environ.get("HARNESS_REPORTS_URL", "http://127.0.0.1:3001").rstrip("/")
