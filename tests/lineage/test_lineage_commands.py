"""The commands as a user types them, those of the page included, on a generated project."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.lineage import generate
from reward_harness.cli import app_of

PAGE = Path(__file__).resolve().parents[2] / "docs" / "lineage.md"
NAMES = {"tour": "exp-0000", "my-experiment": "exp-0001"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("generated")
    generate(root, 2)
    return root


def ask(project: Path, *arguments: str):
    runner = CliRunner(env={"HARNESS_ROOT": str(project)})
    return runner.invoke(app_of(["lineage", "runs", "verl"]), arguments)


def commands_of_the_page() -> list[list[str]]:
    found: list[list[str]] = []
    for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.S):
        for line in block.splitlines():
            if line.startswith("harness lineage "):
                words = shlex.split(line, comments=True)
                found.append([named(word) for word in words[1:]])
    return found


def named(word: str) -> str:
    experiment, slash, rest = word.partition("/")
    return f"{NAMES.get(experiment, experiment)}{slash}{rest}"


@pytest.mark.parametrize("arguments", commands_of_the_page(), ids=" ".join)
def test_the_lineage_commands_of_the_page_answer(project, arguments):
    done = ask(project, *arguments)
    assert done.exit_code in ((0, 1) if "regressions" in arguments else (0,)), done.output
    assert len(done.stdout) > 20


def test_json_is_json_and_says_what_the_text_says(project):
    for arguments in (
        ["diff", "exp-0000", "exp-0001"],
        ["impact", "exp-0000/rl_prompts"],
        ["scored-by", "exp-0000/grpo_checkpoint"],
        ["regressions", "--threshold-pct", "1"],
        ["leaderboard", "--metric", "rm_report:metric_*", "--limit", "3"],
    ):
        found = json.loads(ask(project, "lineage", *arguments, "--json").stdout)
        text = ask(project, "lineage", *arguments).stdout
        if arguments[0] == "diff":
            assert found["origin"] in text and found["differences"]
        if arguments[0] == "impact":
            assert f"{len(found['affected'])} current artifacts" in text
        if arguments[0] == "leaderboard":
            (rows,) = found.values()
            assert len(rows) == 3 and rows[0]["value"] == max(row["value"] for row in rows)


def test_the_origin_of_generated_experiments_is_their_seed(project):
    found = json.loads(ask(project, "lineage", "diff", "exp-0000", "exp-0001", "--json").stdout)
    reasons = {r["kind"] for d in found["differences"] for r in d["reasons"] if d["origin"]}
    assert "seed" in reasons


def test_rebuild_counts_what_is_there(project):
    done = ask(project, "lineage", "rebuild")
    assert "of 2 experiments" in done.stdout
    artifacts = len(list((project / "data/runs").glob("*/*/*/manifest.json")))
    assert done.stdout.startswith(f"{artifacts} artifacts")
