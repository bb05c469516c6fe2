"""``harness experiment``: list, show, new, run, archive."""

from __future__ import annotations

import re
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from reward_harness.cli.graph import launch
from reward_harness.durable import write_atomically
from reward_harness.errors import SpecError
from reward_harness.experiments import find_experiment
from reward_harness.manifest import Metric
from reward_harness.spec import check_key, experiment_keys, read_experiment
from reward_harness.store import ArtifactStore
from reward_harness.workspace import Workspace

app = typer.Typer(
    help="Experiments: one YAML file each, one partition of the graph.", no_args_is_help=True
)
console = Console()
Key = Annotated[str, typer.Argument(help="the experiment: a file data/experiments/<key>.yaml")]
STATUS_STYLE = {"fresh": "green", "stale": "yellow", "missing": "dim"}

TEMPLATE = """\
# {key}: say here what this experiment is to find out.
# Everything not set below is inherited from `{base}`; `harness experiment show {key}` prints the
# stages.
extends: {base}
description: ""
# seed: 7
# policy:
#   ppo:
#     kl_target: 3.0
"""


@app.command("list")
def list_experiments() -> None:
    """All experiments with how much of each is made and fresh."""
    from reward_harness.stages import stage_status, wanted_stages

    workspace = Workspace.discover()
    table = Table("experiment", "status", "fresh", "description", box=None, header_style="bold")
    for key in experiment_keys(workspace.experiments):
        try:
            spec = read_experiment(workspace.experiments, key)
        except SpecError as error:
            table.add_row(key, "[red]invalid", "", str(error))
            continue
        states = stage_status(workspace, spec, wanted_stages(spec)).values()
        fresh = sum(state == "fresh" for state in states)
        table.add_row(key, spec.status, f"{fresh}/{len(states)}", spec.description)
    console.print(table)


@app.command()
def show(key: Key) -> None:
    """The experiment's stages: state, artifact, main numbers."""
    from reward_harness.stages import stage_status, wanted_stages

    workspace = Workspace.discover()
    spec = find_experiment(workspace, key)
    store = ArtifactStore(workspace.runs)
    console.print(f"[bold]{key}[/bold] ({spec.status}) {spec.description}")
    table = Table("stage", "state", "artifact", "numbers", box=None, header_style="bold")
    for name, state in stage_status(workspace, spec, wanted_stages(spec)).items():
        artifact = store.current(key, name)
        numbers = ""
        if artifact:
            shown = list(artifact.manifest.metrics.items())[:3]
            numbers = ", ".join(f"{metric} {_number(value)}" for metric, value in shown)
        digest = artifact.digest[:12] if artifact else ""
        table.add_row(name, f"[{STATUS_STYLE[state]}]{state}", digest, numbers)
    console.print(table)


def _number(metric: Metric) -> str:
    interval = ""
    if metric.ci_low is not None and metric.ci_high is not None:
        interval = f" [{metric.ci_low:.3g}, {metric.ci_high:.3g}]"
    return f"{metric.value:.4g}{interval}"


@app.command()
def new(
    key: Key,
    base: Annotated[str, typer.Option("--from", help="the experiment to inherit from")] = "tour",
) -> None:
    """Write data/experiments/<key>.yaml that inherits from another experiment."""
    workspace = Workspace.discover()
    check_key(key, "harness experiment new")
    read_experiment(workspace.experiments, base)
    path = workspace.experiments / f"{key}.yaml"
    if path.exists():
        raise SpecError(
            "experiment exists", where=str(path), fix="Choose another key, or edit the file."
        )
    write_atomically(path, TEMPLATE.format(key=key, base=base).encode())
    console.print(f"wrote {path}; edit it, then: harness experiment run {key}")


@app.command()
def run(
    key: Key,
    stages: Annotated[
        str,
        typer.Option(help="comma-separated, with inputs that were never made; default: all stages"),
    ] = "",
) -> None:
    """Run what is not fresh of the experiment, through Dagster, with a progress display."""
    workspace = Workspace.discover()
    raise typer.Exit(run_through_graph(workspace, key, stages))


def run_through_graph(workspace: Workspace, key: str, stages: str = "") -> int:
    """Launch one experiment; its exit code."""
    find_experiment(workspace, key)  # a bad file is told before Dagster loads
    return launch(workspace, key, "--stages", stages)


@app.command()
def archive(key: Key) -> None:
    """Mark the experiment archived: artifacts and partition stay, no schedule runs it."""
    workspace = Workspace.discover()
    path = workspace.experiments / f"{key}.yaml"
    read_experiment(workspace.experiments, key)
    text = path.read_text(encoding="utf-8")
    changed, found = re.subn(r"(?m)^status:.*$", "status: archived", text, count=1)
    write_atomically(path, (changed if found else f"{text.rstrip()}\nstatus: archived\n").encode())
    console.print(f"{key} is archived")
