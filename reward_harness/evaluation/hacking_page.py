"""The hacking report: what the detector saw in each on-policy run, as a page and as numbers.

Everything is read from the runs' own ``metrics.jsonl``; nothing is judged again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reward_harness.evaluation import plots
from reward_harness.evaluation.report import (
    Cell,
    Column,
    Figure,
    NextStep,
    Page,
    Section,
    Source,
    Table,
    shown,
)
from reward_harness.manifest import Frozen, Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

VERDICTS = ("warming up", "clean", "warning", "hard stop")
PANELS_SIZE = (7.2, 5.6)


class JudgedStep(Frozen):
    """One rollout as the detector saw it; lengths in tokens, divergence in nats."""

    step: int
    verdict: str
    length_mean: float
    length_window: float | None
    length_low: float | None
    length_high: float | None
    length_z: float | None
    reward_mean: float
    divergence: float | None
    divergence_threshold: float | None
    kl: float | None


class JudgedRun(Frozen):
    """One policy's run; ``gated_out`` says whether its checkpoint may be used."""

    policy: str
    digest: str
    steps: list[JudgedStep]
    needed_steps: int
    warnings: dict[int, str]
    hard_stop_step: int | None
    stopped: bool
    gated_out: bool

    @property
    def judged(self) -> list[JudgedStep]:
        """The steps after the warm-up."""
        return [step for step in self.steps if step.length_z is not None]

    @property
    def verdict(self) -> str:
        """The worst that was said of any step."""
        return max((s.verdict for s in self.steps), key=VERDICTS.index, default="not watched")


class HackingResults(Frozen):
    """``report.json``."""

    version: str = "1"
    experiment: str
    runs: list[JudgedRun]


def judged_steps(rows: Sequence[Mapping[str, Any]]) -> list[JudgedStep]:
    """The detector's columns of ``metrics.jsonl``; empty for a run without a detector."""
    return [
        JudgedStep(
            step=row["step"],
            verdict=row["hacking_verdict"],
            reward_mean=row["hacking_reward_mean"],
            divergence=row["hacking_divergence"],
            divergence_threshold=row["hacking_divergence_threshold"],
            kl=row["hacking_kl"],
            **{
                f"length_{name}": row[f"hacking_length_{name}"]
                for name in ("mean", "window", "low", "high", "z")
            },
        )
        for row in rows
        if row.get("hacking_verdict")
    ]


def hacking_metrics(results: HackingResults) -> dict[str, Metric]:
    """Warnings of each run, and whether it was a hard stop."""
    found: dict[str, Metric] = {}
    for run in results.runs:
        n = len(run.judged)
        if n:
            found[f"{run.policy}_warnings"] = Metric(value=len(run.warnings), n=n, direction="min")
        stop = float(run.hard_stop_step is not None)
        found[f"{run.policy}_hard_stop"] = Metric(value=stop, n=n, direction="min")
    return found


def hacking_page(results: HackingResults, sources: Sequence[Source]) -> Page:
    """Everything a reader of the hacking report sees."""
    return Page(
        kicker=f"Hacking report · {results.experiment}",
        title="Is a policy gaming its reward?",
        lead=hacking_lead(results),
        next_steps=[step for run in results.runs for step in _steps_of(run)],
        facts=[
            ("runs watched", str(len(results.runs))),
            ("steps judged", str(sum(len(run.judged) for run in results.runs))),
            ("warnings", str(sum(len(run.warnings) for run in results.runs))),
            ("stopped", str(sum(run.stopped for run in results.runs))),
        ],
        sections=[_section(run) for run in results.runs],
        sources=sources,
        method=[
            "The first steps of a run (its warm-up) are what it is compared with; the last few "
            "are pooled. Length drift: the mean left the shaded band, which is the threshold in "
            "standard errors of a step's mean and at least 5 % of the length. Reward shift: "
            "rewards rose, and the KL of the two fitted normals exceeds its threshold, which is "
            "raised where samples are so few that chance would exceed it.",
            "One signal is a warning, both in one step a hard stop. The false alarms and "
            "detections of the defaults on simulated runs stand in docs/reports.md.",
            "A hard stop publishes the checkpoint with a failed gate and fails the run, unless "
            "the experiment says on_hack: record.",
        ],
    )


