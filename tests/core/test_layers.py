"""Imports point upwards only, and loading the definitions stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LAYERS = ["reward_harness", "harness_resources", "harness_assets", "harness_jobs"]
HEAVY = {"torch", "transformers", "trl", "datasets", "peft", "accelerate"}
FILES = [(layer, path) for layer in LAYERS for path in sorted((REPOSITORY / layer).rglob("*.py"))]


def imported_roots(tree: ast.AST) -> set[str]:
    roots: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            roots.add((node.module or "").split(".")[0])
    return roots


@pytest.mark.parametrize(("layer", "path"), FILES, ids=lambda value: getattr(value, "name", value))
def test_no_file_imports_a_higher_layer(layer: str, path: Path) -> None:
    higher = set(LAYERS[LAYERS.index(layer) + 1 :])
    forbidden = higher | ({"dagster", "dagster_pipes"} if layer == "reward_harness" else set())
    assert imported_roots(ast.parse(path.read_text())) & forbidden == set()


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=True,
        timeout=120,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize(
    "statement",
    [
        "import harness_jobs.definitions",
        "from harness_jobs.definitions import defs; defs()",
        "from reward_harness.cli import app",
        "import reward_harness",
    ],
)
def test_start_up_loads_no_training_library(statement: str) -> None:
    assert modules_after(statement) & HEAVY == set()


def test_the_library_alone_does_not_load_dagster() -> None:
    assert "dagster" not in modules_after(
        "import reward_harness, reward_harness.stages; from reward_harness.cli import app"
    )


def test_postponed_annotations_stay_out_of_dagster_modules() -> None:
    offenders = [
        path.name
        for layer, path in FILES
        if layer != "reward_harness" and "from __future__ import annotations" in path.read_text()
    ]
    assert offenders == []
