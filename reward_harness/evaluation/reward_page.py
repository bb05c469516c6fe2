"""The page and the short summary of a reward report, from its results."""

from __future__ import annotations

from collections.abc import Sequence

from reward_harness.evaluation import plots
from reward_harness.evaluation.calibration import Calibration
from reward_harness.evaluation.report import (
    Cell,
    Column,
    Estimate,
    Figure,
    Page,
    Section,
    Source,
    Table,
    Tone,
    estimate,
    inline,
    shown,
)
from reward_harness.evaluation.results import RewardResults
from reward_harness.evaluation.reward_advice import (
    LENGTH_BIAS_LIMIT,
    UNSCORED_LIMIT,
    lead,
    reward_steps,
)
from reward_harness.evaluation.reward_models import PairMeasures, RewardMeasures
from reward_harness.evaluation.reward_sections import graded_section, turns_section
from reward_harness.evaluation.statistics import Interval

MAX_SOURCES_SHOWN = 12


def reward_page(results: RewardResults, sources: Sequence[Source]) -> Page:
    """Everything a reader of the reward report sees."""
    sections = [
        _accuracy(results),
        _ranked(results),
        _length(results),
        _calibration(results),
        _subsets(results),
        turns_section(results),
        graded_section(results),
        _agreements(results),
        _gates(results),
    ]
    return Page(
        kicker=f"Reward report · {results.experiment}",
        title="Which reward can be trusted",
        lead=lead(results),
        next_steps=reward_steps(results),
        facts=_facts(results),
        sections=[section for section in sections if section is not None],
        sources=sources,
        method=_method(results),
    )


def accuracy_plot(results: RewardResults) -> tuple[plots.Draw, tuple[float, float]]:
    """Held-out accuracy of each reward and of both length rules, for page and asset."""
    rows = [plots.Row(r.label, p.accuracy) for r, p in _measured(results)]
    if results.baselines:
        rows.append(plots.Row("longer wins", results.baselines.longer_wins, 1))
        rows.append(plots.Row("shorter wins", results.baselines.shorter_wins, 1))
    if not rows:
        rows = [
            plots.Row(f"{r.label} (ranked)", r.ranked)
            for r in results.rewards
            if r.ranked is not None
        ]
    groups = ("reward", "length rule") if results.baselines else ()
    draw = plots.forest(
        rows, xlabel="held-out agreement", reference=0.5, groups=groups, percent=True
    )
    return draw, plots.forest_size(rows, groups)


def reward_summary(results: RewardResults) -> str:
    """``summary.md``: the key numbers with n and interval."""
    lines = [f"# Reward report: {results.experiment}", "", lead(results), ""]
    lines += ["| reward | accuracy | over “longer wins” | length bias (std) | unscored |"]
    lines += ["|---|---|---|---|---|"]
    for reward, pairs in _measured(results):
        bias = inline(pairs.length_bias, "signed") if pairs.length_bias else "–"
        lines.append(
            f"| {reward.label} | {inline(pairs.accuracy, 'percent')} "
            f"| {inline(pairs.over_longer, 'signed_percent')} | {bias} "
            f"| {shown(pairs.unscored_share, 'percent')} |"
        )
    lines += ["", "Next:", ""]
    lines += [f"- {step.text} {step.because}".rstrip() for step in reward_steps(results)]
    return "\n".join(lines) + "\n"


def _measured(results: RewardResults) -> list[tuple[RewardMeasures, PairMeasures]]:
    return [(r, r.pairs) for r in results.rewards if r.pairs is not None]


def _facts(results: RewardResults) -> list[tuple[str, str]]:
    facts = [("rewards compared", str(len(results.rewards)))]
    for _, pairs in _measured(results)[:1]:
        facts += [("held-out pairs", f"{pairs.n_pairs:,}"), ("prompts", f"{pairs.n_prompts:,}")]
    ranked = next((r.ranked for r in results.rewards if r.ranked), None)
    if ranked:
        facts.append(("ranked prompts", str(ranked.n)))
    passed = sum(gate.passed for gate in results.gates.values())
    facts.append(("gates passed", f"{passed} of {len(results.gates)}"))
    return facts


