"""``harness verdicts``: what the store of paid answers holds, and taking old ones out of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console
from rich.table import Table

from reward_harness.errors import SpecError
from reward_harness.workspace import Workspace

console = Console()
app = typer.Typer(help="The store of every answer that was paid for.", no_args_is_help=True)

StorePath = Annotated[
    Path | None, typer.Option("--store", help="a store's file; default: the project's")
]
Role = Annotated[str | None, typer.Option(help="only this role")]
Model = Annotated[str | None, typer.Option(help="only this model")]


@app.command()
def stats(
    store: StorePath = None,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Count verdicts by role and model; size on disk, oldest and newest."""
    from reward_harness.llm.verdict_admin import stats

    path = _store(store)
    found = stats(path)
    if as_json:
        told = {"path": str(path), "verdicts": found.verdicts, "size_bytes": found.size_bytes}
        typer.echo(orjson.dumps(told | {"groups": found.groups}, option=orjson.OPT_INDENT_2))
        return
    title = f"{found.verdicts:,} verdicts, {found.size_bytes / 1e6:,.1f} MB, {path}"
    table = Table(
        "role", "model", "verdicts", "oldest", "newest", title=title, title_justify="left"
    )
    for group in found.groups:
        when = (_day(group.oldest), _day(group.newest))
        table.add_row(group.role, group.model, f"{group.verdicts:,}", *when)
    console.print(table)


@app.command()
def prune(
    older_than: Annotated[
        float | None, typer.Option(help="only verdicts older than so many days", min=0)
    ] = None,
    model: Model = None,
    role: Role = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="really delete")] = False,
    store: StorePath = None,
) -> None:
    """Delete verdicts and give their space back; without --yes it only says what would go."""
    from reward_harness.llm.verdict_admin import Selection, count, prune

    if older_than is None and model is None and role is None:
        raise SpecError("nothing chosen to prune", fix="Give --older-than, --model or --role.")
    path, selection = _store(store), Selection(role, model, older_than)
    if dry_run or not yes:
        hint = "" if dry_run else " Add --yes to delete them."
        console.print(f"{count(path, selection):,} verdicts would be deleted.{hint}")
        return
    console.print(f"deleted {prune(path, selection):,} verdicts")


@app.command()
def export(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="a file; default: standard output")
    ] = None,
    model: Model = None,
    role: Role = None,
    store: StorePath = None,
) -> None:
    """Write verdicts as JSON, one a line, in the order of their keys."""
    from reward_harness.llm.verdict_admin import Selection, export

    rows = export(_store(store), Selection(role, model))
    stream = typer.get_binary_stream("stdout") if output is None else output.open("wb")
    try:
        for row in rows:
            stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    finally:
        stream.flush()
        if output is not None:
            stream.close()


def _store(given: Path | None) -> Path:
    from reward_harness.llm.verdicts import STORE_NAME

    return given or Workspace.discover().cache / STORE_NAME


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
