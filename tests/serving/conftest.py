"""A toy artifact and servers of it, in this process and as a real process."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reward_harness.environment import environment_of
from reward_harness.manifest import Code, Outcome
from reward_harness.rm.artifact import RMArtifact, RubricRuntime, write_artifact
from reward_harness.rm.package import rubric_artifact
from reward_harness.rubrics.checks import Regex
from reward_harness.rubrics.types import Criterion, Rubric
from reward_harness.serving.records import ServerRecord
from reward_harness.spec import ExperimentSpec
from reward_harness.stages.make import make
from reward_harness.store import Artifact, ArtifactStore, Recipe
from reward_harness.workspace import Workspace
from tests.serving.trainer_wheels import download

REPOSITORY = Path(__file__).resolve().parents[2]
RUNTIME = RubricRuntime(backend="heuristic", locale="en", endpoint=None, votes=1, seed=7)


def word_rubric(word: str) -> Rubric:
    """1.0 for a response that has the word, else 0.0."""
    check = Regex(pattern=word)
    criterion = Criterion(criterion_id="has", text=word, kind="programmatic", check=check)
    return Rubric(rubric_id=word, criteria=(criterion,))


def write_word_artifact(folder: Path, **rubrics: str) -> RMArtifact:
    """An artifact of one-word rubrics by prompt id (``shared`` for every other prompt)."""
    named = {
        ("__shared__" if k == "shared" else k): word_rubric(word) for k, word in rubrics.items()
    }
    artifact = rubric_artifact(named, RUNTIME, {})
    write_artifact(artifact.model_copy(update={"source_session_id": "session-1"}), folder)
    return artifact


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheels of the trainers; skips where no registry has them."""
    folder = tmp_path_factory.mktemp("wheels")
    reason = download(folder)
    if reason is not None:
        pytest.skip(f"the trainers' wheels cannot be downloaded: {reason}")
    return folder


@pytest.fixture
def make_artifact(tmp_path: Path) -> Callable[..., Path]:
    """Writes an artifact folder: ``make_artifact("a", shared="Paris")``."""

    def make(name: str, **rubrics: str) -> Path:
        write_word_artifact(tmp_path / name, **rubrics)
        return tmp_path / name

    return make


@contextlib.contextmanager
def server_process(
    root: Path, *arguments: str, **environment: str
) -> Iterator[tuple[ServerRecord, subprocess.Popen]]:
    """``python -m reward_harness.rm.server`` on a free port.

    Its log is ``server_log(root)``; what it printed is in ``root / "server.out"``.
    """
    ready = root / f"ready-{time.monotonic_ns()}.json"
    log, printed = (root / "server.log").open("ab"), (root / "server.out").open("ab")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "reward_harness.rm.server",
            "--port",
            "0",
            "--ready-file",
            str(ready),
            *arguments,
        ],
        cwd=REPOSITORY,
        env={**os.environ, "HARNESS_ROOT": str(root), **environment},
        stdout=printed,
        stderr=log,
    )
    log.close()
    printed.close()
    try:
        deadline = time.monotonic() + 60
        while not ready.is_file():
            assert process.poll() is None, server_log(root)
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.05)
        yield ServerRecord.model_validate_json(ready.read_bytes()), process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(20)


def server_log(root: Path) -> str:
    """What the servers started with this root wrote to standard error."""
    return (root / "server.log").read_text(encoding="utf-8", errors="replace")


@pytest.fixture
def run_server(tmp_path: Path):
    """Starts real servers; they end with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments, **environment: stack.enter_context(
            server_process(tmp_path, *arguments, **environment)
        )


def publish(workspace: Workspace, stage: str, files: dict[str, str], **outcome) -> Artifact:
    """An artifact of experiment ``toy`` with these files, as if its stage had made them."""

    def build(folder: Path) -> Outcome:
        for name, text in files.items():
            (folder / name).write_text(text)
        return Outcome(**outcome)

    artifact, _ = ArtifactStore(workspace.runs).produce(
        Recipe("toy", stage, "1", {}, {}, {"files": files}),
        build,
        snapshot={},
        environment=environment_of,
        code=Code(version="1"),
        run_id="test",
    )
    return artifact


def ranked_lines(prompts: int = 8) -> str:
    """Prompts whose better candidate says Paris."""
    texts = {"good": "It is Paris.", "bad": "It is a city."}
    return "".join(
        json.dumps(
            {
                "prompt_id": f"p{n}",
                "prompt": [{"role": "user", "content": f"{n}: capital of France?"}],
                "candidates": [
                    {"candidate_id": name, "text": text, "rank": rank}
                    for rank, (name, text) in enumerate(texts.items(), start=1)
                ],
            }
        )
        + "\n"
        for n in range(prompts)
    )


def toy_spec(search: dict, gates: dict) -> ExperimentSpec:
    return ExperimentSpec.model_validate(
        {
            "key": "toy",
            "dataset": {"ranked": {"source": "toy"}},
            "search": search,
            "reward_model": {"gates": gates},
            "policy": {"model": {"source": "random", "name": "tiny-causal"}},
        }
    )


@dataclass(frozen=True)
class Deployed:
    """The published artifact of a word rubric and its deployment."""

    workspace: Workspace
    rm_artifact: Artifact
    rm_deployment: Artifact


@pytest.fixture
def deploy_word(workspace: Workspace):
    """Runs the real stages rm_artifact and rm_deployment, for a one-word rubric unless another is given."""

    def run(
        word: str = "Paris", rubric: Rubric | None = None, search: dict | None = None, **gates
    ) -> Deployed:
        rubrics = {"__shared__": (rubric or word_rubric(word)).model_dump(mode="json")}
        publish(workspace, "best_rubric", {"rubric.json": json.dumps(rubrics)})
        splits = {f"{split}.jsonl": ranked_lines() for split in ("train", "validation", "test")}
        publish(workspace, "ranked_prompts", splits)
        spec = toy_spec(search or {"backend": "heuristic"}, gates)
        artifact, _ = make(workspace, spec, "rm_artifact")
        deployment, _ = make(workspace, spec, "rm_deployment")
        return Deployed(workspace, artifact, deployment)

    return run
