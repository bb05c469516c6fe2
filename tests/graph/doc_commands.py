"""The commands of the documentation: found in its pages, accepted by their parsers, run in this
process.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement

from reward_harness import cli

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
SUBSTITUTED = re.compile(r"\w+=\$\((.*)\)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a ``bash`` block; ``text`` has no comment."""

    page: str
    text: str

    @property
    def argv(self) -> list[str]:
        return shlex.split(self.text)

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def documented() -> list[Command]:
    """All commands, by page and place."""
    return [Command(page.name, text) for page in PAGES for text in commands_in(page.read_text())]


def commands_in(text: str) -> Iterator[str]:
    """A command may go on in the next line, behind a backslash or within quotes."""
    for block in re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        pending = ""
        for line in block.splitlines():
            pending += line if "'" in pending else re.sub(r"\s+# .*", "", line)
            if pending.endswith("\\") or pending.count("'") % 2:
                pending = f"{pending.removesuffix(chr(92))}\n"
            elif pending.strip():
                inner = SUBSTITUTED.match(pending)
                yield " ".join((inner[1] if inner else pending).split())
                pending = ""
        assert not pending, block


def require_accepted(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    """The command exists and its parser takes the arguments; ``AssertionError`` if not."""
    program, *arguments = command.argv
    if program == "harness":
        group, *rest = arguments
        parse(typer.main.get_command(cli.app_of([group])), [group, *rest])
    elif program == "dagster":
        from dagster._cli import create_dagster_cli

        parse(create_dagster_cli(), arguments)
    elif program == "dagster-daemon":
        from dagster._daemon.cli import create_dagster_daemon_cli

        parse(create_dagster_daemon_cli(), arguments)
    elif arguments[:1] == ["-m"]:
        require_flags(arguments[1], arguments[2:], capsys)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert set(arguments) <= set(targets), command
    elif program == "pip":
        wanted = [Requirement(text) for text in arguments[1:]]
        assert arguments[0] == "install" and wanted, command
        assert all(r.specifier.contains(metadata.version(r.name)) for r in wanted), command
    else:
        raise AssertionError(f"no parser for {command}")


def parse(command: Any, arguments: Sequence[str]) -> None:
    """Parse as click does, down to the last command; nothing is called."""
    context = command.make_context(command.name, list(arguments))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, list(rest), parent=context)


def require_flags(
    module: str, arguments: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The module runs as a command whose help has each flag."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, "--help"])
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__")
    assert ended.value.code in (0, None), module
    told = capsys.readouterr().out
    assert told
    for flag in (a.split("=")[0] for a in arguments if a.startswith("--")):
        assert flag in told, (module, flag)


def run(argv: Sequence[str]) -> int:
    """Run a command of ours or of Dagster in this process; its exit code."""
    program, *arguments = argv
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        if program == "dagster":
            from dagster._cli import create_dagster_cli

            create_dagster_cli()(arguments)
        elif arguments[:1] == ["-m"]:
            patch.setattr(sys, "argv", [arguments[1], *arguments[2:]])
            runpy.run_module(arguments[1], run_name="__main__")
        else:
            patch.setattr(sys, "argv", [program, *arguments])
            cli.main()
    return int(ended.value.code or 0)