def _accuracy(results: RewardResults) -> Section | None:
    measured = _measured(results)
    if not measured:
        return None
    columns = [
        Column("reward"),
        Column("accuracy", 0.5, "share of held-out pairs whose chosen side scores higher; ties ½"),
        Column("minus “longer wins”", 0.0, "paired difference on the same pairs"),
        Column("minus “shorter wins”", 0.0, "paired difference on the same pairs"),
        Column("unscored"),
    ]
    rows: list[list[Cell]] = [
        [
            reward.label,
            estimate(pairs.accuracy, "percent", 0.5),
            estimate(pairs.over_longer, "signed_percent", 0.0),
            estimate(pairs.over_shorter, "signed_percent", 0.0),
            shown(pairs.unscored_share, "percent"),
        ]
        for reward, pairs in measured
    ]
    if results.baselines:
        for name, rule in (
            ("longer wins", results.baselines.longer_wins),
            ("shorter wins", results.baselines.shorter_wins),
        ):
            rows.append([name, Estimate(rule, "percent"), None, None, "–"])
    draw, size = accuracy_plot(results)
    figure = Figure(
        plots.render_svg(draw, size),
        "Share of held-out pairs ordered as people did. Dashed: chance.",
        "forest plot of held-out accuracy of each reward and of two length rules",
    )
    intro = (
        "A reward is worth training on if it orders unseen pairs better than chance and better "
        "than looking at nothing but length. Dashed marks show what it has to beat."
    )
    return Section("Accuracy on held-out pairs", intro, [Table(columns, rows), figure])


def _ranked(results: RewardResults) -> Section | None:
    rows: list[list[Cell]] = [
        [
            r.label,
            estimate(r.ranked, "percent", 0.5),
            shown(r.ranked_unscored_share, "percent"),
        ]
        for r in results.rewards
        if r.ranked is not None
    ]
    if not rows:
        return None
    columns = [Column("reward"), Column("agreement", 0.5), Column("unscored")]
    intro = (
        "On ranked prompts: share of all candidate pairs with different ranks that the reward "
        "orders alike, averaged over prompts. n counts prompts."
    )
    return Section("Agreement with full rankings", intro, [Table(columns, rows)])


def _length(results: RewardResults) -> Section | None:
    measured = _measured(results)
    if not measured:
        return None
    columns = [
        Column("reward"),
        Column("length-controlled accuracy", 0.5, "a rule that reads only length gets 50 %"),
        Column("score change by filler", 0.0, "in standard deviations of the reward's own scores"),
    ]
    rows: list[list[Cell]] = [
        [
            reward.label,
            estimate(pairs.length_controlled, "percent", 0.5),
            None
            if pairs.length_bias is None
            else Estimate(pairs.length_bias, "signed", _bias_tone(pairs.length_bias)),
        ]
        for reward, pairs in measured
    ]
    intro = (
        "Length-controlled accuracy weighs pairs whose chosen side is longer and those whose "
        "chosen side is shorter the same. Filler is three sentences that say nothing, appended to "
        "every response; a rise pays for padding."
    )
    return Section("Is it fooled by length?", intro, [Table(columns, rows)])


