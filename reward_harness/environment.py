"""What a result was made with: interpreter, package versions, commit, device, peak memory."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from reward_harness.manifest import Code, Environment

RECORDED_PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "numpy",
    "pydantic",
    "httpx",
    "dagster",
)


@cache
def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment_of(device: str) -> Environment:
    """The environment record of a stage that ran on ``device``."""
    return Environment(python=platform.python_version(), packages=_packages(), device=device)


@cache
def code_of(root: Path, version: str) -> Code:
    """``version`` with commit and dirtiness of the checkout at ``root``, None outside one."""
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=no") if commit else None
    return Code(version=version, commit=commit, dirty=None if status is None else bool(status))


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def peak_memory_bytes() -> int:
    """The largest resident size this process has had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