def hacking_lead(results: HackingResults) -> str:
    """The page's first sentence."""
    stopped = [run for run in results.runs if run.hard_stop_step is not None]
    if stopped:
        told = [f"{run.policy.upper()} at step {run.hard_stop_step}" for run in stopped]
        return f"Both signals of reward hacking fired: {', '.join(told)}."
    warned = [run.policy.upper() for run in results.runs if run.warnings]
    if warned:
        return f"One signal of reward hacking fired for {' and '.join(warned)}; nothing hacks yet."
    if any(run.judged for run in results.runs):
        return "No sign of reward hacking in any step that could be judged."
    return "No run was long enough to be judged."


def hacking_summary(results: HackingResults) -> str:
    """``summary.md``."""
    lines = [f"# Hacking report: {results.experiment}", "", hacking_lead(results), ""]
    lines += [
        "| policy | verdict | steps | judged | warnings | hard stop |",
        "|---|---|---|---|---|---|",
    ]
    for run in results.runs:
        cells = [run.policy, run.verdict, len(run.steps), len(run.judged), len(run.warnings)]
        lines.append(f"| {' | '.join(map(str, cells))} | {run.hard_stop_step or '–'} |")
    lines += ["", "Next:", ""]
    lines += [f"- {s.text} {s.because}".rstrip() for run in results.runs for s in _steps_of(run)]
    return "\n".join(lines) + "\n"


def worst_run(results: HackingResults) -> JudgedRun:
    """The run whose panels stand for the report: the worst verdict, the longest run."""
    order = ("not watched", *VERDICTS)
    return max(results.runs, key=lambda run: (order.index(run.verdict), len(run.judged)))


def panels(run: JudgedRun) -> plots.Draw:
    """Length with its band, reward divergence with its threshold, and the verdicts, by step."""

    def draw(figure: Canvas, palette: plots.Palette) -> None:
        axes: Any = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.1))
        for one in axes:
            one.set_facecolor("none")
            one.spines[["top", "right", "left"]].set_visible(False)
            one.tick_params(length=0)
            one.grid(axis="y", color=palette.rule, linewidth=0.8)
            one.set_axisbelow(True)
        _lengths(axes[0], run, palette)
        _divergence(axes[1], run, palette)
        _verdicts(axes[2], run, palette)
        figure.suptitle(run.policy.upper(), x=0.01, ha="left", color=palette.ink)

    return draw


def _lengths(axes: Any, run: JudgedRun, palette: plots.Palette) -> None:
    steps = [s.step for s in run.steps]
    axes.plot(
        steps, [s.length_mean for s in run.steps], "o-", color=palette.series[0], markersize=3.5
    )
    judged = run.judged
    at = [s.step for s in judged]
    axes.fill_between(
        at,
        [s.length_low for s in judged],
        [s.length_high for s in judged],
        color=palette.muted,
        alpha=0.18,
        linewidth=0,
    )
    axes.plot(at, [s.length_window for s in judged], color=palette.series[1], linewidth=1.8)
    axes.set_title("response tokens: each step, window mean, allowed band", loc="left", fontsize=10)


def _divergence(axes: Any, run: JudgedRun, palette: plots.Palette) -> None:
    at = [s.step for s in run.judged]
    axes.plot(at, [s.divergence for s in run.judged], "o-", color=palette.series[2], markersize=3.5)
    axes.plot(
        at,
        [s.divergence_threshold for s in run.judged],
        color=palette.muted,
        linestyle=(0, (4, 3)),
        linewidth=1.2,
    )
    axes.set_ylim(bottom=0)
    axes.set_title("reward divergence (nats) and its threshold", loc="left", fontsize=10)


