"""The stage that shows what the reward-hacking detector saw in the experiment's on-policy runs."""

from __future__ import annotations

from pathlib import Path

import orjson

from reward_harness.evaluation.hacking_page import (
    PANELS_SIZE,
    HackingResults,
    JudgedRun,
    hacking_metrics,
    hacking_page,
    hacking_summary,
    judged_steps,
    panels,
    worst_run,
)
from reward_harness.evaluation.results import REPORT_NAME, write_results
from reward_harness.manifest import Outcome
from reward_harness.sections import HackingSpec
from reward_harness.stages.make import StageRun
from reward_harness.stages.report_files import sources_of, write_report
from reward_harness.stages.training import HACKING_GATE
from reward_harness.store import Artifact
from reward_harness.training.summary import read_rows


def hacking_report(run: StageRun, folder: Path) -> Outcome:
    """Length, reward divergence and status of every GRPO and PPO run of the experiment."""
    runs = [_judged(name, artifact) for name, artifact in sorted(run.inputs.items())]
    results = HackingResults(experiment=run.experiment.key, runs=runs)
    write_results(folder / REPORT_NAME, results)
    page = hacking_page(results, sources_of(run.inputs.values()))
    draw = panels(worst_run(results))
    write_report(folder, page, hacking_summary(results), draw, PANELS_SIZE)
    return Outcome(metrics=hacking_metrics(results))


def _judged(stage: str, artifact: Artifact) -> JudgedRun:
    settings = orjson.loads(artifact.file("job.json").read_bytes())["settings"]
    spec = HackingSpec.model_validate(settings.get("hacking", {}))
    found = artifact.manifest.notes.get("hacking") or {}
    gate = artifact.manifest.gates.get(HACKING_GATE)
    return JudgedRun(
        policy=stage.removesuffix("_checkpoint"),
        digest=artifact.digest,
        steps=judged_steps(read_rows(artifact.file("metrics.jsonl"))),
        needed_steps=spec.warmup + spec.window,
        warnings=found.get("warnings", {}),
        hard_stop_step=found.get("hard_stop_step"),
        stopped=found.get("stopped", False),
        gated_out=gate is not None and not gate.passed and gate.enforced,
    )
