"""A served reward for the time of one step: attach to a server that serves it already, or start one
and stop it.

    with serve_for(workspace, run.input("rm_deployment")) as url:
        rm = RemoteRM(url)

A server started here is a process group of its own that ends with the block, and also when this
process dies, however it dies: it watches the pipe that is its standard input. Only servers that ask
for no key are attached to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from reward_harness.errors import ArtifactError, LLMError
from reward_harness.rewards.base import Item, Scored, conversation_of, reason_of
from reward_harness.rewards.remote import RemoteRM
from reward_harness.rm.probes import DEPLOYMENT_NAME, TOLERANCE, Deployment, read_deployment
from reward_harness.serving.records import ServerRecord
from reward_harness.store import Artifact, ArtifactStore
from reward_harness.workspace import Workspace

if TYPE_CHECKING:
    from subprocess import Popen

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05
ANSWER_TIMEOUT_S = 5.0
SHOWN_LINES = 15


@contextmanager
def serve_for(
    workspace: Workspace,
    deployment_artifact: Artifact,
    *,
    device: str = "cpu",
    start_timeout_s: float = START_TIMEOUT_S,
) -> Generator[str]:
    """The URL of a server of the deployed artifact; ``ArtifactError`` if none can be started."""
    deployment = deployment_of(deployment_artifact)
    running = running_server(workspace, deployment)
    if running is not None:
        yield running
        return
    artifact = deployed_artifact(workspace, deployment)
    with started_server(workspace, artifact.path, device, start_timeout_s) as url:
        yield url


def deployment_of(artifact: Artifact) -> Deployment:
    """The content of an ``rm_deployment`` artifact."""
    return read_deployment(artifact.file(DEPLOYMENT_NAME))


def deployed_artifact(workspace: Workspace, deployment: Deployment) -> Artifact:
    """The published artifact that a deployment names."""
    return ArtifactStore(workspace.runs).load(
        deployment.artifact_experiment, deployment.artifact_stage, deployment.artifact_digest
    )


def running_server(workspace: Workspace, deployment: Deployment) -> str | None:
    """The URL of a local server that serves exactly this artifact, or None."""
    path = workspace.deployments / deployment.target / "server.json"
    try:
        record = ServerRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return record.url if _digest_at(record.url) == deployment.artifact_digest else None


def _digest_at(url: str) -> str | None:
    """The digest a server says it serves; None if it is gone or wants a key."""
    try:
        with RemoteRM(url, timeout_s=ANSWER_TIMEOUT_S) as rm:
            return rm.version().get("digest")
    except LLMError:
        return None


@contextmanager
def started_server(
    workspace: Workspace, artifact: Path, device: str, start_timeout_s: float
) -> Generator[str]:
    """Run ``reward_harness.rm.server`` on a free port until the block ends."""
    with tempfile.TemporaryDirectory(prefix="reward-server-") as folder:
        ready, log = Path(folder) / "ready.json", Path(folder) / "server.log"
        process = _start(workspace, artifact, device, ready, log)
        try:
            yield _wait_until_ready(process, ready, log, start_timeout_s).url
        finally:
            _stop(process)


def _start(workspace: Workspace, artifact: Path, device: str, ready: Path, log: Path) -> Popen[Any]:
    command = [sys.executable, "-m", "reward_harness.rm.server", "--artifact", str(artifact)]
    command += ["--port", "0", "--device", device, "--ready-file", str(ready), "--die-with-stdin"]
    environment = {k: v for k, v in os.environ.items() if k != "HARNESS_SERVER_KEY"}
    code = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    path = f"{code}{os.pathsep}{inherited}" if inherited else code
    environment |= {"HARNESS_ROOT": str(workspace.root), "PYTHONPATH": path}
    with log.open("wb") as stream:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            env=environment,
            start_new_session=True,
        )


def _wait_until_ready(
    process: Popen[Any], ready: Path, log: Path, timeout_s: float
) -> ServerRecord:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if ready.is_file():
            return ServerRecord.model_validate_json(ready.read_bytes())
        if process.poll() is not None:
            break
        time.sleep(POLL_S)
    ended = process.poll()
    what = f"exit code {ended}" if ended is not None else f"no answer in {timeout_s:g} s"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
    raise ArtifactError(
        "the reward server did not start", where=" ".join(lines[-1:]), got=what
    ) from RuntimeError("\n".join(lines))


def _stop(process: Popen[Any]) -> None:
    """Ask the whole group to end, then make it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        os.killpg(process.pid, sign)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
    if process.stdin is not None:
        process.stdin.close()


def verify_deployment(url: str, deployment_artifact: Artifact, key: str | None = None) -> list[str]:
    """How a server differs from a deployment in digest or in a probe's score; empty if proven.

    ``LLMError`` if the server does not answer.
    """
    deployment = deployment_of(deployment_artifact)
    items = [Item(conversation_of(p.prompt, p.response), p.prompt_id) for p in deployment.probes]
    with RemoteRM(url, key) as rm:
        digest = rm.version().get("digest")
        results = rm.score_items(items)
    found: list[str] = []
    if digest != deployment.artifact_digest:
        found.append(f"digest: expected {deployment.artifact_digest}, got {digest}")
    for probe, result in zip(deployment.probes, results, strict=True):
        got = result.value if isinstance(result, Scored) else None
        if not _same(probe.score, got):
            told = got if isinstance(result, Scored) else f"no score: {reason_of(result)}"
            found.append(f"probe {probe.probe_id}: expected {probe.score}, got {told}")
    return found


def _same(expected: float | None, got: float | None) -> bool:
    if expected is None or got is None:
        return expected is got
    return abs(expected - got) <= TOLERANCE
