"""Serve a reward-model artifact, or whatever a deployment target's pointer names.

python -m reward_harness.rm.server --artifact data/runs/tour/rm_artifact/<digest> --port 8100
python -m reward_harness.rm.server --target dev
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from reward_harness.errors import SpecError
from reward_harness.rm.commands import run_command
from reward_harness.workspace import Workspace


def serve(
    artifact: Annotated[Path | None, typer.Option(help="serve this folder or .json")] = None,
    target: Annotated[
        Literal["dev", "staging", "prod"] | None, typer.Option(help="follow this target's pointer")
    ] = None,
    host: Annotated[str, typer.Option()] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 chooses a free one")] = 8100,
    device: Annotated[str, typer.Option(help="where a classifier computes")] = "cpu",
    request_log_path: Annotated[Path | None, typer.Option(help="JSONL audit log")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="variable with the judge's key; default: the artifact's")
    ] = None,
    server_key_env: Annotated[
        str, typer.Option(help="variable with the key that clients must send")
    ] = "HARNESS_SERVER_KEY",
    sign_key_env: Annotated[
        str, typer.Option(help="variable with the key that signs every score; unset: no signature")
    ] = "HARNESS_SIGN_KEY",
    max_in_flight: Annotated[int, typer.Option(min=1, help="requests at once; beyond: 429")] = 256,
    max_body_mib: Annotated[float, typer.Option(help="beyond: 413")] = 16.0,
    max_llm_calls: Annotated[
        int | None, typer.Option(min=0, help="paid calls of the judge, in all; beyond: 503")
    ] = None,
    max_llm_usd: Annotated[
        float | None, typer.Option(min=0, help="money of the judge, in all; beyond: 503")
    ] = None,
    log_texts: Annotated[
        bool, typer.Option(help="keep request bodies in the audit log, texts included")
    ] = False,
    insecure: Annotated[
        bool, typer.Option(help="listen beyond this machine although no key is set")
    ] = False,
    ready_file: Annotated[Path | None, typer.Option(help="written once it answers")] = None,
    die_with_stdin: Annotated[
        bool, typer.Option(help="stop when standard input ends: when the starter is gone")
    ] = False,
) -> None:
    """Start the scoring server; SIGTERM finishes what is in flight and stops it."""
    from reward_harness.llm.budget import Caps
    from reward_harness.rm.deployments import Deployments
    from reward_harness.serving.pointers import pointers
    from reward_harness.serving.records import ServerRecord
    from reward_harness.serving.run import Listen, run_server
    from reward_harness.serving.settings import Limits, ServerSettings, require_safe_bind
    from reward_harness.serving.source import Source

    if (artifact is None) == (target is None):
        raise SpecError("what to serve?", expected="either --artifact or --target")
    key = os.environ.get(server_key_env) or None
    require_safe_bind(host, key, server_key_env, insecure)
    workspace = Workspace.discover()
    deployments = Deployments(workspace, target) if target else None
    caps = Caps(max_calls=max_llm_calls, max_usd=max_llm_usd)
    source = Source(artifact, deployments, device, workspace.cache, api_key_env, caps)

    def announce(record: ServerRecord) -> None:
        typer.echo(f"serving {record.digest[:12]} on {record.url}")
        for line in pointers(record.url, server_key_env if key else None):
            typer.echo(line)

    limits = Limits(body_bytes=int(max_body_mib * 2**20), in_flight=max_in_flight)
    run_server(
        source,
        ServerSettings(
            key=key,
            limits=limits,
            audit_log=request_log_path,
            audit_bodies=log_texts,
            sign_key=os.environ.get(sign_key_env) or None,
        ),
        Listen(host, port, ready_file, die_with_stdin),
        registry=deployments.folder / "server.json" if deployments else None,
        announce=announce,
    )


if __name__ == "__main__":
    run_command(serve)
