"""The report of a study: one artifact over the current artifacts of its members.

It is published under the study's name, with inputs named ``<experiment>/<stage>``; members that
have not run are named in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reward_harness.environment import code_of, environment_of
from reward_harness.errors import ArtifactError
from reward_harness.evaluation import plots
from reward_harness.evaluation.report import Source, render
from reward_harness.evaluation.results import REPORT_NAME, write_results
from reward_harness.evaluation.study import StudyResults, study_results
from reward_harness.evaluation.study_page import study_page, study_plot, study_summary
from reward_harness.hashing import digest_json
from reward_harness.manifest import Metric, Outcome
from reward_harness.stages.make import Services
from reward_harness.store import Artifact, ArtifactStore, Recipe
from reward_harness.studies import StudySpec, expand
from reward_harness.workspace import Workspace

STAGE = "study_report"
CODE_VERSION = "2"


def make_study_report(
    workspace: Workspace, study: StudySpec, services: Services | None = None
) -> tuple[Artifact, bool]:
    """Publish the study's report, or reuse it; returns (artifact, reused).

    ``ArtifactError`` if no member has run as far as the study measures.
    """
    store = ArtifactStore(workspace.runs)
    made = member_artifacts(store, study)
    if not made:
        raise ArtifactError(
            "no member of the study has run",
            where=study.name,
            fix=f"Run `harness study run {study.name}` first.",
        )
    recipe = Recipe(
        experiment=study.name,
        stage=STAGE,
        code_version=CODE_VERSION,
        sections={"study": digest_json(study.model_dump(mode="json", exclude={"status"}))},
        inputs={name: artifact.digest for name, artifact in made.items()},
    )
    return store.produce(
        recipe,
        lambda folder: build_study_report(study, made, folder),
        snapshot={"study": study.model_dump(mode="json")},
        environment=environment_of,
        code=code_of(workspace.root, CODE_VERSION),
        run_id=(services or Services()).run_id,
    )


def member_artifacts(store: ArtifactStore, study: StudySpec) -> dict[str, Artifact]:
    """``{"<member>/<stage>": artifact}``: the current ones that hold the study's measures."""
    stages = dict.fromkeys(measure.split(".")[0] for measure in study.all_measures)
    if study.curve and "." in study.curve.x and study.curve.x not in study.grid:
        stages[study.curve.x.split(".")[0]] = None
    found = {
        f"{member.key}/{stage}": store.current(member.key, stage)
        for member in expand(study)
        for stage in stages
    }
    return {name: artifact for name, artifact in found.items() if artifact is not None}


def build_study_report(study: StudySpec, made: Mapping[str, Artifact], folder: Path) -> Outcome:
    """Write the report's files."""
    metrics: dict[str, dict[str, Metric]] = {}
    for name, artifact in made.items():
        key, stage = name.split("/")
        ours = metrics.setdefault(key, {})
        ours |= {f"{stage}.{m}": value for m, value in artifact.manifest.metrics.items()}
    results = study_results(study, expand(study), metrics)
    manifests = [artifact.manifest for artifact in made.values()]
    sources = [Source(m.stage, m.experiment, m.digest, m.code.version) for m in manifests]
    write_results(folder / REPORT_NAME, results)
    (folder / "report.html").write_text(render(study_page(results, sources)), encoding="utf-8")
    (folder / "summary.md").write_text(study_summary(results), encoding="utf-8")
    draw, size = study_plot(results)
    plots.save_png(draw, size, folder / "plot.png")
    return Outcome(metrics=_metrics(results))


def _metrics(results: StudyResults) -> dict[str, Metric]:
    compared = [row for row in results.rows if row.difference is not None]
    members = len(results.variants) * len(results.seeds)
    found = {
        "members_measured": Metric(value=members - len(results.missing)),
        "comparisons": Metric(value=len(compared)),
        "told_apart": Metric(value=sum(row.verdict != "unclear" for row in compared)),
    }
    for row in results.rows:
        name = f"{row.variant}.{row.measure}"
        found[name] = row.over_seeds.metric(row.direction)
    return found
