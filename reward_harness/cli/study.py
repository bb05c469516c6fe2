"""``harness study``: list, show, run, report."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from reward_harness.cli.experiment import run_through_graph
from reward_harness.cli.graph import launch
from reward_harness.errors import SpecError
from reward_harness.experiments import members_of
from reward_harness.store import ArtifactStore
from reward_harness.studies import expand, read_study, study_names
from reward_harness.workspace import Workspace

app = typer.Typer(
    help="Studies: one base experiment, variants and seeds, and a report over them.",
    no_args_is_help=True,
)
console = Console()
Name = Annotated[str, typer.Argument(help="the study: a file data/studies/<name>.yaml")]


@app.command("list")
def list_studies() -> None:
    """All studies: what each asks, how many members it has."""
    workspace = Workspace.discover()
    table = Table("study", "status", "base", "members", "question", box=None, header_style="bold")
    for name in study_names(workspace.studies):
        try:
            study = read_study(workspace.studies, name)
        except SpecError as error:
            table.add_row(name, "[red]invalid", "", "", str(error))
            continue
        members = str(len(expand(study)))
        table.add_row(name, study.status, study.base, members, study.description)
    console.print(table)


@app.command()
def show(name: Name) -> None:
    """The study's members: overrides, and how far each has run."""
    from reward_harness.stages import stage_status, wanted_stages

    workspace = Workspace.discover()
    study = read_study(workspace.studies, name)
    console.print(f"[bold]{name}[/bold] ({study.status}, base {study.base}) {study.description}")
    table = Table("member", "fresh", "overrides", box=None, header_style="bold")
    for member, spec in members_of(workspace, study):
        states = stage_status(workspace, spec, wanted_stages(spec)).values()
        fresh = sum(state == "fresh" for state in states)
        overrides = ", ".join(f"{path}={value}" for path, value in member.overrides.items())
        table.add_row(member.key, f"{fresh}/{len(states)}", overrides)
    console.print(table)
    report = ArtifactStore(workspace.runs).current(name, "study_report")
    console.print(f"report: {report.path / 'report.html' if report else 'not made yet'}")


@app.command()
def run(
    name: Name,
    stages: Annotated[
        str,
        typer.Option(help="comma-separated, with inputs that were never made; default: all stages"),
    ] = "",
) -> None:
    """Run what is not fresh of every member, one after another, then report; interrupt it, and the
    next run goes on.
    """
    workspace = Workspace.discover()
    study = read_study(workspace.studies, name)
    members = members_of(workspace, study)
    failed: list[str] = []
    for number, (member, _) in enumerate(members, start=1):
        console.print(f"[bold]{name}[/bold] {number}/{len(members)}: {member.key}")
        code = run_through_graph(workspace, member.key, stages)
        if code < 0 or code == 130:  # interrupted: what is done is kept
            raise typer.Exit(code)
        failed += [member.key] if code else []
    code = _report(workspace, name)
    if failed:
        console.print(f"[red]failed:[/red] {', '.join(failed)}; run again to go on")
    raise typer.Exit(1 if failed else code)


@app.command()
def report(name: Name) -> None:
    """Report on the members that have run so far."""
    workspace = Workspace.discover()
    read_study(workspace.studies, name)
    raise typer.Exit(_report(workspace, name))


def _report(workspace: Workspace, name: str) -> int:
    code = launch(workspace, "--study-report", name)
    made = ArtifactStore(workspace.runs).current(name, "study_report")
    if code == 0 and made is not None:
        console.print((made.path / "summary.md").read_text(encoding="utf-8"))
        console.print(f"report: {made.path / 'report.html'}")
    return code
