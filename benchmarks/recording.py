"""Where a benchmark's figures go, and what they were measured on."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

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


def keep(name: str, found: dict[str, Any]) -> None:
    """Write ``results/<name>.json`` and print it."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(found, indent=1) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
