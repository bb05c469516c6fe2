"""What the figures of a policy report mean: what to ship, why a reward fell, what is not known.

Every sentence is derived from measured numbers by a rule written here, and quotes them. A decline
is never left without the numbers that explain it.
"""

from __future__ import annotations

from math import ceil

from reward_harness.evaluation.policies import PolicyMeasures, ScorerFigures
from reward_harness.evaluation.report import NextStep, inline, shown
from reward_harness.evaluation.results import PolicyResults, Trace
from reward_harness.evaluation.statistics import Interval

FEW_STEPS = 50
SMALL_KL = 1.0
LARGE_KL = 20.0
"""Nats a sequence: below the first a policy has hardly moved, above the second it is far away."""
LESS_ENDED = 0.1
UNSCORED_LIMIT = 0.02
MAX_PROMPTS_ADVISED = 100_000


def policy_steps(results: PolicyResults) -> list[NextStep]:
    """The advice at the top of the page, most important first."""
    trained = [p for p in results.policies if p.name != results.reference]
    steps = [_which_to_ship(results, trained)]
    steps += [
        NextStep("stop", f"{name.upper()} is gated out and not compared.", f"Reward hacking: {why}")
        for name, why in results.gated_out.items()
    ]
    for policy in trained:
        steps += _about(results, policy)
    steps += [
        _unscored(results, p) for p in results.policies if _share_unscored(p) > UNSCORED_LIMIT
    ]
    return steps


def lead(results: PolicyResults) -> str:
    """The page's first sentence."""
    best = _best(results)
    reference = results.reference.upper()
    if best is None and (disputed := _disputed(results)):
        names = " and ".join(name.upper() for name in disputed)
        return (
            f"{names} raised the trained reward over {reference}, but another scorer disputes it."
        )
    if best is None:
        return f"No policy is measurably better than {reference} under the reward that is served."
    change = best.by_scorer[results.scorers[0].name].change
    assert change is not None
    return (
        f"{best.name.upper()} raises the mean reward over {results.reference.upper()} "
        f"by {inline(change, 'signed')} prompts."
    )


def explain(
    policy: PolicyMeasures, scorer: str, trace: Trace | None, reference: PolicyMeasures
) -> str:
    """What happened to a policy's reward and, unless it rose, why: from the numbers."""
    figures = policy.by_scorer[scorer]
    if figures.change is None:
        return f"{policy.name.upper()} could not be compared: too few responses have a score."
    numbers = f"{inline(figures.change, 'signed')} prompts"
    if figures.change.excludes(0.0) and figures.change.value > 0:
        return f"The mean reward rose: {numbers}, with {_moved(policy)}."
    causes = _causes(policy, trace, reference)
    if figures.change.excludes(0.0):
        return f"The mean reward fell: {numbers}. {_sentences(causes)}"
    causes.append(_prompts_needed(figures.change))
    return f"The mean reward's change, {numbers}, may be noise. {_sentences(causes)}"


def outcome(figures: ScorerFigures) -> str:
    """``rose``, ``fell`` or ``unclear``, by whether the paired interval excludes 0."""
    if figures.change is None or not figures.change.excludes(0.0):
        return "unclear"
    return "rose" if figures.change.value > 0 else "fell"


def _best(results: PolicyResults) -> PolicyMeasures | None:
    """The policy with the largest clear gain that no other scorer clearly disputes."""
    first, *others = [scorer.name for scorer in results.scorers]
    fine = [
        p
        for p in results.policies
        if outcome(p.by_scorer[first]) == "rose"
        and all(outcome(p.by_scorer[other]) != "fell" for other in others)
    ]
    return max(fine, key=lambda p: _change(p.by_scorer[first]), default=None)


def _disputed(results: PolicyResults) -> list[str]:
    first = results.scorers[0].name
    return [p.name for p in results.policies if outcome(p.by_scorer[first]) == "rose"]


def _which_to_ship(results: PolicyResults, trained: list[PolicyMeasures]) -> NextStep:
    best = _best(results)
    if best is None:
        text = f"Keep {results.reference.upper()}: no trained policy is measurably better."
        why = "Better means: paired interval above 0, and no other scorer's clearly below it."
        return NextStep("do" if trained else "unsure", text, why)
    figures = best.by_scorer[results.scorers[0].name]
    assert figures.change is not None and figures.win_rate is not None
    why = (
        f"Reward {inline(figures.change, 'signed')} prompts; win rate "
        f"{inline(figures.win_rate, 'percent')}; {_moved(best)}."
    )
    return NextStep("do", f"Ship {best.name.upper()}.", why)


