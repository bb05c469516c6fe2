"""``harness runs``: training runs of other projects, recorded and compared.

The functions are also the commands ``python -m reward_harness.rl.<command>``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from reward_harness.workspace import Workspace

if TYPE_CHECKING:
    from reward_harness.runs.comparison import Compared
    from reward_harness.runs.registry import Registry, Run

app = typer.Typer(help="Training runs of other projects on rewards of this one.")
FILE_COLUMNS = 160
console = Console(width=None if sys.stdout.isatty() else FILE_COLUMNS)
AsJson = Annotated[bool, typer.Option("--json", help="machine-readable")]
RunId = Annotated[str, typer.Argument(help="training_run_id")]
Threshold = Annotated[
    float, typer.Option(min=0, help="worse by this is a warning, by twice this critical")
]
Baseline = Annotated[
    str | None, typer.Option(help="an evaluation report or a run; default: the newest comparable")
]
RecordFile = Annotated[Path, typer.Argument(help="a JSON file")]


@app.callback(no_args_is_help=True)
def _runs() -> None:
    """Training runs of other projects on rewards of this one."""


@app.command("record-manifest")
def record_manifest(manifest: RecordFile) -> None:
    """Declare a run before it starts."""
    from reward_harness.runs.schemas import TrainingManifest

    _record(manifest, TrainingManifest)


@app.command("record-result")
def record_result(result: RecordFile) -> None:
    """Record how a run ended: succeeded, failed or canceled."""
    from reward_harness.runs.schemas import TrainingResult

    _record(result, TrainingResult)


@app.command("record-eval")
def record_eval(report: RecordFile) -> None:
    """Record measurements of what a run made."""
    from reward_harness.runs.schemas import EvalReport

    _record(report, EvalReport)


def _record(path: Path, kind: type[Any]) -> None:
    from reward_harness.runs.registry import id_of, read_record

    record = read_record(path, kind)
    added = _registry().record(record)
    typer.echo(f"{id_of(record)}: {'recorded' if added else 'was recorded already'}")


@app.command()
def show(training_run_id: RunId, as_json: AsJson = False) -> None:
    """All that is recorded of a run, and the reward that it trained on."""
    from reward_harness.lineage.ledger import open_ledger
    from reward_harness.runs.origin import reward_of

    registry = _registry()
    run = registry.run(training_run_id)
    with open_ledger(registry.workspace) as ledger:
        reward = reward_of(ledger, registry.workspace, run.manifest.rm_artifact_id)
    record = _run_record(run) | {"reward": str(reward) if reward else None}
    if as_json:
        typer.echo(json.dumps(record, indent=2))
        return
    typer.echo(f"{training_run_id}: {run.status}")
    typer.echo(f"reward {run.manifest.rm_artifact_id}: {reward or 'not published here'}")
    typer.echo(json.dumps(record, indent=2))


@app.command("list")
def list_runs(
    as_json: AsJson = False,
    status: Annotated[str | None, typer.Option(help="planned, succeeded, …")] = None,
) -> None:
    """All runs, oldest first."""
    found = [run for run in _registry().runs() if status in (None, run.status)]
    if as_json:
        typer.echo(json.dumps([_run_record(run) for run in found], indent=2))
        return
    table = Table("run", "status", "reward", "dataset", "trainer", "reports", box=None)
    for run in found:
        manifest = run.manifest
        dataset = f"{manifest.dataset.dataset_id} {manifest.dataset.dataset_version}"
        trainer = f"{manifest.trainer.project} {manifest.trainer.code_version}"
        reports = str(len(run.evals))
        table.add_row(
            manifest.training_run_id, run.status, manifest.rm_artifact_id, dataset, trainer, reports
        )
    console.print(table)


@app.command()
def compare(
    first: RunId,
    second: Annotated[str, typer.Argument(help="another training_run_id: the baseline")],
    threshold_pct: Threshold = 5.0,
    as_json: AsJson = False,
) -> None:
    """Two runs on the benchmarks that both were measured on, newest reports."""
    from reward_harness.runs.comparison import compare_runs

    registry = _registry()
    found = compare_runs(registry.run(first), registry.run(second), threshold_pct)
    if as_json:
        typer.echo(json.dumps([compared.record() for compared in found], indent=2))
        return
    _print(found)


@app.command("check-regression")
def check_regression(
    training_run_id: RunId,
    threshold_pct: Threshold = 5.0,
    baseline: Baseline = None,
    as_json: AsJson = False,
) -> None:
    """A run's reports against the newest comparable ones; exit code 1 if any is surely worse."""
    from reward_harness.runs.comparison import check_run

    compared, alone = check_run(
        _registry(), training_run_id, threshold_pct=threshold_pct, baseline=baseline
    )
    without = [report.eval_run_id for report in alone]
    if as_json:
        record = {"compared": [c.record() for c in compared], "without_baseline": without}
        typer.echo(json.dumps(record, indent=2))
    else:
        _print(compared)
        if without:
            typer.echo(f"without a comparable baseline: {', '.join(without)}")
    if any(found.regressed for found in compared):
        raise typer.Exit(1)


def _print(compared: list[Compared]) -> None:
    from reward_harness.lineage.answers import STYLES, interval_text, worse_text

    for found in compared:
        title = f"{found.report.eval_run_id} against {found.baseline.eval_run_id}"
        columns = ("metric", "value", "baseline", "worse by", "difference", "verdict")
        table = Table(*columns, title=title, box=None, title_justify="left")
        for name, change in found.changes.items():
            table.add_row(
                name,
                f"{change.value:.4g}",
                f"{change.baseline:.4g}",
                "" if change.verdict == "undirected" else worse_text(change),
                interval_text(change.low, change.high) or "no interval",
                f"[{STYLES.get(change.verdict, 'default')}]{change.verdict}",
            )
        console.print(table)
    if not compared:
        typer.echo("nothing to compare: no benchmark in common")


def _run_record(run: Run) -> dict[str, Any]:
    return {
        "status": run.status,
        "manifest": run.manifest.model_dump(mode="json", exclude_none=True),
        "result": run.result.model_dump(mode="json", exclude_none=True) if run.result else None,
        "evals": [report.model_dump(mode="json", exclude_none=True) for report in run.evals],
    }


def _registry() -> Registry:
    from reward_harness.runs.registry import Registry

    return Registry(Workspace.discover())
