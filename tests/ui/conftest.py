"""A real Dagster UI over a private project, driven in a headless Chromium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from reward_harness.workspace import Workspace
from tests.conftest import small_project

REPOSITORY = Path(__file__).resolve().parents[2]
SHOTS = Path(__file__).with_name("screenshots")
LOCATION = "/locations/harness_jobs.definitions"
CHROMIUM_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_TIMEOUT_S = 120
SHOW_TIMEOUT_S = 60
"""For anything to appear: much longer than it takes, unless the machine is busy."""
TINY = ("tiny-1", "tiny-2", "tiny-3")
"""Experiments of the test's own, like `smoke` but for the seed."""


@dataclass(frozen=True, slots=True)
class UI:
    """A running ``harness ui``: its address, its project and its process."""

    url: str
    workspace: Workspace
    process: subprocess.Popen[bytes]

    def graphql(self, query: str, **variables: object) -> dict:
        answer = httpx.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60
        )
        answer.raise_for_status()
        return answer.json()["data"]

    def runs(self) -> list[dict]:
        """All runs, newest first."""
        query = "{runsOrError{... on Runs{results{runId status jobName tags{key value}}}}}"
        return self.graphql(query)["runsOrError"]["results"]

    def wait_for_run(self, job: str, partition: str, statuses: set[str], timeout_s: float) -> dict:
        """The newest run that a person launched, once its status is one of ``statuses``."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            runs = [run for run in self.runs() if launched_by_hand(run, job, partition)]
            if runs and runs[0]["status"] in statuses:
                return runs[0]
            if runs and runs[0]["status"] == "FAILURE" and "FAILURE" not in statuses:
                pytest.fail(f"{job} failed: {runs[0]['runId']}")
            time.sleep(1)
        pytest.fail(f"{job} was not {statuses} after {timeout_s} s: {self.runs()[:3]}")


def launched_by_hand(run: dict, job: str, partition: str) -> bool:
    """Whether this run is of ``job`` for ``partition`` and no sensor asked for it."""
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    return (
        run["jobName"] == job
        and tags.get("dagster/partition") == partition
        and "trigger" not in tags
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UI]:
    workspace = small_project(tmp_path_factory.mktemp("ui") / "project", TINY)
    port, reports_port = free_port(), free_port()
    log = (workspace.root / "ui.log").open("wb")
    argv = [sys.executable, "-m", "reward_harness.cli", "ui"]
    process = subprocess.Popen(
        [*argv, "--port", str(port), "--reports-port", str(reports_port)],
        cwd=REPOSITORY,
        env=os.environ
        | {"HARNESS_ROOT": str(workspace.root), "DAGSTER_HOME": str(workspace.dagster_home)},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    running = UI(f"http://127.0.0.1:{port}", workspace, process)
    try:
        wait_until_up(running, workspace.root / "ui.log")
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        log.close()


def wait_until_up(running: UI, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            break
        try:
            if httpx.get(f"{running.url}/server_info", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    pytest.fail(f"the UI did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(executable).exists():
        pytest.fail("no Chromium: install it (Debian: apt-get install chromium)")
    expect.set_options(timeout=SHOW_TIMEOUT_S * 1000)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, ui: UI) -> Iterator[Page]:
    opened = open_page(browser, ui)
    yield opened
    opened.close()


def open_page(browser: Browser, ui: UI) -> Page:
    opened = browser.new_page(viewport={"width": 1600, "height": 1000}, base_url=ui.url)
    opened.set_default_timeout(SHOW_TIMEOUT_S * 1000)
    return opened


def materialize(page: Page, job: str, *partitions: str) -> None:
    """Open the job, press "Materialize all", choose the partitions, launch; Dagster asks again
    where an asset upstream has never been made, as an optional one may not have been.
    """
    page.goto(f"{LOCATION}/jobs/{job}")
    page.get_by_role("button", name="Materialize all").first.click()
    choose = page.get_by_text("Select a partition or create one")
    sure = page.get_by_role("button", name="Confirm")  # something upstream was never made
    choose.or_(sure).first.wait_for()
    if sure.is_visible():
        sure.click()
    choose.click()
    choices = page.locator(".dagster-popover, .bp5-popover")
    for partition in partitions:
        choices.locator(f"text=/^{re.escape(partition)}$/ >> visible=true").first.click()
    page.keyboard.press("Escape")
    launch = "Launch 1 run" if len(partitions) == 1 else "Launch backfill"
    page.get_by_role("button", name=launch).click()


def shoot(page: Page, name: str) -> None:
    """Keep a picture for a person to look at."""
    SHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")