def _about(results: PolicyResults, policy: PolicyMeasures) -> list[NextStep]:
    first, *others = [scorer.name for scorer in results.scorers]
    name, steps = policy.name.upper(), list[NextStep]()
    state = outcome(policy.by_scorer[first])
    if state != "rose":
        text = (
            f"{name} did not raise the reward." if state == "fell" else f"{name}: no clear change."
        )
        kind = "stop" if state == "fell" else "unsure"
        steps.append(NextStep(kind, text, results.explanations[policy.name]))
    for other in others:
        if state == "rose" and outcome(policy.by_scorer[other]) == "fell":
            change = policy.by_scorer[other].change
            assert change is not None
            text = f"Read {name}'s samples: it pleases the reward it was trained on, not {other}."
            steps.append(NextStep("warn", text, f"{other}: {inline(change, 'signed')} prompts."))
    if (change := policy.length_change) and change.excludes(0.0) and _grew(policy):
        text = f"{name} writes at another length: check that the reward does not pay for it."
        steps.append(
            NextStep("warn", text, f"Tokens a response: {inline(change, 'signed')} prompts.")
        )
    return steps


def _causes(policy: PolicyMeasures, trace: Trace | None, reference: PolicyMeasures) -> list[str]:
    found: list[str] = []
    kl = policy.kl_sequence.value if policy.kl_sequence else None
    if policy.name == "dpo":
        found.append("DPO learns from preference pairs and never saw this reward")
    if trace and trace.steps <= FEW_STEPS:
        found.append(f"training took only {trace.steps} step{'s' * (trace.steps != 1)}")
    if kl is not None and kl < SMALL_KL:
        found.append(f"the policy hardly left its reference ({kl:.2g} nats a response)")
    if kl is not None and kl > LARGE_KL:
        found.append(
            f"it went far from its reference ({kl:.3g} nats a response): raise the KL weight"
        )
    found += _trained_reward(policy, trace)
    change = policy.length_change
    if change and change.excludes(0.0):
        found.append(f"its responses changed by {shown(change.value, 'signed')} tokens in length")
    fewer = reference.ended_share.value - policy.ended_share.value
    if fewer > LESS_ENDED:
        found.append(f"{shown(fewer, 'percent')} more of its responses are cut off at the limit")
    return found


def _trained_reward(policy: PolicyMeasures, trace: Trace | None) -> list[str]:
    if policy.name == "dpo" or trace is None or trace.first is None or trace.last is None:
        return []
    course = f"its reward on training prompts went from {trace.first:.3g} to {trace.last:.3g}"
    if trace.last > trace.first:
        return [f"{course}, which does not show on held-out prompts"]
    return [f"{course}, so training itself did not find a higher reward"]


def _prompts_needed(change: Interval) -> str:
    """How many prompts would tell a change of this size from 0, all else equal."""
    half = (change.high - change.low) / 2
    if half == 0:
        return f"both policies wrote equally good responses on all {change.n} prompts"
    seen = f"with {change.n} prompts only a change beyond ±{shown(half, 'number')} would show"
    if abs(change.value) * MAX_PROMPTS_ADVISED**0.5 < half * change.n**0.5:
        return seen
    needed = ceil(change.n * (half / abs(change.value)) ** 2)
    return f"{seen}; one of this size needs about {needed:,} prompts"


def _moved(policy: PolicyMeasures) -> str:
    if policy.kl_sequence is None:
        return "an unknown distance from the reference"
    return f"a KL of {inline(policy.kl_sequence)} nats a response"


def _sentences(causes: list[str]) -> str:
    return " ".join(f"{cause[0].upper()}{cause[1:]}." for cause in causes)


def _grew(policy: PolicyMeasures) -> bool:
    change = policy.length_change
    return change is not None and abs(change.value) > 0.2 * (
        policy.length_tokens.value - change.value
    )


def _change(figures: ScorerFigures) -> float:
    return figures.change.value if figures.change else float("-inf")


def _share_unscored(policy: PolicyMeasures) -> float:
    return max(figures.unscored_share for figures in policy.by_scorer.values())


def _unscored(results: PolicyResults, policy: PolicyMeasures) -> NextStep:
    share = shown(_share_unscored(policy), "percent")
    text = f"{share} of {policy.name.upper()}'s responses have no score."
    return NextStep("warn", text, "They are left out of the comparison, which may flatter it.")
