"""Resource ``store``: the workspace and its experiments, for assets, checks and sensors."""

import dagster as dg

from reward_harness.experiments import find_experiment
from reward_harness.spec import ExperimentSpec
from reward_harness.store import ArtifactStore
from reward_harness.studies import StudySpec, read_study
from reward_harness.workspace import Workspace


class Store(dg.ConfigurableResource):
    """Where artifacts and experiment files lie; ``root`` empty means: found as the command line
    finds it.
    """

    root: str = ""

    def workspace(self) -> Workspace:
        """The project's folders."""
        from pathlib import Path

        return Workspace(Path(self.root)) if self.root else Workspace.discover()

    def experiment(self, key: str) -> ExperimentSpec:
        """The experiment as its file, or its study's file, says now; ``SpecError`` says what is
        wrong.
        """
        return find_experiment(self.workspace(), key)

    def study(self, name: str) -> StudySpec:
        """The study's file as it is now."""
        return read_study(self.workspace().studies, name)

    def artifacts(self) -> ArtifactStore:
        """The published artifacts."""
        return ArtifactStore(self.workspace().runs)
