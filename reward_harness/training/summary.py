"""What a person sees of a training run first: a summary in markdown and its curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from reward_harness.evaluation.plots import Palette, save_png
from reward_harness.manifest import Metric
from reward_harness.training.job import JobBase, TrainResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES: Mapping[str, Sequence[tuple[str, str]]] = {
    "sft": (("loss", "loss"),),
    "bt": (("loss", "loss"), ("accuracy", "accuracy in the batch")),
    "ensemble": (("loss", "loss, member after member"), ("accuracy", "accuracy in the batch")),
    "rubric": (("loss", "mean squared error"), ("error", "mean absolute error")),
    "process": (("loss", "loss, process then outcome"), ("accuracy", "accuracy in the batch")),
    "iterative_dpo": (
        ("loss", "loss, round after round"),
        ("rewards/margins", "margin"),
        ("judge_mean", "the judge's mean score"),
    ),
    "dpo": (("loss", "loss"), ("rewards/margins", "margin"), ("rewards/accuracies", "accuracy")),
    "grpo": (("reward", "mean reward"), ("kl", "KL to the reference")),
    "ppo": (
        ("reward_mean", "mean reward"),
        ("kl_k1", "KL to the reference"),
        ("entropy", "entropy"),
    ),
}
"""For each method the columns of ``metrics.jsonl`` worth a panel, and their titles."""

SMOOTHED_FROM = 20
"""Steps from which a running mean is drawn over the points."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of ``metrics.jsonl``."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def summary_markdown(job: JobBase, result: TrainResult) -> str:
    """The key numbers with their n and interval, and how they were made."""
    title = f"# {result.method} of {job.experiment}"
    lines = [
        title,
        "",
        f"{result.steps} steps from `{job.model.name}`, seed {job.seed}, {job.train_dtype} on "
        f"{result.device}.",
        "",
        "| measure | value | 95 % interval | n |",
        "|---|---|---|---|",
        *(f"| {name} | {_row(metric)} |" for name, metric in result.metrics.items()),
        "",
        "`start` and `end` are means over the first and the last third of the steps.",
        ", ".join(f"{name.replace('_', ' ')}: {n}" for name, n in result.counts.items()) + ".",
        "",
    ]
    return "\n".join(lines)


def plot_curves(method: str, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One panel a curve over the steps, side by side."""
    found = [
        (title, [(row["step"], row[name]) for row in rows if row.get(name) is not None])
        for name, title in CURVES[method]
    ]
    curves = [(title, points) for title, points in found if points]

    def draw(figure: Figure, palette: Palette) -> None:
        panels: Any = figure.subplots(1, max(1, len(curves)), squeeze=False)[0]
        for index, (axes, (title, points)) in enumerate(zip(panels, curves, strict=False)):
            _curve(axes, palette, index, title, points)

    save_png(draw, (3.6 * max(1, len(curves)), 2.8), path)


def _curve(
    axes: Any, palette: Palette, index: int, title: str, points: Sequence[tuple[int, float]]
) -> None:
    steps, values = [step for step, _ in points], [value for _, value in points]
    color = palette.series[index % len(palette.series)]
    many = len(values) >= SMOOTHED_FROM
    axes.plot(steps, values, "o-", color=color, alpha=0.35 if many else 1.0, markersize=3)
    if many:
        width = len(values) // 8
        smooth = [
            sum(values[max(0, i - width) : i + 1]) / len(values[max(0, i - width) : i + 1])
            for i in range(len(values))
        ]
        axes.plot(steps, smooth, color=color)
    axes.set_title(title, loc="left", color=palette.ink)
    axes.set_xlabel("step")
    axes.grid(color=palette.rule, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _row(metric: Metric) -> str:
    interval = (
        f"{metric.ci_low:.4g} to {metric.ci_high:.4g}"
        if metric.ci_low is not None and metric.ci_high is not None
        else ""
    )
    return f"{metric.value:.4g} | {interval} | {metric.n if metric.n is not None else ''}"
