"""What benchmarks share: files of the mirror, where figures go, what they were measured on."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from reward_harness.data.sources import MIRROR_VARIABLE
from reward_harness.errors import DataError

RESULTS = Path(__file__).with_name("results")


def machine() -> dict[str, Any]:
    """The machine as a result names it; the load tells what else it was doing."""
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "load_average_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }


def known(name: str) -> dict[str, Any]:
    """What an earlier run left in ``results/<name>.json``."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_bytes()) if path.is_file() else {}


def write(name: str, found: dict[str, Any]) -> str:
    """Write ``results/<name>.json``; its text."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(found, indent=1) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    return text


def keep(name: str, found: dict[str, Any]) -> None:
    """Write ``results/<name>.json`` and print it."""
    sys.stdout.write(write(name, found))


def mirrored(name: str, what: str) -> Path:
    """A file of the mirror; ``DataError`` that ``what`` is missing without mirror or file."""
    mirror = os.environ.get(MIRROR_VARIABLE)
    path = Path(mirror or "") / name
    if not mirror or not path.is_file():
        raise DataError(
            f"{what} are not here",
            where=MIRROR_VARIABLE,
            got=mirror or "not set",
            expected=f"a folder with {name}",
            fix=f"Set {MIRROR_VARIABLE} to a copy of the public files (docs/data.md).",
        )
    return path
