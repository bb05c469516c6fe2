"""Package the rubrics of a search output as a reward-model artifact.

python -m reward_harness.rm.export --search-output search_output.json --out-artifact rm.json
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from reward_harness.data.files import read_records
from reward_harness.data.records import RankedPrompt, prompt_key
from reward_harness.errors import DataError, SpecError
from reward_harness.rewards.load import load_rm
from reward_harness.rm.artifact import RMArtifact, write_artifact
from reward_harness.rm.attacks import read_attacks
from reward_harness.rm.commands import run_command
from reward_harness.rm.gates import run_gates, sample, score_genuine
from reward_harness.rm.package import rubric_artifact, rubric_runtime
from reward_harness.rubrics.files import SHARED
from reward_harness.rubrics.types import Rubric
from reward_harness.sections import GateThresholds, SearchConfig
from reward_harness.workspace import Workspace


def export(
    search_output: Annotated[Path, typer.Option(help="search_output.json of a search")],
    out_artifact: Annotated[Path, typer.Option(help="a folder, or one file ending in .json")],
    dataset: Annotated[
        Path | None, typer.Option(help="canonical ranked prompts; recognises known prompts")
    ] = None,
    gates: Annotated[
        bool, typer.Option("--gates", help="run the gates on --dataset; else: not_run")
    ] = False,
) -> None:
    """Write the artifact; without --gates its gates are recorded as not run."""
    if gates and dataset is None:
        raise SpecError("gates need held-out prompts", where="--gates", expected="--dataset too")
    workspace = Workspace.discover()
    prompts = read_records(dataset, RankedPrompt) if dataset else []
    artifact = artifact_of(_read(search_output), prompts, workspace)
    written = write_artifact(artifact, out_artifact)
    if gates:
        results = _gated(out_artifact, prompts, workspace)
        artifact = artifact.model_copy(update={"gates": results})
        written = write_artifact(artifact, out_artifact)
    told: dict[str, Any] = {
        "artifact": str(written),
        "artifact_id": artifact.artifact_id,
        "gates": "not_run",
    }
    if artifact.gates != "not_run":
        told["gates"] = {name: gate.passed for name, gate in artifact.gates.items()}
    typer.echo(json.dumps(told))


def artifact_of(
    output: dict[str, Any], prompts: list[RankedPrompt], workspace: Workspace
) -> RMArtifact:
    """The artifact for a search output; ``DataError`` if it is not one."""
    try:
        run = output["run_manifest"]
        search = SearchConfig.model_validate(run["config_snapshot"])
        entries = [
            (str(e["prompt_id"]), Rubric.model_validate(e["rubric"]))
            for e in output["best_rubrics"]
        ]
        rubrics = {SHARED: entries[0][1]} if search.scope == "shared" else dict(entries)
        resolved = search.model_copy(update={"backend": run["backend"]["resolved"]})
        runtime = rubric_runtime(resolved, int(run["seed"]), workspace.prompts)
        provenance = {
            "created_at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "source_session_id": str(run["run_id"]),
            "source_run_id": str(run["run_id"]),
            "dataset_hash": run["dataset"]["dataset_sha256"],
            "config_hash": run["config_sha256"],
        }
    except (KeyError, IndexError, TypeError, ValidationError) as error:
        raise DataError("not a search output", got=str(error).splitlines()[0]) from error
    keys = {prompt_key(prompt.prompt): prompt.prompt_id for prompt in prompts}
    return rubric_artifact(rubrics, runtime, keys).model_copy(update=provenance)


def _gated(path: Path, prompts: list[RankedPrompt], workspace: Workspace) -> Any:
    thresholds = GateThresholds()
    rm = load_rm(path, cache=workspace.cache)
    genuine = score_genuine(rm, sample(prompts, thresholds.heldout_prompts))
    report = run_gates(rm, genuine, read_attacks(workspace.attacks), thresholds, seed=7)
    rm.close()
    return report.gates


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError("cannot be read as JSON", where=str(path), got=str(error)) from error


if __name__ == "__main__":
    run_command(export)