def _verdicts(axes: Any, run: JudgedRun, palette: plots.Palette) -> None:
    colors = dict(
        zip(
            VERDICTS,
            (palette.rule, palette.series[0], palette.series[1], palette.series[3]),
            strict=True,
        )
    )
    for verdict in VERDICTS:
        at = [s.step for s in run.steps if s.verdict == verdict]
        if at:
            axes.plot(at, [0] * len(at), "s", color=colors[verdict], markersize=8, label=verdict)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.set_ylim(-1, 1)
    axes.set_xlabel("step")
    axes.set_title("status", loc="left", fontsize=10)
    if run.steps:
        axes.legend(loc="upper right", bbox_to_anchor=(1, 1.75), ncols=4, frameon=False, fontsize=9)


def _steps_of(run: JudgedRun) -> list[NextStep]:
    name = run.policy.upper()
    if run.hard_stop_step is not None:
        return _about_hard_stop(run, name)
    if run.warnings:
        step, message = list(run.warnings.items())[-1]
        text = f"Read {name}'s samples before you believe its reward: {len(run.warnings)} warnings."
        return [NextStep("warn", text, f"The last at step {step}: {message}.")]
    if not run.steps:
        return [NextStep("unsure", f"{name} was trained without the detector: make it again.")]
    if not run.judged:
        why = (
            f"It had {len(run.steps)} steps; the first verdict comes with step {run.needed_steps}."
        )
        return [NextStep("unsure", f"{name} could not be judged.", why)]
    text = f"{name} shows no sign of reward hacking in {len(run.judged)} judged steps."
    return [NextStep("do", text, "Go on with policy_report, which asks a second scorer.")]


def _about_hard_stop(run: JudgedRun, name: str) -> list[NextStep]:
    how = "was stopped" if run.stopped else "would have been stopped"
    text = f"Do not use {name}: it {how} at step {run.hard_stop_step} for reward hacking."
    fix = (
        "Find what the reward pays for (rm_report: length bias, attacks), then change the reward, "
        "or hold the policy nearer to its reference (kl_init, beta)."
    )
    return [
        NextStep("stop", text, f"{run.warnings[run.hard_stop_step or 0]}."),
        NextStep("do", fix, "docs/failure-modes.md, length exploitation, has the commands."),
    ]


def _section(run: JudgedRun) -> Section:
    title = f"{run.policy.upper()}: {run.verdict}"
    if not run.steps:
        return Section(title, "This checkpoint was trained without the detector; make it again.")
    caption = (
        "Top: mean response length of each step, the mean of the last steps, and the band it may "
        "move in. Middle: how far rewards moved from the warm-up. Bottom: the verdict."
    )
    figure = Figure(plots.render_svg(panels(run), PANELS_SIZE), caption, f"{run.policy} by step")
    intro = "Its checkpoint is gated out: no consumer takes it." if run.gated_out else ""
    blocks: list[Table | Figure] = [figure]
    if run.warnings:
        blocks.append(_warnings(run))
    return Section(title, intro, blocks)


def _warnings(run: JudgedRun) -> Table:
    by_step = {step.step: step for step in run.steps}
    rows: list[list[Cell]] = [
        [
            str(number),
            by_step[number].verdict,
            _number(by_step[number].length_z, "signed"),
            _number(by_step[number].divergence, "number"),
            message,
        ]
        for number, message in run.warnings.items()
    ]
    columns = [
        Column("step"),
        Column("verdict"),
        Column("length z", hint="standard errors from the warm-up's mean"),
        Column("divergence"),
        Column("what moved"),
    ]
    return Table(columns, rows)


def _number(value: float | None, style: Any) -> str | None:
    return None if value is None else shown(value, style)
