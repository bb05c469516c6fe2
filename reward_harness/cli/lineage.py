"""``harness lineage``: questions to the record of what was made from what."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from reward_harness.workspace import Workspace

app = typer.Typer(help="Where every number came from.", no_args_is_help=True)
console = Console()
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable")]


@app.callback()
def _lineage() -> None:
    """Questions to the record of what was made from what."""


@app.command()
def show(
    experiment: Annotated[str, typer.Argument(help="experiment key")],
    stage: Annotated[str | None, typer.Option(help="only what this stage was made from")] = None,
    as_json: AsJson = False,
) -> None:
    """All upstream digests, code versions, costs and gates of an experiment."""
    from reward_harness.lineage.show import lineage_json, lineage_text

    workspace = Workspace.discover()
    if as_json:
        typer.echo(lineage_json(workspace, experiment, stage))
    else:
        console.print(lineage_text(workspace, experiment, stage))
