"""The ``harness`` command. Importing this package is cheap; each command imports what it needs
when it runs.
"""

from __future__ import annotations

import sys

import typer
from typer._click import exceptions as usage  # typer brings its own click

from reward_harness.cli import artifacts, doctor, experiment, rubrics, search, serving, ui, verdicts
from reward_harness.errors import HarnessError
from reward_harness.rm import server

app = typer.Typer(
    name="harness",
    help="Search, train, serve and measure reward models; every stage has a recorded origin.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(experiment.app, name="experiment")
app.add_typer(artifacts.lineage, name="lineage")
app.add_typer(rubrics.app, name="rubrics")
app.add_typer(verdicts.app, name="verdicts")
app.command("search")(search.search)
app.command("stage")(artifacts.stage)
app.command("reproduce")(artifacts.reproduce)
app.command("doctor")(doctor.doctor)
app.command("ui")(ui.ui)
app.command("deploy")(serving.deploy)
app.command("rollback")(serving.rollback)
app.command("serve")(server.serve)


OF_THE_PROGRAM = ("--help", "--install-completion", "--show-completion")
"""Flags that are not those of a search when they come first."""


def main() -> None:
    """Run the command; an error a user can cause is one line on stderr and an exit code."""
    try:
        sys.exit(app(args=with_command(sys.argv[1:]), standalone_mode=False))
    except HarnessError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except usage.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except usage.ClickException as error:
        sys.stderr.write(f"error: {' '.join(error.format_message().split())}\n")
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)


def with_command(argv: list[str]) -> list[str]:
    """Bare flags are those of ``search``, as in the original command."""
    bare = argv[:1] and argv[0].startswith("--") and argv[0].split("=")[0] not in OF_THE_PROGRAM
    return ["search", *argv] if bare else argv
