"""What a user operates in the Dagster UI, by clicking: a backfill of several experiments, what an
edited prompt makes stale, the schedule.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from reward_harness.store import ArtifactStore
from tests.ui.conftest import LOCATION, TINY, UI, materialize, open_page, shoot

pytestmark = [pytest.mark.ui, pytest.mark.xdist_group("ui"), pytest.mark.timeout(600)]
TICK_S = 30
READERS = ("rubrics/rubric_population", "rubrics/best_rubric")
"""Assets of the searched experiment that read the prompt templates."""


def backfill_of(run: dict) -> str | None:
    return next((tag["value"] for tag in run["tags"] if tag["key"] == "dagster/backfill"), None)


@pytest.fixture(scope="module")
def backfill(browser: Browser, ui: UI) -> list[dict]:
    """Three experiments' data prepared by one backfill; its runs, ended."""
    page = open_page(browser, ui)
    materialize(page, "prepare_data", *TINY)
    deadline = time.monotonic() + 300
    while True:
        runs = [run for run in ui.runs() if backfill_of(run)]
        if len(runs) == len(TINY) and all(r["status"] in ("SUCCESS", "FAILURE") for r in runs):
            break
        assert time.monotonic() < deadline, runs
        time.sleep(1)
    page.goto(f"/runs/b/{backfill_of(runs[0])}")
    expect(page.get_by_text("100% completed")).to_be_visible()
    shoot(page, "backfill")
    page.close()
    return runs


def test_a_backfill_of_three_experiments_succeeds(backfill: list[dict], ui: UI) -> None:
    assert [run["status"] for run in backfill] == ["SUCCESS"] * 3
    chosen = {
        tag["value"] for r in backfill for tag in r["tags"] if tag["key"].endswith("/partition")
    }
    assert chosen == set(TINY)
    store = ArtifactStore(ui.workspace.runs)
    assert all(store.current(key, "preference_pairs") is not None for key in TINY)


def test_an_edited_prompt_is_named_as_what_made_its_readers_stale(
    backfill: list[dict], page: Page, ui: UI
) -> None:
    key = TINY[0]
    materialize(page, "search_rubrics", key)
    ui.wait_for_run("search_rubrics", key, {"SUCCESS"}, timeout_s=240)
    synced = page.get_by_text("Unsynced")
    for asset in READERS:
        open_partition(page, asset, key)
        assert synced.count() == 0, asset

    template = ui.workspace.prompts / "en" / "judge.yaml"
    template.write_text(template.read_text() + "# edited while the UI was open\n")
    expect_unsynced(page, READERS[0], key)
    for asset in READERS:
        open_partition(page, asset, key)
        synced.first.click()
        expect(page.get_by_text("has a new data version")).to_be_visible()
        reason = page.locator(".dagster-popover, .bp5-popover").last
        expect(reason).to_contain_text("rubrics / prompt_templates")
        shoot(page, f"stale-{asset.split('/')[1]}")
    open_partition(page, "datasets/ranked_prompts", key)
    assert synced.count() == 0, "it reads no template"


def open_partition(page: Page, asset: str, key: str) -> None:
    """The asset's page of one experiment, once it is shown as made."""
    page.goto(f"/assets/{asset}?view=partitions&partition={key}")
    expect(page.get_by_text("Latest materialization")).to_be_visible()
    page.wait_for_load_state("networkidle")


def expect_unsynced(page: Page, asset: str, key: str) -> None:
    """The mark appears at the sensor's next tick."""
    deadline = time.monotonic() + 4 * TICK_S
    while True:
        open_partition(page, asset, key)
        if page.get_by_text("Unsynced").count():
            return
        assert time.monotonic() < deadline, "the edit was not noticed"
        time.sleep(2)


def test_the_schedule_is_turned_on_and_shows_its_next_tick(page: Page) -> None:
    page.goto(f"{LOCATION}/schedules/weekly_rubric_research")
    expect(page.get_by_text("Schedule has never run")).to_be_visible()
    assert page.get_by_text("Next tick").count() == 0
    page.locator("label:has(input[type=checkbox])").first.click()
    expect(page.get_by_text("Next tick")).to_be_visible()
    monday = next_monday(datetime.now(UTC))
    expect(page.locator("body")).to_contain_text(f"{monday:%b} {monday.day}, 3:00:00 AM UTC")
    shoot(page, "schedule")


def next_monday(now: datetime) -> datetime:
    """Three o'clock on the next Monday."""
    three = now.replace(hour=3, minute=0, second=0, microsecond=0)
    day = three + timedelta(days=-now.weekday() % 7)
    return day if day > now else day + timedelta(days=7)
