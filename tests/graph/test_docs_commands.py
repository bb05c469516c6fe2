"""Every command in a ``bash`` block of README.md and docs/ runs in a project in which an experiment
has finished, or is accepted by its parser and named below with the reason why it does not run. (A
``sh`` block has a command of another project.)
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from typer._click import exceptions as typer_click

from harness_jobs import launch
from reward_harness.cli import experiment
from reward_harness.llm.verdicts import STORE_NAME, VerdictStore
from reward_harness.store import ArtifactStore
from reward_harness.workspace import Workspace
from tests.graph.doc_commands import (
    ASSIGNMENT,
    PAGES,
    REPOSITORY,
    Command,
    documented,
    require_accepted,
    run,
)
from tests.serving.conftest import server_process, write_word_artifact

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("graph"), pytest.mark.timeout(900)]
COMMANDS = documented()
FINISHED = ("tour", "mine", "my-experiment")
"""Experiments of the pages for which `smoke` stands here: it has run."""
NOT_RUN = {
    r"make ": "installs, or takes minutes",
    r"pip ": "changes the environment",
    r"harness experiment run (?!smoke)": "takes minutes: `smoke` alone is finished here",
    r"harness experiment run smoke .*(signal|weights)_report": "`smoke` does not have the report",
    r"harness study (run|report)": "takes hours: tests/graph/test_operations.py has a small one",
    r"harness serve": "serves until it is stopped: tests/serving",
    r"python -m reward_harness.rm.server": "serves until it is stopped: tests/serving",
    r"python -m reward_harness.training.worker": "trains: tests/training/test_job.py",
    r"harness verl": "needs a server and a trainer: tests/lineage/test_verl.py",
    r"dagster schedule": "loads the code in a server: tests/graph/test_ticks.py",
    r"dagster-daemon": "runs until it is stopped: tests/graph/test_ticks.py",
}
MAY_FIND = re.compile(r"harness (doctor|lineage (regressions|diff)|runs check-regression)")
"""Commands that end with 1 if they find something."""


def here(command: Command, workspace: Workspace) -> Command:
    """The command with the finished experiment's names for those of the page."""
    text = command.text
    if " experiment new " not in text:
        text = re.sub(rf"(?<=[\s/])({'|'.join(FINISHED)})(?=[\s/]|$)", "smoke", text)
    if (named := re.search(r"smoke/(\w+)/<digest>", text)) is not None:
        made = ArtifactStore(workspace.runs).current("smoke", named[1])
        assert made is not None
        text = text.replace("<digest>", made.digest)
    return Command(command.page, text)


def reason(command: Command) -> str | None:
    """Why a command is not run, or None."""
    return next((why for which, why in NOT_RUN.items() if re.match(which, command.text)), None)


@pytest.fixture(scope="module")
def project(smoke_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A project in which `smoke` has finished, with the files that the pages speak of."""
    root = tmp_path_factory.mktemp("docs") / "project"
    shutil.copytree(smoke_once, root)
    workspace = Workspace(root)
    ranked = ArtifactStore(workspace.runs).current("smoke", "ranked_prompts")
    assert ranked is not None
    shutil.copy(ranked.file("train.jsonl"), root / "prompts.jsonl")
    write_word_artifact(root / "sourced", shared="source")
    VerdictStore(workspace.cache / STORE_NAME).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_ROOT", str(root))
        patch.setenv("DAGSTER_HOME", str(workspace.dagster_home))
        patch.setattr(experiment, "launch", lambda _, *arguments: launch.main(arguments))
        patch.chdir(root)
        write_records(root)
        yield workspace


def write_records(root: Path) -> None:
    """The three records of docs/lineage.md as files, and the same for a second run, recorded."""
    page = (REPOSITORY / "docs" / "lineage.md").read_text()
    texts = re.findall(r"^```json\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    for name, text in zip(("manifest", "result", "report"), texts, strict=True):
        (root / f"{name}.json").write_text(text)
        second = json.loads(text.replace("run-1", "run-2").replace("eval-1", "eval-2"))
        (root / "second.json").write_text(json.dumps(second))
        kind = "eval" if name == "report" else name
        assert run(["harness", "runs", f"record-{kind}", "second.json"]) == 0


@pytest.fixture(scope="module")
def url(project: Workspace) -> Iterator[str]:
    with server_process(project.root, "--artifact", str(project.root / "sourced")) as (record, _):
        yield record.url


def test_every_command_runs_or_is_accepted(
    project: Workspace, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Page by page in one project: a later one goes on from what an earlier one left."""
    for found in COMMANDS:
        command = here(found, project)
        if reason(command) is not None:
            require_accepted(command, capsys)
            continue
        assert runs(command, url), command
        if command.text.startswith("harness search"):
            shutil.copy(project.root / "found.json", project.root / "search_output.json")
        elif " experiment new " in command.text:
            (project.experiments / f"{command.argv[3]}.yaml").unlink()  # two pages begin with it


def runs(command: Command, url: str) -> bool:
    """Whether the command ends as it should; what asks a server asks the one at ``url``."""
    program, *arguments = command.argv
    if program == "export":
        return all(ASSIGNMENT.fullmatch(word) for word in arguments)
    if program == "curl":
        text = command.text.replace("localhost:8100", url.removeprefix("http://"))
        done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
        return bool(done.stdout) and '"error"' not in done.stdout
    return run(command.argv) in ((0, 1) if MAY_FIND.match(command.text) else (0,))


def test_every_reason_not_to_run_is_needed(project: Workspace) -> None:
    commands = [here(command, project) for command in COMMANDS]
    idle = [which for which in NOT_RUN if not any(re.match(which, c.text) for c in commands)]
    assert idle == []
    assert sum(reason(command) is None for command in commands) > len(commands) / 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not heading or heading in anchors(target.read_text()), link


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "text",
    [
        "harness lineage shwo tour",
        "harness serve --tagret dev",
        "python -m reward_harness.rm.server --tagret dev",
        "dagster schedule begin it",
        "make nothing",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((AssertionError, click.UsageError, typer_click.UsageError)):
        require_accepted(Command("a page", text), capsys)