def _calibration(results: RewardResults) -> Section | None:
    measured = _measured(results)
    if not measured:
        return None
    columns = [
        Column("reward"),
        Column(
            "T",
            hint="fitted on the validation split, unless that is too small or only guessed",
        ),
        Column("calibration error"),
        Column("… at T"),
        Column("Brier"),
        Column("… at T"),
        Column("n"),
    ]
    rows: list[list[Cell]] = [
        [
            reward.label,
            _temperature(pairs.calibration),
            f"{pairs.calibration.ece:.3f}",
            _decimal(pairs.calibration.ece_scaled),
            f"{pairs.calibration.brier:.3f}",
            _decimal(pairs.calibration.brier_scaled),
            f"{pairs.calibration.n}",
        ]
        for reward, pairs in measured
    ]
    figure = Figure(
        plots.render_svg(
            plots.reliability([(r.label, p.calibration) for r, p in measured]),
            plots.RELIABILITY_SIZE,
        ),
        "Deciles of |margin| at T (1 where it is not fitted), with intervals. Dashed: calibrated.",
        "reliability diagram",
    )
    intro = (
        "Does a wide margin mean a safe judgement? σ(|margin| / T) should match the share of pairs "
        "that it gets right; guessing has a Brier score of .25."
    )
    return Section("Calibration", intro, [Table(columns, rows), figure])


def _subsets(results: RewardResults) -> Section | None:
    measured = _measured(results)
    sources = sorted({source for _, pairs in measured for source in pairs.by_source})
    if len(sources) < 2:
        return None
    columns = [Column("source"), *(Column(reward.label, 0.5) for reward, _ in measured)]
    rows: list[list[Cell]] = [
        [
            source,
            *(estimate(pairs.by_source.get(source), "percent", 0.5) for _, pairs in measured),
        ]
        for source in sources[:MAX_SOURCES_SHOWN]
    ]
    more = len(sources) - MAX_SOURCES_SHOWN
    note = f"{more} more sources are in report.json." if more > 0 else ""
    return Section("Accuracy by source", "", [Table(columns, rows, note)])


def _agreements(results: RewardResults) -> Section | None:
    if not results.agreements:
        return None
    columns = [
        Column("rewards"),
        Column("same side", 0.5),
        Column("… of high-reward pairs", 0.5),
        Column("… of low-reward pairs", 0.5),
        Column("Spearman ρ of scores", 0.0),
        Column("accuracy difference", 0.0),
    ]
    rows: list[list[Cell]] = [
        [
            f"{a.first} and {a.second}",
            Estimate(a.same_side, "percent"),
            estimate(a.same_side_high, "percent"),
            estimate(a.same_side_low, "percent"),
            estimate(a.spearman, "number"),
            Estimate(a.accuracy_difference, "signed_percent"),
        ]
        for a in results.agreements
    ]
    return Section("Do the rewards agree?", "On the same held-out pairs.", [Table(columns, rows)])


def _gates(results: RewardResults) -> Section | None:
    if not results.gates:
        return None
    columns = [Column("gate"), Column("result"), Column("value"), Column("threshold"), Column("")]
    rows: list[list[Cell]] = [
        [
            name,
            "passed" if gate.passed else "failed" if gate.enforced else "failed (not enforced)",
            _decimal(gate.value),
            _decimal(gate.threshold),
            gate.detail,
        ]
        for name, gate in sorted(results.gates.items())
    ]
    intro = "As recorded with the served artifact; consumers refuse one that failed."
    return Section("Gates of the served artifact", intro, [Table(columns, rows)])


def _method(results: RewardResults) -> list[str]:
    return [
        f"Intervals are {shown(results.confidence, 'percent')} percentile bootstraps with "
        f"{results.bootstrap_samples:,} resamples of whole prompts (seed {results.seed}); "
        "n counts prompts, because pairs of one prompt are not independent.",
        "All pairs come from the held-out test split, which shares no prompt with training.",
        "Responses without a score are left out and their share is stated; none counts as 0. "
        f"More than {shown(UNSCORED_LIMIT, 'percent')} is flagged.",
        "Lengths are whitespace words. A difference is paired: both rules judge the same pairs.",
    ]


def _bias_tone(bias: Interval) -> Tone:
    return "bad" if bias.low > LENGTH_BIAS_LIMIT else "plain"


def _temperature(found: Calibration) -> str:
    fitted = "not fitted" if found.temperature is None else f"{found.temperature:.3g}"
    return f"{fitted} (n {found.temperature_n})"


def _decimal(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
