"""``harness rubrics``: rubrics from and to the formats of others."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console(stderr=True)
app = typer.Typer(help="Rubrics in files.", no_args_is_help=True)


class FormatName(StrEnum):
    """``reward_harness.rubrics.formats.Format`` as choices of an option."""

    OWN = "own"
    PAPER = "paper"
    OPEN_INSTRUCT = "open-instruct"
    VERIFIERS = "verifiers"


@app.callback()
def _rubrics() -> None:
    """Rubrics in files."""


@app.command("convert")
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="a file of any known format: found out")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help=".json, .jsonl (many prompts) or .toml")
    ],
    to: Annotated[FormatName, typer.Option("--to", help="the format to write")],
) -> None:
    """Write the rubrics of a file in another format, and say what that format cannot hold."""
    from reward_harness.rubrics.files import read_rubrics, write_as
    from reward_harness.rubrics.formats import losses

    rubrics = read_rubrics(source)
    write_as(target, rubrics, to.value)
    lost = sorted({what for rubric in rubrics.values() for what in losses(rubric, to.value)})
    if lost:
        console.print(f"[yellow]left out[/yellow], as {to.value} has no place: {', '.join(lost)}")
    console.print(f"wrote {len(rubrics)} rubric{'s' * (len(rubrics) != 1)} to {target}")
