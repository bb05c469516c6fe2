"""The ``harness`` command. Importing this package is cheap; each command imports what it needs
when it runs.
"""

from __future__ import annotations

import sys

import typer

from reward_harness.cli import artifacts, doctor, experiment, rubrics, serving, ui, verdicts
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
app.command("stage")(artifacts.stage)
app.command("reproduce")(artifacts.reproduce)
app.command("doctor")(doctor.doctor)
app.command("ui")(ui.ui)
app.command("deploy")(serving.deploy)
app.command("rollback")(serving.rollback)
app.command("serve")(server.serve)


def main() -> None:
    """Run the command; an error a user can cause is one line on stderr and an exit code."""
    try:
        app()
    except HarnessError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
