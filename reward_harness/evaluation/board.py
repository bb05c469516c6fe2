"""The leaderboard over all experiments: rewards and policies side by side.

Rewards of different experiments have different units and test sets, so policies are ordered by
their win rate against their own reference, and the many comparisons are corrected together by the
false discovery rate (Benjamini–Hochberg).
"""

from __future__ import annotations

from collections.abc import Sequence

from reward_harness.evaluation import plots
from reward_harness.evaluation.policies import PolicyMeasures, ScorerFigures
from reward_harness.evaluation.report import (
    Cell,
    Column,
    Estimate,
    NextStep,
    Page,
    Section,
    Source,
    Table,
    Tone,
    inline,
)
from reward_harness.evaluation.results import PolicyResults, RewardResults
from reward_harness.evaluation.reward_models import PairMeasures
from reward_harness.evaluation.statistics import Interval, benjamini_hochberg
from reward_harness.manifest import Frozen, Metric

FALSE_DISCOVERY_RATE = 0.05
PLOTTED_ROWS = 12
SHOWN_DIGITS = 12


class RewardRow(Frozen):
    """One reward of one experiment."""

    experiment: str
    reward: str
    label: str
    digest: str
    served: bool
    pairs: PairMeasures | None
    ranked: Interval | None


class PolicyRow(Frozen):
    """One trained policy of one experiment against its own reference.

    ``adjusted_p`` is the paired permutation p-value of its reward change, corrected over all
    policies on the board.
    """

    experiment: str
    policy: str
    digest: str
    reference: str
    scorer: str
    figures: ScorerFigures
    kl: Interval | None
    length_change: Interval | None
    adjusted_p: float | None


class Board(Frozen):
    """``report.json`` of the leaderboard; rewards and policies are ordered best first."""

    experiments: list[str]
    rewards: list[RewardRow]
    policies: list[PolicyRow]
    false_discovery_rate: float = FALSE_DISCOVERY_RATE


def board_of(rewards: Sequence[RewardResults], policies: Sequence[PolicyResults]) -> Board:
    """All reports' measurements in one table, with corrected comparisons."""
    names = {r.experiment for r in rewards} | {p.experiment for p in policies}
    return Board(
        experiments=sorted(names),
        rewards=sorted(_reward_rows(rewards), key=_reward_order),
        policies=sorted(_corrected(_policy_rows(policies)), key=_policy_order),
    )


def board_metrics(board: Board) -> dict[str, Metric]:
    """Counts, and the head of each list."""
    found = {
        "experiments": Metric(value=len(board.experiments)),
        "policies": Metric(value=len(board.policies)),
        "policies_better_than_reference": Metric(value=sum(map(_is_better, board.policies))),
    }
    if board.policies and (wins := board.policies[0].figures.win_rate):
        found["best_win_rate"] = wins.metric("max")
    if board.rewards and (pairs := board.rewards[0].pairs):
        found["best_reward_accuracy"] = pairs.accuracy.metric("max")
    return found


def board_page(board: Board, sources: Sequence[Source], missing: Sequence[str]) -> Page:
    """The leaderboard as a page; ``missing`` names reports that could not be read."""
    return Page(
        kicker="Leaderboard",
        title="All experiments side by side",
        lead=board_lead(board),
        next_steps=_steps(board, missing),
        facts=[
            ("experiments", str(len(board.experiments))),
            ("rewards", str(len(board.rewards))),
            ("trained policies", str(len(board.policies))),
            ("better than their reference", str(sum(map(_is_better, board.policies)))),
        ],
        sections=[s for s in (_policy_section(board), _reward_section(board)) if s],
        sources=sources,
        method=[
            "Every figure is copied from the report whose digest stands above; nothing is "
            "measured again here. Intervals and n are those of the reports.",
            f"p-values are paired permutation tests of the reward change, corrected over all "
            f"{len(board.policies)} policies by Benjamini and Hochberg; below "
            f"{board.false_discovery_rate:g} counts as better or worse.",
            "Experiments differ in rewards, prompts and lengths: a win rate says how a policy "
            "compares with its own reference, not with another experiment's policy.",
        ],
    )


def board_lead(board: Board) -> str:
    """The board's first sentence."""
    better = [row for row in board.policies if _is_better(row)]
    if not better:
        return "No policy is better than its reference once all comparisons are corrected."
    best = better[0]
    wins = inline(best.figures.win_rate, "percent") if best.figures.win_rate else "unknown"
    return (
        f"{len(better)} of {len(board.policies)} trained policies are better than their reference; "
        f"{best.policy.upper()} of {best.experiment} has the highest win rate: {wins} prompts."
    )


def board_summary(board: Board) -> str:
    """``summary.md``: one line for each policy and reward."""
    lines = ["# Leaderboard", "", board_lead(board), ""]
    lines += [
        "| experiment | policy | win rate | reward change | adjusted p |",
        "|---|---|---|---|---|",
    ]
    for row in board.policies:
        wins = inline(row.figures.win_rate, "percent") if row.figures.win_rate else "–"
        change = inline(row.figures.change, "signed") if row.figures.change else "–"
        lines.append(f"| {row.experiment} | {row.policy} | {wins} | {change} | {_p(row)} |")
    lines += ["", "| experiment | reward | accuracy | ranked agreement |", "|---|---|---|---|"]
    for reward in board.rewards:
        accuracy = inline(reward.pairs.accuracy, "percent") if reward.pairs else "–"
        ranked = inline(reward.ranked, "percent") if reward.ranked else "–"
        lines.append(f"| {reward.experiment} | {reward.label} | {accuracy} | {ranked} |")
    return "\n".join(lines) + "\n"


