"""``harness ui``: Dagster with its daemon, and the reports that its asset pages link to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from reward_harness.cli.graph import launch
from reward_harness.workspace import Workspace

REPORT_FILES = frozenset({"report.html", "report.json", "summary.md", "plot.png", "manifest.json"})


def ui(
    port: Annotated[int, typer.Option(help="port of the Dagster UI")] = 3000,
    reports_port: Annotated[int, typer.Option(help="port of the report server")] = 3001,
) -> None:
    """Open the graph: Dagster UI and daemon with all experiments registered, reports beside it."""
    workspace = Workspace.discover()
    workspace.dagster_home.mkdir(parents=True, exist_ok=True)
    reports = f"http://127.0.0.1:{reports_port}"
    environment = os.environ | {
        "DAGSTER_HOME": str(workspace.dagster_home),
        "HARNESS_REPORTS_URL": reports,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    if code := launch(workspace, "--register"):
        raise typer.Exit(code)
    threading.Thread(target=serve_reports, args=(workspace.runs, reports_port), daemon=True).start()
    Console().print(f"graph: http://127.0.0.1:{port}   reports: {reports}   stop with Ctrl-C")
    argv = ["dg", "dev", "--workspace", "workspace.yaml", "--host", "127.0.0.1"]
    raise typer.Exit(_run_until_stopped([*argv, "--port", str(port)], environment, workspace.root))


def _run_until_stopped(argv: list[str], environment: dict[str, str], folder: Path) -> int:
    """Run a child that is asked to stop by SIGTERM or Ctrl-C, and wait until it has.

    The handlers are installed first: a child would inherit an *ignored* SIGINT (a shell's
    background job has one), and Dagster stops its own children by that signal.
    """
    children: list[subprocess.Popen[bytes]] = []

    def stop(number: int, frame: object) -> None:
        for child in children:
            child.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    children.append(subprocess.Popen(argv, env=environment, cwd=folder))
    return children[0].wait()


def serve_reports(runs: Path, port: int) -> None:
    """Serve the report files of published artifacts on loopback, and nothing else of them."""
    import uvicorn
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import FileResponse

    app = FastAPI(openapi_url=None)

    @app.get("/{experiment}/{stage}/{digest}/{name}")
    def report(experiment: str, stage: str, digest: str, name: str) -> FileResponse:  # pyright: ignore[reportUnusedFunction]
        path = runs / experiment / stage / digest / name
        if name not in REPORT_FILES or not path.resolve().is_relative_to(runs.resolve()):
            raise HTTPException(404, "no such report")
        if not path.is_file():
            raise HTTPException(404, "no such report")
        return FileResponse(path)

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")
