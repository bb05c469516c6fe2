"""Resource ``compute``: where training jobs run, with Dagster Pipes carrying the trainer's log.

The library's launcher does the work (own process group, memory guard, progress, cancel); this adds
a Pipes session, so that what the trainer logs stands in the run's log. Only rank 0 opens it
(``harness_resources.worker``).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import dagster as dg
from pydantic import Field

from reward_harness.progress import ProgressSink
from reward_harness.sections import ComputeSection

if TYPE_CHECKING:
    from reward_harness.training.job import TrainJob
    from reward_harness.training.launcher import Launcher, TrainResult

WORKER = "harness_resources.worker"


class Compute(dg.ConfigurableResource):
    """How trainers are started; everything that decides results stays in the experiment's compute
    section.
    """

    kind: Literal["experiment", "inline", "local"] = Field(
        default="experiment", description="experiment: as the experiment's file says"
    )

    def launcher(self, context: dg.AssetExecutionContext, section: ComputeSection) -> "Launcher":
        """The launcher for one asset's run."""
        from reward_harness.training.launcher import launcher_for

        kind = section.launcher if self.kind == "experiment" else self.kind
        if kind == "inline":
            return launcher_for(section.model_copy(update={"launcher": kind}))
        return PipesLauncher(context, section)


class PipesLauncher:
    """Starts the trainer as a local process whose log arrives through Dagster Pipes."""

    def __init__(self, context: dg.AssetExecutionContext, section: ComputeSection) -> None:
        self.context = context
        self.section = section

    def run(self, job: "TrainJob", output: Path, progress: ProgressSink) -> "TrainResult":
        """Run ``job`` to its end; cancelling the step ends the trainer's whole process group."""
        from reward_harness.training.launcher import LocalLauncher

        with dg.open_pipes_session(
            context=self.context,
            context_injector=dg.PipesTempFileContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            launcher = LocalLauncher(
                self.section, worker=WORKER, environment=session.get_bootstrap_env_vars()
            )
            return launcher.run(job, output, progress)
