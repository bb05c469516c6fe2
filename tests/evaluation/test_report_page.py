"""The page escapes what others wrote, draws bars to scale and shows numbers as people read them."""

from __future__ import annotations

import pytest

from reward_harness.evaluation import plots
from reward_harness.evaluation.report import (
    Column,
    Estimate,
    Figure,
    NextStep,
    Page,
    Response,
    Section,
    SideBySide,
    Source,
    Table,
    bounds,
    inline,
    render,
    rounded,
    shown,
)
from reward_harness.evaluation.statistics import Interval

INTERVAL = Interval(0.614, 0.5823, 0.6451, 702)


def page(*blocks) -> Page:
    return Page(
        kicker="Kicker",
        title="Title",
        lead="Lead",
        next_steps=[NextStep("do", "Ship <it>.", "Because & so.")],
        facts=[("prompts", "3")],
        sections=[Section("Section", "Intro", list(blocks))],
        sources=[Source("rm_artifact", "tour", "d" * 64, "1")],
        method=["How."],
    )


def test_texts_of_models_and_users_are_escaped():
    sample = SideBySide(
        prompt="<script>alert(1)</script>",
        why="drawn",
        responses=[Response("PPO", "<img src=x onerror=alert(1)>", "<b>"), Response("SFT", "")],
    )
    html = render(page(sample))
    assert "<script" not in html and "<img" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "Ship &lt;it&gt;." in html
    assert "(empty)" in html


def test_tables_show_value_bounds_and_n_with_a_bar_on_the_columns_scale():
    table = Table(
        [Column("reward"), Column("accuracy", 0.5)],
        [
            ["a", Estimate(INTERVAL, "percent", "good")],
            ["b", Estimate(Interval(0.5, 0.4, 0.6, 9), "percent")],
            ["c", None],
        ],
    )
    html = render(page(table))
    assert "61.4 %" in html
    assert "58.2 to 64.5 % · n 702" in html
    assert html.count('<circle class="dot') == 2
    assert 'x1="5.0" x2="95.' in html or 'x1="5.0"' in html
    assert '<td class="none">–</td>' in html


def test_equal_pages_and_figures_are_equal_bytes_with_colours_of_the_theme():
    draw = plots.forest([plots.Row("a", INTERVAL)], xlabel="accuracy", reference=0.5, percent=True)
    first, again = (plots.render_svg(draw, (6, 2)) for _ in range(2))
    assert first == again
    assert "var(--series-1)" in first and "#04" not in first
    block = Figure(first, "caption", "alt")
    assert render(page(block)) == render(page(block))
    assert first in render(page(block))


def test_a_png_is_small_and_stable(tmp_path):
    draw = plots.forest([plots.Row("a", INTERVAL)], xlabel="accuracy", reference=0.5)
    plots.save_png(draw, (6, 2), tmp_path / "a.png")
    plots.save_png(draw, (6, 2), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").stat().st_size < 150_000


@pytest.mark.parametrize(
    ("value", "style", "text"),
    [
        (0.6142, "percent", "61.4 %"),
        (-0.031, "signed_percent", "−3.1 pp"),
        (0.01234, "number", "0.0123"),
        (1234.5, "number", "1,234"),
        (-12.34, "signed", "−12.3"),
        (0.5, "signed", "+0.500"),
        (0.0, "number", "0"),
        (0.00001, "number", "1e−05"),
    ],
)
def test_numbers_are_shown_with_the_digits_they_deserve(value, style, text):
    assert shown(value, style) == text


def test_intervals_name_their_unit_once():
    assert bounds(INTERVAL, "percent") == "58.2 to 64.5 % · n 702"
    assert (
        inline(Interval(0.1, 0.05, 0.15, 8), "signed_percent")
        == "+10.0 pp [+5.0 to +15.0 pp], n = 8"
    )


def test_rounding_keeps_structure_and_drops_what_json_cannot_hold():
    assert rounded({"a": [0.123456789, float("nan")], "b": 3}) == {"a": [0.1234568, None], "b": 3}
