"""``harness lineage show``: the provenance of an experiment as a tree to read, or as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from reward_harness.lineage.provenance import Identity, Lineage, Node, lineage_of
from reward_harness.manifest import TAKEN_FROM, Cost, Manifest
from reward_harness.store import ArtifactStore
from reward_harness.workspace import Workspace

if TYPE_CHECKING:
    from rich.tree import Tree

SHOWN_DIGITS = 12


def lineage_text(workspace: Workspace, experiment: str, stage: str | None = None) -> Tree:
    """A tree for the terminal; an artifact met before is named again without its own inputs."""
    from rich.tree import Tree

    lineage = lineage_of(ArtifactStore(workspace.runs), experiment, stage)
    tree = Tree(f"[bold]{experiment}[/]  {_cost_text(lineage.total_cost())} in all")
    seen: set[Identity] = set()
    for root in lineage.roots:
        _grow(tree, root, experiment, seen)
    return tree


def lineage_json(workspace: Workspace, experiment: str, stage: str | None = None) -> str:
    """The same as JSON: ``roots`` by artifact id, and every artifact once under ``artifacts``."""
    lineage = lineage_of(ArtifactStore(workspace.runs), experiment, stage)
    return json.dumps(lineage_record(lineage), indent=2)


def lineage_record(lineage: Lineage) -> dict[str, Any]:
    """Plain JSON content of a lineage."""
    return {
        "experiment": lineage.experiment,
        "roots": [_id(node) for node in lineage.roots],
        "total_cost": lineage.total_cost().model_dump(mode="json"),
        "artifacts": {_id(node): _record(node) for node in lineage.nodes()},
    }


def _record(node: Node) -> dict[str, Any]:
    record: dict[str, Any] = {
        "experiment": node.experiment,
        "stage": node.stage,
        "digest": node.digest,
        "inputs": {_input_name(node, below): _id(below) for below in node.inputs},
        "missing": node.manifest is None,
    }
    if node.manifest is None:
        return record
    manifest = node.manifest.model_dump(
        mode="json", include={"code", "spec_digest", "gates", "cost", "created_at", "reproduce"}
    )
    here = {"published_at": node.published_at, "run_id": node.run_id}
    return record | manifest | here | {TAKEN_FROM: node.manifest.notes.get(TAKEN_FROM)}


def _grow(tree: Tree, node: Node, experiment: str, seen: set[Identity]) -> None:
    again = node.identity in seen
    branch = tree.add(_line(node, experiment) + (" [dim]· above[/]" if again else ""))
    if again:
        return
    seen.add(node.identity)
    for below in node.inputs:
        _grow(branch, below, experiment, seen)


def _line(node: Node, experiment: str) -> str:
    owner = "" if node.experiment == experiment else f"{node.experiment}/"
    name = f"[bold]{owner}{node.stage}[/]  [cyan]{node.digest[:SHOWN_DIGITS]}[/]"
    if node.manifest is None:
        return f"{name}  [red]gone from the disk[/]"
    manifest = node.manifest
    made_in = manifest.notes.get(TAKEN_FROM)
    cost = _cost_text(manifest.cost) + (f" in {made_in.split('/')[0]}" if made_in else "")
    return f"{name}  [dim]{_code_text(manifest)}[/]  {cost}{_gates(manifest)}"


def _code_text(manifest: Manifest) -> str:
    code = manifest.code
    commit = f" @ {code.commit[:8]}{'+' if code.dirty else ''}" if code.commit else ""
    return f"code {code.version}{commit}"


def _cost_text(cost: Cost) -> str:
    parts = [f"{cost.seconds:.1f} s"]
    if cost.llm_calls or cost.llm_cached:
        parts.append(f"{cost.llm_calls} calls + {cost.llm_cached} cached")
    if cost.usd is not None:
        parts.append(f"${cost.usd:.4f}")
    return ", ".join(parts)


def _gates(manifest: Manifest) -> str:
    if not manifest.gates:
        return ""
    failed = [name for name, gate in manifest.gates.items() if not gate.passed]
    if failed:
        return f"  [red]gates failed: {', '.join(failed)}[/]"
    return f"  [green]{len(manifest.gates)} gates passed[/]"


def _input_name(node: Node, below: Node) -> str:
    return (
        below.stage if below.experiment == node.experiment else f"{below.experiment}/{below.stage}"
    )


def _id(node: Node) -> str:
    return "/".join(node.identity)
