"""What a person sees while an experiment runs: a line for each stage, live on a terminal, plain
lines elsewhere.
"""

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import dagster as dg
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import OperationalError

from harness_jobs.failures import cause_of
from reward_harness.rm.probes import DEPLOYMENT_NAME, read_deployment
from reward_harness.spec import ExperimentSpec
from reward_harness.store import ArtifactStore

POLL_S = 0.5
LATE_S = 5.0
RUN_ENDS = (
    dg.DagsterEventType.RUN_SUCCESS,
    dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterEventType.RUN_CANCELED,
)
REPORTS = ("rm_report", "policy_report")
GRAPH_URL = "http://127.0.0.1:3000/asset-groups"
MARKS = {"fresh": "·", "waiting": " ", "running": "▶", "done": "✓", "failed": "✗", "skipped": "-"}
STYLES = {
    "fresh": "dim",
    "waiting": "dim",
    "running": "bold cyan",
    "done": "green",
    "failed": "bold red",
}


class RunDisplay:
    """Follows one run's events and shows the state, time and last message of each stage."""

    def __init__(self, spec: ExperimentSpec, stages: Iterable[str], running: set[str]) -> None:
        self.console = Console(stderr=False)
        self.key = spec.key
        self.state = {name: ("waiting" if name in running else "fresh") for name in stages}
        self.message: dict[str, str] = {}
        self.started: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.begin = time.monotonic()
        self.ended = False

    def nothing_to_do(self) -> None:
        """Say that every stage is what it would be if it were made again."""
        self.console.print(
            f"{self.key}: everything is fresh ({len(self.state)} stages), nothing to run"
        )

    def follow(
        self, instance: dg.DagsterInstance, tag: str, value: str, done: threading.Event
    ) -> None:
        """Show events of the run tagged ``tag=value`` until ``done`` is set and its end is seen.

        The storage may be busy, or tell an event late: what is missing is asked for again.
        """
        cursor: str | None = None
        run_id: str | None = None
        last_look: float | None = None
        with Live(console=self.console, refresh_per_second=4, transient=False) as live:
            live_terminal = self.console.is_terminal
            while not self.ended and (last_look is None or time.monotonic() < last_look):
                if done.is_set() and last_look is None:
                    last_look = time.monotonic() + LATE_S
                with suppress(OperationalError):
                    if run_id is None:
                        runs = instance.get_runs(dg.RunsFilter(tags={tag: value}), limit=1)
                        run_id = runs[0].run_id if runs else None
                    if run_id is not None:
                        page = instance.get_records_for_run(run_id, cursor=cursor)
                        cursor = page.cursor
                        for entry in (record.event_log_entry for record in page.records):
                            self._take(entry, plain=not live_terminal)
                if live_terminal:
                    live.update(self._table())
                (time.sleep if done.is_set() else done.wait)(POLL_S)

    def finished(self, note: Path | None) -> None:
        """The closing line; ``note`` is what a failed run left."""
        verdict = "finished" if note is None else "failed"
        self.console.print(f"{self.key}: {verdict} after {time.monotonic() - self.begin:.0f} s")
        if note is not None:
            self.console.print(f"what failed, and how to go on: {note}", soft_wrap=True)

    def show_results(self, store: ArtifactStore) -> None:
        """Where the reports, the graph and the served model are."""
        for stage in REPORTS:
            report = store.current(self.key, stage)
            if report is not None:
                self.console.print(f"{stage}: {report.path / 'report.html'}", soft_wrap=True)
        self.console.print(f"graph: `make ui`, then {GRAPH_URL}", soft_wrap=True)
        deployment = store.current(self.key, "rm_deployment")
        if deployment is not None:
            target = read_deployment(deployment.file(DEPLOYMENT_NAME)).target
            self.console.print(f"served model: `harness serve --target {target}`", soft_wrap=True)

    def _take(self, entry: dg.EventLogEntry, plain: bool) -> None:
        event = entry.dagster_event_type
        self.ended = self.ended or event in RUN_ENDS
        step = (entry.step_key or "").split("__")[-1]
        if step not in self.state:
            return
        if event is None:
            self.message[step] = entry.user_message.splitlines()[0] if entry.user_message else ""
        elif event == dg.DagsterEventType.STEP_START:
            self.state[step], self.started[step] = "running", entry.timestamp
        elif event == dg.DagsterEventType.STEP_SUCCESS:
            self._close(step, "done", entry.timestamp)
        elif event == dg.DagsterEventType.STEP_FAILURE:
            self._close(step, "failed", entry.timestamp)
            self.message[step] = cause_of(entry)
        elif event == dg.DagsterEventType.STEP_SKIPPED:
            self._close(step, "skipped", entry.timestamp)
        else:
            return
        if plain:
            self.console.print(self._line(step), soft_wrap=True)

    def _close(self, step: str, state: str, timestamp: float) -> None:
        self.state[step] = state
        self.seconds[step] = timestamp - self.started.get(step, timestamp)

    def _line(self, step: str) -> Text:
        state = self.state[step]
        seconds = f" {self.seconds[step]:.0f} s" if step in self.seconds else ""
        text = f"{MARKS[state]} {step:<18}{seconds} {self.message.get(step, '')}"
        return Text(text.rstrip(), style=STYLES.get(state, ""))

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 1))
        now = time.time()
        for step, state in self.state.items():
            if state == "running":
                spent = f"{now - self.started[step]:.0f} s"
            else:
                spent = f"{self.seconds[step]:.0f} s" if step in self.seconds else ""
            style = STYLES.get(state, "")
            message = Text(
                self.message.get(step, ""), style="dim", overflow="ellipsis", no_wrap=True
            )
            table.add_row(Text(MARKS[state], style=style), Text(step, style=style), spent, message)
        done = sum(state in ("done", "fresh") for state in self.state.values())
        head = f"{self.key}: {done}/{len(self.state)} stages, {time.monotonic() - self.begin:.0f} s"
        return Group(Text(head, style="bold"), table)
