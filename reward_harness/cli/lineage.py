"""``harness lineage``: questions to the record of what was made from what, without Dagster."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console

from reward_harness.workspace import Workspace

FILE_COLUMNS = 160
app = typer.Typer(help="Where every number came from.", no_args_is_help=True)
console = Console(width=None if sys.stdout.isatty() else FILE_COLUMNS)
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable")]
ArtifactName = Annotated[
    str, typer.Argument(help="experiment/stage, experiment/stage/digest, or a digest")
]


@app.callback()
def _lineage() -> None:
    """Questions to the record of what was made from what."""


def _json(record: Any) -> None:
    typer.echo(json.dumps(record, indent=2))


@app.command()
def show(
    experiment: Annotated[str, typer.Argument(help="experiment key")],
    stage: Annotated[str | None, typer.Option(help="only what this stage was made from")] = None,
    as_json: AsJson = False,
) -> None:
    """All upstream digests, code versions, costs and gates of an experiment."""
    from reward_harness.lineage.show import lineage_json, lineage_text

    workspace = Workspace.discover()
    if as_json:
        typer.echo(lineage_json(workspace, experiment, stage))
    else:
        console.print(lineage_text(workspace, experiment, stage))


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="experiment, or experiment/stage[/digest]")],
    second: Annotated[str, typer.Argument(help="likewise")],
    as_json: AsJson = False,
) -> None:
    """The first stage that was made differently, and how: spec, seed, code, data."""
    from reward_harness.lineage.answers import difference_text
    from reward_harness.lineage.difference import difference_of
    from reward_harness.store import ArtifactStore

    found = difference_of(ArtifactStore(Workspace.discover().runs), first, second)
    if as_json:
        _json(found.record())
    else:
        console.print(difference_text(found))


@app.command()
def impact(artifact: ArtifactName, as_json: AsJson = False) -> None:
    """What was made from an artifact: what its change made stale, or would."""
    from reward_harness.lineage.answers import impact_text
    from reward_harness.lineage.impact import impact_of
    from reward_harness.lineage.ledger import open_ledger

    with open_ledger(Workspace.discover()) as ledger:
        found = impact_of(ledger, artifact)
    if as_json:
        _json(found.record())
    else:
        console.print(impact_text(found))


@app.command("scored-by")
def scored_by(checkpoint: ArtifactName, as_json: AsJson = False) -> None:
    """Which reward artifact and rubric scored each step of a checkpoint's training."""
    from reward_harness.lineage.answers import scorers_text
    from reward_harness.lineage.ledger import open_ledger
    from reward_harness.lineage.scored_by import scorers_of

    workspace = Workspace.discover()
    with open_ledger(workspace) as ledger:
        trained, scorers = scorers_of(ledger, workspace.runs, checkpoint)
    if as_json:
        found = [scorer.record() for scorer in scorers]
        _json({"checkpoint": str(trained), "scorers": found})
    else:
        console.print(scorers_text(trained, scorers))


@app.command()
def regressions(
    threshold_pct: Annotated[
        float, typer.Option(min=0, help="worse by this is a warning, by twice this critical")
    ] = 5.0,
    baseline: Annotated[
        str, typer.Option(help="newest | own | an experiment | an artifact")
    ] = "newest",
    experiment: Annotated[str | None, typer.Option(help="only of this experiment")] = None,
    as_json: AsJson = False,
) -> None:
    """Current numbers against the newest comparable ones before them; exit code 1 if any is
    surely worse.
    """
    from reward_harness.lineage.answers import regressions_text
    from reward_harness.lineage.ledger import open_ledger
    from reward_harness.lineage.regressions import find_regressions

    with open_ledger(Workspace.discover()) as ledger:
        found = find_regressions(
            ledger, threshold_pct=threshold_pct, baseline=baseline, experiment=experiment
        )
    if as_json:
        _json(found.record())
    else:
        console.print(regressions_text(found))
    if found.proven:
        raise typer.Exit(1)


@app.command()
def leaderboard(
    metric: Annotated[
        list[str] | None, typer.Option(help="stage:metric, the name may hold * and ?; repeat")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="rows of each metric")] = 20,
    as_json: AsJson = False,
) -> None:
    """All experiments ordered by a metric of their current reports, best first."""
    from reward_harness.lineage.answers import ranking_table
    from reward_harness.lineage.ledger import open_ledger
    from reward_harness.lineage.ranking import DEFAULT_METRICS, ranking_of

    workspace = Workspace.discover()
    with open_ledger(workspace) as ledger:
        boards = {
            name: ranking_of(ledger, workspace.experiments, name, limit)
            for name in metric or DEFAULT_METRICS
        }
    if as_json:
        _json({name: [row.record() for row in rows] for name, rows in boards.items()})
        return
    for name, rows in boards.items():
        console.print(ranking_table(name, rows))


@app.command()
def rebuild() -> None:
    """Make the ledger again from all manifests; never needed, always allowed."""
    from reward_harness.lineage.ledger import ledger_path, open_ledger

    workspace = Workspace.discover()
    with open_ledger(workspace, rebuild=True) as ledger:
        ((artifacts,),) = ledger.rows("SELECT count(*) FROM artifacts")
        ((experiments,),) = ledger.rows("SELECT count(DISTINCT experiment) FROM artifacts")
    path = ledger_path(workspace)
    typer.echo(f"{artifacts} artifacts of {experiments} experiments in {path}")
