"""What the ledger is derived from: the publications and manifests of a store, read as plain rows.

Nothing is validated beyond what a row needs: a torn line or an unreadable manifest is left out
here, and is an error where the artifact itself is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reward_harness.stages.table import STAGES

PUBLICATIONS_NAME = "publications.jsonl"
MANIFEST_NAME = "manifest.json"
Place = tuple[str, str]
"""Experiment and stage."""
Row = dict[str, Any]


TableRow = tuple[str, Row]
"""A row, and the table it belongs to."""


def epoch(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; one without a zone is UTC. ``ValueError`` if it is
    none.
    """
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def read_stage(runs: Path, place: Place) -> Iterator[TableRow]:
    """The rows of one stage of one experiment; none if its folder is gone."""
    experiment, stage = place
    identity = {"experiment": experiment, "stage": stage}
    folder = runs / experiment / stage
    published = list(_publications(folder / PUBLICATIONS_NAME))
    newest = {line["digest"]: seq for seq, line in enumerate(published)}
    manifests = {digest: _manifest(folder / digest / MANIFEST_NAME) for digest in newest}
    present = [seq for seq, line in enumerate(published) if manifests[line["digest"]] is not None]
    for seq, line in enumerate(published):
        yield (
            "publications",
            identity
            | {
                "seq": seq,
                "digest": line["digest"],
                "published": epoch(line["published_at"]),
                "run_id": line["run_id"],
                "benchmark": benchmark_of(stage, line["inputs"]),
                "newest_of_digest": newest[line["digest"]] == seq,
                "current": seq == max(present, default=-1),
            },
        )
        for name, digest in line["inputs"].items():
            owner, _, made_by = name.rpartition("/")
            yield (
                "inputs",
                identity
                | {
                    "seq": seq,
                    "input_experiment": owner or experiment,
                    "input_stage": made_by,
                    "input_digest": digest,
                },
            )
    for digest, manifest in manifests.items():
        if manifest is not None:
            yield from _artifact(identity | {"digest": digest}, manifest)


def benchmark_of(stage: str, inputs: Mapping[str, str]) -> str | None:
    """What a stage's numbers were measured on: the stage and the digests of the datasets it read.

    None for a stage that reads no dataset itself: its numbers have no counterpart.
    """
    datasets = [
        f"{name}={digest}"
        for name, digest in sorted(inputs.items())
        if name in STAGES and STAGES[name].group == "datasets"
    ]
    return " ".join([stage, *datasets]) if datasets else None


def _publications(path: Path) -> Iterator[Row]:
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for line in lines:
        try:
            found = json.loads(line)
            epoch(found["published_at"])
        except (ValueError, KeyError, TypeError):
            continue
        yield found


def _manifest(path: Path) -> Row | None:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _artifact(identity: Row, manifest: Row) -> Iterator[TableRow]:
    cost = manifest["cost"]
    gates: dict[str, Row] = manifest.get("gates") or {}
    barred = [n for n, gate in gates.items() if not gate["passed"] and gate.get("enforced", True)]
    costs = {name: cost[name] for name in ("seconds", "llm_calls", "usd")}
    yield "artifacts", identity | {"accepted": not barred} | costs
    metrics: dict[str, Row] = manifest.get("metrics") or {}
    for name, metric in metrics.items():
        wanted = ("value", "ci_low", "ci_high", "n", "direction")
        yield "metrics", identity | {"name": name} | {key: metric.get(key) for key in wanted}
