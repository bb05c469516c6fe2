"""The record of one run of ``harness search``: what ran, on what, and a script that runs it again.

Beside the output ``<stem>.json`` lie ``run_records/<stem>_<run_id>.manifest.json`` and an
executable ``….reproduce.sh``. No key is ever written: values of the key's variable, and credentials
within URLs, are replaced wherever they stand.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from reward_harness.durable import write_atomically
from reward_harness.environment import code_of
from reward_harness.hashing import digest_json
from reward_harness.manifest import Code
from reward_harness.rubrics.search.output import write_json

CODE_VERSION = "1"
CHECKOUT = Path(__file__).resolve().parents[3]
MIN_KEY_CHARACTERS = 6
"""Shorter values ("EMPTY") protect nothing, and replacing them would garble the files."""
URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)")
URL_KEYS = re.compile(r"(?i)(?<=[?&])((?:api[-_]?)?key|token)=[^&\s]+")
PLACE_FLAGS = frozenset({"--output", "--checkpoint-dir", "--resume-from", "--compare-with"})
STATE_FLAGS = frozenset({"--resume-anyway", "--quiet", "--verbose"})

SCRIPT = """\
#!/bin/sh
# Runs search {run_id} again and compares the best rubrics: exit 0 equal, 1 different.
#   {name} [file for the new output]
# ANYWAY=1 goes on although data or code have changed; PYTHON names another interpreter.
set -eu
refuse() {{
  echo "error: $1" >&2
  [ "${{ANYWAY:-0}}" = 1 ] || exit 2
}}
export HARNESS_ROOT={root}
cd {folder}
PYTHON=${{PYTHON:-{python}}}
again=${{1:-{again}}}
dataset={dataset}
code='import hashlib, sys
print(hashlib.file_digest(open(sys.argv[1], "rb"), "sha256").hexdigest())'
found=$("$PYTHON" -c "$code" "$dataset") || found=missing
[ "$found" = {dataset_sha256} ] ||
  refuse "dataset $dataset: sha256 $found, expected {dataset_sha256}; restore the file"
commit=$(git -C {checkout} rev-parse HEAD 2>/dev/null || echo none)
[ "$commit" = {commit} ] ||
  refuse "code: commit $commit, expected {commit}; check that one out"
{note}exec "$PYTHON" -m reward_harness.cli {command} --output "$again" --compare-with {output}
"""


@dataclass(frozen=True, slots=True)
class Invocation:
    """How the command was called: as typed, and with every flag's effective value."""

    raw: tuple[str, ...]
    normalized: tuple[str, ...]


def code_now() -> Code:
    """Commit and dirtiness of the checkout that this package runs from."""
    return code_of(CHECKOUT, CODE_VERSION)


def run_id_of(created: datetime, digests: Sequence[str]) -> str:
    """When it began, and what of: unique for every run, sorted by time."""
    return f"{created:%Y%m%dT%H%M%S}-{digest_json([created.isoformat(), *digests])[:8]}"


def redacted(value: Any, key: str) -> Any:
    """JSON content without the key and without credentials in URLs."""
    if isinstance(value, str):
        text = value.replace(key, "<key>") if len(key) >= MIN_KEY_CHARACTERS else value
        return URL_KEYS.sub(r"\1=<key>", URL_CREDENTIALS.sub("<key>", text))
    if isinstance(value, dict):
        return {k: redacted(v, key) for k, v in cast("dict[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [redacted(v, key) for v in cast("list[Any]", value)]
    return value


def key_value(variable: str) -> str:
    """What must never be written."""
    return os.environ.get(variable, "").strip()


def write_records(output: Path, manifest: dict[str, Any], note: str, root: Path) -> Path:
    """Write manifest and script of a run; returns the script. ``manifest`` is redacted already."""
    folder = output.parent / "run_records"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{output.stem}_{manifest['run_id']}"
    write_json(folder / f"{stem}.manifest.json", manifest)
    script = folder / f"{stem}.reproduce.sh"
    write_atomically(script, _script(script, output, manifest, note, root).encode())
    script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return script


def _script(script: Path, output: Path, manifest: dict[str, Any], note: str, root: Path) -> str:
    resolved = str(manifest["backend"]["resolved"])
    command = _again(manifest["command"]["normalized_argv"], resolved)
    return SCRIPT.format(
        run_id=manifest["run_id"],
        name=script.name,
        root=shlex.quote(str(root)),
        folder=shlex.quote(str(Path.cwd())),
        python=shlex.quote(sys.executable),
        again=shlex.quote(str(script.parent / f"{output.stem}_{manifest['run_id']}.again.json")),
        dataset=shlex.quote(str(manifest["dataset"]["path"])),
        dataset_sha256=manifest["dataset"]["dataset_sha256"],
        checkout=shlex.quote(str(CHECKOUT)),
        commit=manifest["code_snapshot"]["commit"] or "none",
        note=f"echo {shlex.quote(note)} >&2\n" if note else "",
        command=shlex.join(command),
        output=shlex.quote(str(output)),
    )


def _again(argv: Sequence[str], resolved: str) -> list[str]:
    """The command without the flags that say where to write or whence to resume."""
    kept: list[str] = []
    skip = False
    for word in argv[1:]:
        name = word.split("=", 1)[0]
        if skip:
            skip = False
        elif name in PLACE_FLAGS:
            skip = "=" not in word
        elif name == "--backend":
            kept.append(f"--backend={resolved}")
            skip = "=" not in word
        elif name not in STATE_FLAGS:
            kept.append(word)
    return [*kept, "--quiet"]
