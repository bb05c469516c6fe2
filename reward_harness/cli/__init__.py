"""The ``harness`` command. A process imports only the module of the command that it was asked for,
and that module imports what it needs when it runs: a question to the ledger is answered sooner than
all commands are imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import Any

import typer
from typer._click import exceptions as usage  # typer brings its own click

from reward_harness.errors import HarnessError

GROUPS = {
    "experiment": "reward_harness.cli.experiment:app",
    "lineage": "reward_harness.cli.lineage:app",
    "rubrics": "reward_harness.cli.rubrics:app",
    "runs": "reward_harness.cli.runs:app",
    "study": "reward_harness.cli.study:app",
    "verdicts": "reward_harness.cli.verdicts:app",
    "verl": "reward_harness.cli.verl:app",
}
"""Commands that have commands, and where their typer application is."""

COMMANDS = {
    "search": "reward_harness.cli.search:search",
    "stage": "reward_harness.cli.artifacts:stage",
    "reproduce": "reward_harness.cli.artifacts:reproduce",
    "export": "reward_harness.cli.artifacts:export",
    "doctor": "reward_harness.cli.doctor:doctor",
    "ui": "reward_harness.cli.ui:ui",
    "deploy": "reward_harness.cli.serving:deploy",
    "rollback": "reward_harness.cli.serving:rollback",
    "serve": "reward_harness.rm.server:serve",
}
"""Commands, and their function."""

OF_THE_PROGRAM = ("--help", "--install-completion", "--show-completion")
"""Flags that are not those of a search when they come first."""


def app_of(names: Iterable[str] = (*GROUPS, *COMMANDS)) -> typer.Typer:
    """The application with these commands; by default with all."""
    made = typer.Typer(name="harness", no_args_is_help=True, pretty_exceptions_enable=False)
    made.callback()(_harness)
    for name in names:
        if name in GROUPS:
            made.add_typer(_named(GROUPS[name]), name=name)
        else:
            made.command(name)(_named(COMMANDS[name]))
    return made


def _harness() -> None:
    """Search, train, serve and measure reward models; every stage has a recorded origin."""


def _named(place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def __getattr__(name: str) -> Any:
    """``app``, the application with all commands, made when it is asked for."""
    if name == "app":
        return app_of()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main() -> None:
    """Run the command; an error a user can cause is one line on stderr and an exit code."""
    argv = with_command(sys.argv[1:])
    asked = [name for name in argv[:1] if name in GROUPS or name in COMMANDS]
    app = app_of(asked) if asked else app_of()
    try:
        sys.exit(app(args=argv, standalone_mode=False))
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