def board_plot(board: Board) -> tuple[plots.Draw, tuple[float, float]]:
    """Win rates of the first policies."""
    rows = [
        plots.Row(f"{row.experiment} · {row.policy.upper()}", row.figures.win_rate)
        for row in board.policies[:PLOTTED_ROWS]
        if row.figures.win_rate
    ]
    label = "win rate against the own reference"
    return plots.forest(rows, xlabel=label, reference=0.5, percent=True), plots.forest_size(rows)


def _reward_rows(results: Sequence[RewardResults]) -> list[RewardRow]:
    return [
        RewardRow(
            experiment=result.experiment,
            reward=reward.name,
            label=reward.label,
            digest=reward.digest,
            served=reward.name == result.served,
            pairs=reward.pairs,
            ranked=reward.ranked,
        )
        for result in results
        for reward in result.rewards
    ]


def _policy_rows(results: Sequence[PolicyResults]) -> list[PolicyRow]:
    return [
        PolicyRow(
            experiment=result.experiment,
            policy=policy.name,
            digest=policy.digest,
            reference=result.reference,
            scorer=result.scorers[0].label,
            figures=_main(result, policy),
            kl=policy.kl_sequence,
            length_change=policy.length_change,
            adjusted_p=None,
        )
        for result in results
        for policy in result.policies
        if policy.name != result.reference
    ]


def _main(result: PolicyResults, policy: PolicyMeasures) -> ScorerFigures:
    return policy.by_scorer[result.scorers[0].name]


def _corrected(rows: list[PolicyRow]) -> list[PolicyRow]:
    tested = [row for row in rows if row.figures.p_value is not None]
    adjusted = benjamini_hochberg([row.figures.p_value or 0.0 for row in tested])
    by_row = {id(row): p for row, p in zip(tested, adjusted, strict=True)}
    return [row.model_copy(update={"adjusted_p": by_row.get(id(row))}) for row in rows]


def _reward_order(row: RewardRow) -> tuple[float, str, str]:
    return -(row.pairs.accuracy.value if row.pairs else -1.0), row.experiment, row.reward


def _policy_order(row: PolicyRow) -> tuple[float, str, str]:
    wins = row.figures.win_rate
    return -(wins.value if wins else -1.0), row.experiment, row.policy


def _is_better(row: PolicyRow) -> bool:
    return _tone(row) == "good"


def _tone(row: PolicyRow) -> Tone:
    change = row.figures.change
    if change is None or row.adjusted_p is None or row.adjusted_p >= FALSE_DISCOVERY_RATE:
        return "plain"
    return "good" if change.value > 0 else "bad"


def _steps(board: Board, missing: Sequence[str]) -> list[NextStep]:
    steps = [
        NextStep("warn", f"Make {name} again.", "Another version wrote it.") for name in missing
    ]
    worse = [row for row in board.policies if _tone(row) == "bad"]
    for row in [row for row in board.policies if _is_better(row)][:1]:
        text = f"Start from {row.experiment}: its {row.policy.upper()} wins most often."
        steps.insert(0, NextStep("do", text, f"Adjusted p {_p(row)}; read its own report first."))
    for row in worse[:3]:
        text = f"{row.policy.upper()} of {row.experiment} made its reward worse: read its report."
        steps.append(NextStep("stop", text, f"Adjusted p {_p(row)}."))
    unclear = len(board.policies) - len(worse) - sum(map(_is_better, board.policies))
    if unclear:
        text = (
            f"{unclear} of {len(board.policies)} policies are not told apart from their reference."
        )
        why = "Raise evaluation.prompts: an interval shrinks with the root of their number."
        steps.append(NextStep("unsure", text, why))
    return steps or [NextStep("do", "Train a policy: there is none to compare yet.")]


def _policy_section(board: Board) -> Section | None:
    columns = [
        Column("experiment"),
        Column("policy"),
        Column("win rate", 0.5),
        Column("reward change", hint="in the units of the experiment's own reward"),
        Column("adjusted p"),
        Column("KL (nats)"),
        Column("change in tokens"),
        Column("scorer"),
        Column("artifact"),
    ]
    rows: list[list[Cell]] = [
        [
            row.experiment,
            row.policy.upper(),
            Estimate(row.figures.win_rate, "percent", _tone(row)) if row.figures.win_rate else None,
            Estimate(row.figures.change, "signed", _tone(row)) if row.figures.change else None,
            _p(row),
            Estimate(row.kl) if row.kl else None,
            Estimate(row.length_change, "signed") if row.length_change else None,
            row.scorer,
            row.digest[:SHOWN_DIGITS],
        ]
        for row in board.policies
    ]
    return Section("Policies", "", [Table(columns, rows)]) if rows else None


def _reward_section(board: Board) -> Section | None:
    columns = [
        Column("experiment"),
        Column("reward"),
        Column("accuracy", 0.5),
        Column("minus “longer wins”", 0.0),
        Column("score change by filler", 0.0),
        Column("ranked agreement", 0.5),
        Column("artifact"),
    ]
    rows: list[list[Cell]] = [
        [
            row.experiment,
            f"{row.label}{' (served)' if row.served else ''}",
            Estimate(row.pairs.accuracy, "percent") if row.pairs else None,
            Estimate(row.pairs.over_longer, "signed_percent") if row.pairs else None,
            Estimate(row.pairs.length_bias, "signed")
            if row.pairs and row.pairs.length_bias
            else None,
            Estimate(row.ranked, "percent") if row.ranked else None,
            row.digest[:SHOWN_DIGITS],
        ]
        for row in board.rewards
    ]
    intro = "Each on its own experiment's held-out data."
    return Section("Rewards", intro, [Table(columns, rows)]) if rows else None


def _p(row: PolicyRow) -> str:
    return "–" if row.adjusted_p is None else f"{row.adjusted_p:.3g}"
