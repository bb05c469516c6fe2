"""The asset graph as Dagster sees it: the golden snapshot, the stage table behind it, no unstable
API.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from harness_assets.graph import SECTION_KEYS, stage_key
from harness_jobs.definitions import defs
from reward_harness.stages.table import STAGES

SNAPSHOT = Path(__file__).with_name("graph.json")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return defs()


def described(definitions: dg.Definitions) -> dict[str, object]:
    graph = definitions.resolve_asset_graph()
    assets = {
        key.to_user_string(): {
            "deps": sorted(k.to_user_string() for k in graph.get(key).parent_keys),
            "group": graph.get(key).group_name,
            "kinds": sorted(graph.get(key).kinds or ()),
            "code_version": graph.get(key).code_version,
            "partitioned": graph.get(key).is_partitioned,
            "pools": sorted(graph.get(key).pools or ()),
            "checks": sorted(check.name for check in graph.get(key).check_keys),
        }
        for key in sorted(graph.get_all_asset_keys())
    }
    return {
        "assets": assets,
        "jobs": sorted(
            job.name for job in definitions.resolve_all_job_defs() if not job.name.startswith("__")
        ),
        "schedules": sorted(schedule.name for schedule in definitions.schedules or ()),
        "sensors": sorted(sensor.name for sensor in definitions.sensors or ()),
    }


def test_graph_is_the_recorded_one(definitions: dg.Definitions) -> None:
    found = described(definitions)
    if os.environ.get("UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    assert found == json.loads(SNAPSHOT.read_text()), (
        "UPDATE_SNAPSHOT=1 records a change that is meant"
    )


def test_every_stage_is_an_asset_that_depends_on_what_it_reads(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for name, stage in STAGES.items():
        node = graph.get(stage_key(name))
        assert {stage_key(i) for i in stage.inputs} <= node.parent_keys
        assert {SECTION_KEYS[s] for s in stage.sections} <= node.parent_keys
        assert node.code_version == stage.code_version
        assert node.description and node.owners and node.kinds


def test_definitions_use_no_beta_preview_or_superseded_api() -> None:
    code = "from harness_jobs.definitions import defs; defs()"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=120,
    )
    assert done.returncode == 0
    unstable = [
        line
        for line in done.stderr.splitlines()
        if "BetaWarning" in line or "PreviewWarning" in line
    ]
    unstable += [
        line
        for line in done.stderr.splitlines()
        if "SupersessionWarning" in line or "Deprecat" in line
    ]
    assert unstable == []
