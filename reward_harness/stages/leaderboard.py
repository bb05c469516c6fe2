"""The leaderboard: one artifact over the current reports of all experiments.

It is no stage of an experiment, so it is published under the experiment name ``all``, with inputs
named ``<experiment>/<stage>``. Archived experiments are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from reward_harness.environment import code_of, environment_of
from reward_harness.errors import ArtifactError, SpecError
from reward_harness.evaluation import plots
from reward_harness.evaluation.board import (
    board_metrics,
    board_of,
    board_page,
    board_plot,
    board_summary,
)
from reward_harness.evaluation.report import Source, render
from reward_harness.evaluation.results import (
    REPORT_NAME,
    PolicyResults,
    RewardResults,
    read_results,
    write_results,
)
from reward_harness.manifest import Outcome
from reward_harness.spec import ALL_EXPERIMENTS, experiment_keys, read_experiment
from reward_harness.stages.make import Services
from reward_harness.store import Artifact, ArtifactStore, Recipe
from reward_harness.workspace import Workspace

STAGE = "leaderboard"
CODE_VERSION = "1"
REPORTS = ("rm_report", "policy_report")


def make_leaderboard(
    workspace: Workspace, services: Services | None = None
) -> tuple[Artifact, bool]:
    """Publish the board of all current reports, or reuse it; returns (artifact, reused).

    ``ArtifactError`` if no experiment has a report yet.
    """
    store = ArtifactStore(workspace.runs)
    experiments = reported_experiments(workspace)
    reports = current_reports(store, experiments)
    if not reports:
        raise ArtifactError(
            "no experiment has a report yet",
            where=str(workspace.runs),
            fix="Run `harness experiment run tour` first.",
        )
    recipe = Recipe(
        experiment=ALL_EXPERIMENTS,
        stage=STAGE,
        code_version=CODE_VERSION,
        sections={},
        inputs={name: artifact.digest for name, artifact in reports.items()},
    )
    return store.produce(
        recipe,
        lambda folder: build_leaderboard(store, experiments, folder),
        snapshot={},
        environment=environment_of,
        code=code_of(workspace.root, CODE_VERSION),
        run_id=(services or Services()).run_id,
    )


def build_leaderboard(store: ArtifactStore, experiments: Sequence[str], folder: Path) -> Outcome:
    """Write the board's files; a report of another version of the code is named, not read."""
    reports = current_reports(store, experiments)
    rewards, policies, missing = _read(reports)
    board = board_of(rewards, policies)
    manifests = [artifact.manifest for artifact in reports.values()]
    sources = [Source(m.stage, m.experiment, m.digest, m.code.version) for m in manifests]
    write_results(folder / REPORT_NAME, board)
    html = render(board_page(board, sources, missing))
    (folder / "report.html").write_text(html, encoding="utf-8")
    (folder / "summary.md").write_text(board_summary(board), encoding="utf-8")
    if any(row.figures.win_rate for row in board.policies):
        draw, size = board_plot(board)
        plots.save_png(draw, size, folder / "plot.png")
    return Outcome(metrics=board_metrics(board), notes={"unreadable": missing} if missing else {})


def reported_experiments(workspace: Workspace) -> list[str]:
    """Experiments with published reports, but for archived ones; a broken YAML hides nothing."""
    made = {path.parents[1].name for path in workspace.runs.glob("*/*_report/publications.jsonl")}
    return sorted(key for key in made - {ALL_EXPERIMENTS} if not _is_archived(workspace, key))


def current_reports(store: ArtifactStore, experiments: Sequence[str]) -> dict[str, Artifact]:
    """``{"<experiment>/<stage>": artifact}`` of all current reports."""
    found = {
        f"{experiment}/{stage}": store.current(experiment, stage)
        for experiment in experiments
        for stage in REPORTS
    }
    return {name: artifact for name, artifact in found.items() if artifact is not None}


def _is_archived(workspace: Workspace, key: str) -> bool:
    if key not in experiment_keys(workspace.experiments):
        return False
    try:
        return read_experiment(workspace.experiments, key).status == "archived"
    except SpecError:
        return False


def _read(
    reports: Mapping[str, Artifact],
) -> tuple[list[RewardResults], list[PolicyResults], list[str]]:
    rewards: list[RewardResults] = []
    policies: list[PolicyResults] = []
    missing: list[str] = []
    for name, artifact in reports.items():
        path = artifact.file(REPORT_NAME)
        try:
            if name.endswith("rm_report"):
                rewards.append(read_results(path, RewardResults))
            else:
                policies.append(read_results(path, PolicyResults))
        except ArtifactError:
            missing.append(name)
    return rewards, policies, missing
