"""``harness verl``: a trainer's run on a served reward, declared, run and recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reward_harness.workspace import Workspace

if TYPE_CHECKING:
    from reward_harness.runs.registry import Registry

app = typer.Typer(
    help="External training on a served reward: handshake, run, record.", no_args_is_help=True
)
Endpoint = Annotated[str, typer.Option(help="the reward server")]
ArtifactId = Annotated[
    str | None, typer.Option(help="the reward that must be served (rm-…); default: what is")
]
Session = Annotated[str | None, typer.Option(help="the search session it must come from")]
Deploy = Annotated[str | None, typer.Option(help="its deployment")]
DatasetId = Annotated[str, typer.Option(help="what is trained on")]
DatasetVersion = Annotated[str, typer.Option(help="its version")]
Split = Annotated[str, typer.Option(help="its split")]
Project = Annotated[str, typer.Option(help="the trainer's project")]
CodeVersion = Annotated[str, typer.Option(help="its commit or version")]
Entrypoint = Annotated[str, typer.Option(help="what is started")]
RunId = Annotated[str | None, typer.Option(help="default: made up of the time")]
OutputDir = Annotated[Path, typer.Option(help="the run's folder is made in it")]
VERL = "verl.trainer.main_ppo"


@app.command()
def prepare(
    rm_endpoint: Endpoint,
    dataset_id: DatasetId,
    dataset_version: DatasetVersion,
    trainer_project: Project,
    trainer_code_version: CodeVersion,
    trainer_entrypoint: Entrypoint = VERL,
    split: Split = "train",
    rm_artifact_id: ArtifactId = None,
    search_session_id: Session = None,
    rm_deploy_id: Deploy = None,
    training_run_id: RunId = None,
    output_dir: OutputDir = Path("outputs"),
) -> None:
    """Shake hands with the reward server, declare the run; prints its id."""
    from reward_harness.runs import verl
    from reward_harness.runs.schemas import Dataset, Trainer

    plan = verl.Plan(
        rm_endpoint=rm_endpoint,
        dataset=Dataset(dataset_id=dataset_id, dataset_version=dataset_version, split=split),
        trainer=Trainer(
            project=trainer_project,
            code_version=trainer_code_version,
            entrypoint=trainer_entrypoint,
        ),
        rm_artifact_id=rm_artifact_id,
        search_session_id=search_session_id,
        rm_deploy_id=rm_deploy_id,
        training_run_id=training_run_id,
    )
    typer.echo(verl.prepare(_registry(), plan, output_dir).training_run_id)


@app.command()
def run(
    training_run_id: Annotated[str, typer.Option(help="a run that `prepare` declared")],
    command: Annotated[list[str], typer.Argument(help="the trainer's command, after --")],
    output_dir: OutputDir = Path("outputs"),
) -> None:
    """Run the trainer, record how it ended, end with the trainer's exit code."""
    from reward_harness.runs import verl

    registry = _registry()
    ended = verl.run(registry, training_run_id, command, output_dir)
    result = verl.finalize(registry, training_run_id, output_dir)
    typer.echo(f"{training_run_id}: {result.status}", err=True)
    raise typer.Exit(ended.exit_code)


@app.command()
def finalize(
    training_run_id: Annotated[str, typer.Option(help="a run that has ended")],
    output_dir: OutputDir = Path("outputs"),
) -> None:
    """Record the result of a run that has ended, and the evaluation reports in its folder."""
    from reward_harness.runs.verl import finalize as record

    result = record(_registry(), training_run_id, output_dir)
    typer.echo(f"{training_run_id}: {result.status}")


def _registry() -> Registry:
    from reward_harness.runs.registry import Registry

    return Registry(Workspace.discover())
