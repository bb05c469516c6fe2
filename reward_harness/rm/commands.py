"""How the ``python -m reward_harness.rm.…`` commands run: one line for an error a user can
cause.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import typer

from reward_harness.errors import HarnessError


def run_command(command: Callable[..., None]) -> None:
    """Run a typer command; a ``HarnessError`` ends it with its message and exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(command)
    try:
        app()
    except HarnessError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
