"""Artifacts that a real store publishes, with the content, metrics and times that a test asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from reward_harness.environment import environment_of
from reward_harness.lineage.ledger import Ledger, open_ledger
from reward_harness.manifest import Code, Cost, Gate, Metric, Outcome
from reward_harness.store import Artifact, ArtifactStore, Recipe
from reward_harness.workspace import Workspace

Publish = Callable[..., Artifact]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "data" / "runs")


@pytest.fixture
def project(store: ArtifactStore) -> Workspace:
    return Workspace(store.root.parents[1])


@pytest.fixture
def publish(store: ArtifactStore) -> Publish:
    """``publish("exp", "ppo_checkpoint", {"rl_prompts": artifact}, content="x", at="2026-01-01")``."""

    def run(
        experiment: str,
        stage: str,
        inputs: Mapping[str, Artifact] | None = None,
        content: str = "x",
        gate: bool | None = None,
        metrics: Mapping[str, Metric] | None = None,
        files: Mapping[str, str] | None = None,
        at: str | None = None,
        code: str = "3",
        sections: Mapping[str, str] | None = None,
        snapshot: Mapping[str, object] | None = None,
    ) -> Artifact:
        def build(folder: Path) -> Outcome:
            (folder / "out.txt").write_text(f"{stage} {content}", encoding="utf-8")
            for name, text in (files or {}).items():
                (folder / name).write_text(text, encoding="utf-8")
            gates = {} if gate is None else {"attack": Gate(passed=gate, value=1.0, threshold=0.5)}
            cost = Cost(llm_calls=2, seconds=1.5, peak_memory_bytes=7)
            return Outcome(gates=gates, cost=cost, metrics=metrics or {})

        digests = {name: artifact.digest for name, artifact in (inputs or {}).items()}
        named = sections or {"s": "1" * 64}
        recipe = Recipe(experiment, stage, code, named, digests, {"content": content, "at": at})
        artifact, _ = store.produce(
            recipe,
            build,
            snapshot=snapshot or {},
            environment=environment_of,
            code=Code(version=code),
            run_id="r1",
        )
        if at is not None:
            _date(store, experiment, stage, at)
        return artifact

    return run


def _date(store: ArtifactStore, experiment: str, stage: str, at: str) -> None:
    """Give the newest publication another time."""
    path = store.stage_folder(experiment, stage) / "publications.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1]["published_at"] = at
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def ledger(project: Workspace) -> Callable[[], Ledger]:
    """Opens the project's ledger as the files are now."""
    return lambda: open_ledger(project)


def number(value: float, half: float | None = 0.01, direction: str = "max", n: int = 100) -> Metric:
    """A metric with the interval ``value ± half``, or without one."""
    bounds = {} if half is None else {"ci_low": value - half, "ci_high": value + half}
    return Metric(value=value, n=n, direction=direction, **bounds)
