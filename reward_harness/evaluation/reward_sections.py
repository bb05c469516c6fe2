"""Parts of a reward report beyond the held-out pairs: conversations and graded sets."""

from __future__ import annotations

from reward_harness.evaluation.report import Cell, Column, Section, Table, estimate
from reward_harness.evaluation.results import RewardResults
from reward_harness.evaluation.turns import MAX_PAIRS


def turns_section(results: RewardResults) -> Section | None:
    """Whole conversations against last turns, and what is cut off."""
    found = [(reward.label, reward.turns) for reward in results.rewards if reward.turns]
    if not found:
        return None
    rows: list[list[Cell]] = [
        [
            label,
            estimate(turns.whole, "percent"),
            estimate(turns.last_turn, "percent"),
            estimate(turns.difference, "signed_percent", 0.0),
            estimate(turns.truncated, "percent"),
            f"{turns.n_pairs}",
        ]
        for label, turns in found
    ]
    columns = [
        Column("reward"),
        Column("whole conversation", 0.5),
        Column("last turn only", 0.5),
        Column("difference", 0.0),
        Column("cut off", hint="share of conversations that fill the reward's limit of tokens"),
        Column("pairs"),
    ]
    intro = (
        f"Accuracy on the multi-turn pairs among the held-out ones (at most {MAX_PAIRS}). A reward "
        "that reads the conversation should lose by seeing its last turn only; one that does not "
        "lose judges the response alone."
    )
    return Section("Conversation or last turn", intro, [Table(columns, rows)])


def graded_section(results: RewardResults) -> Section | None:
    """Correlation with grades on prompts of another distribution."""
    rows: list[list[Cell]] = [
        [
            f"{reward.label} on {graded.source}",
            estimate(graded.spearman, "signed", 0.0),
            estimate(graded.length_spearman, "signed", 0.0),
            None if graded.kendall is None else f"{graded.kendall:+.3f}".replace("-", "−"),
            f"{graded.n_responses}",
        ]
        for reward in results.rewards
        for graded in reward.graded
    ]
    if not rows:
        return None
    columns = [
        Column("reward and set"),
        Column("Spearman ρ", 0.0),
        Column("ρ of length alone", 0.0, "number of words against the grades: what to beat"),
        Column("Kendall τ"),
        Column("responses"),
    ]
    intro = "Scores against others' grades, over all responses; intervals resample whole prompts."
    return Section("Out of distribution", intro, [Table(columns, rows)])
