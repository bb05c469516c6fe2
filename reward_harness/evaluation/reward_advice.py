"""What the figures of a reward report mean for its reader: which reward to use, what fools it.

Every sentence is derived from measured numbers by a rule written here, and quotes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from reward_harness.evaluation.report import NextStep, inline, shown
from reward_harness.evaluation.results import RewardResults, Trace
from reward_harness.evaluation.reward_models import Agreement, PairMeasures, RewardMeasures
from reward_harness.evaluation.statistics import Interval

LENGTH_BIAS_LIMIT = 0.1
"""Standard deviations that filler may add: the default of the length-padding gate."""
UNSCORED_LIMIT = 0.02
LOW_ACCURACY = 0.60
UNDERFIT_LOSS = 0.9 * log(2)
OVERFIT_LOSS = 0.35
ECE_GAIN = 0.02


def reward_steps(results: RewardResults) -> list[NextStep]:
    """The advice at the top of the page, most important first."""
    measured = [(r, r.pairs) for r in results.rewards if r.pairs is not None]
    steps = _which_is_best(results, measured)
    for name, gate in results.gates.items():
        if not gate.passed:
            why = gate.detail or f"value {gate.value}, threshold {gate.threshold}"
            refused = "it is refused" if gate.enforced else "recorded, but not enforced here"
            text = f"The served artifact failed its gate “{name}”: {refused}."
            steps.append(NextStep("stop" if gate.enforced else "warn", text, why))
    for reward, pairs in measured:
        steps += _weaknesses(reward, pairs)
        if pairs.accuracy.value < LOW_ACCURACY:
            steps.append(_why_low(results, reward, pairs))
    steps += [_disagreement(a) for a in results.agreements if a.same_side.value < 0.6]
    return steps or [NextStep("unsure", "No held-out preference data: nothing could be measured.")]


def best_reward(results: RewardResults) -> RewardMeasures | None:
    """The reward with the highest held-out accuracy on pairs."""
    measured = [r for r in results.rewards if r.pairs is not None]
    return max(measured, key=lambda r: r.pairs.accuracy.value if r.pairs else 0.0, default=None)


def lead(results: RewardResults) -> str:
    """The page's first sentence."""
    best = best_reward(results)
    if best is None or best.pairs is None:
        return "No held-out preference pairs were scored, so no reward could be compared."
    accuracy = inline(best.pairs.accuracy, "percent")
    beats = _beaten(best.pairs)
    missed = _not_beaten(best.pairs)
    if not missed:
        return f"{best.label} orders held-out pairs best: {accuracy}, clearly above {_and(beats)}."
    clearly = f" It is above {_and(beats)}, but" if beats else " It is"
    return (
        f"{best.label} orders held-out pairs best: {accuracy} prompts.{clearly} "
        f"not clearly above {_and(missed, 'or')}."
    )


def _which_is_best(
    results: RewardResults, measured: Sequence[tuple[RewardMeasures, PairMeasures]]
) -> list[NextStep]:
    best = best_reward(results)
    if best is None or best.pairs is None:
        return []
    missed = _not_beaten(best.pairs)
    numbers = f"Accuracy {inline(best.pairs.accuracy, 'percent')} prompts."
    if missed:
        text = f"Do not train on {best.label} yet: it is not clearly above {_and(missed, 'or')}."
        return [NextStep("stop", text, numbers), *_rivals(results, best)]
    text = f"Use {best.label}: it beats chance, longer-wins and shorter-wins on held-out pairs."
    steps = [NextStep("do", text, numbers), *_rivals(results, best)]
    if best.name != results.served:
        served = next(r.label for r in results.rewards if r.name == results.served)
        text = f"The experiment serves {served}; consider “reward_model.serve: {best.name}”."
        steps.insert(1, NextStep("do", text))
    return steps


def _rivals(results: RewardResults, best: RewardMeasures) -> list[NextStep]:
    """Say where the best is not told apart from another reward."""
    steps: list[NextStep] = []
    for a in results.agreements:
        if best.name in (a.first, a.second) and not a.accuracy_difference.excludes(0.0):
            other = a.second if a.first == best.name else a.first
            numbers = inline(a.accuracy_difference, "signed_percent")
            text = f"Whether {best.name} is really better than {other} is not known yet."
            why = f"Accuracy of {a.first} minus {a.second} on the same pairs: {numbers} prompts."
            steps.append(NextStep("unsure", text, why))
    return steps


def _not_beaten(pairs: PairMeasures) -> list[str]:
    return [name for name, above in _comparisons(pairs) if not above]


def _beaten(pairs: PairMeasures) -> list[str]:
    return [name for name, above in _comparisons(pairs) if above]


def _comparisons(pairs: PairMeasures) -> list[tuple[str, bool]]:
    return [
        ("chance", pairs.accuracy.n > 1 and pairs.accuracy.low > 0.5),
        ("“longer wins”", pairs.over_longer.low > 0),
        ("“shorter wins”", pairs.over_shorter.low > 0),
    ]


def _weaknesses(reward: RewardMeasures, pairs: PairMeasures) -> list[NextStep]:
    found = [
        _length_step(reward.label, pairs.length_bias),
        _unscored_step(reward.label, pairs.unscored_share),
        _subset_step(reward.label, pairs),
        _temperature_step(reward.label, pairs),
    ]
    return [step for step in found if step is not None]


def _length_step(label: str, bias: Interval | None) -> NextStep | None:
    if bias is None or bias.low <= LENGTH_BIAS_LIMIT:
        return None
    text = f"{label} is fooled by length: filler alone raises its score."
    why = f"Mean rise {inline(bias, 'signed')} prompts, in standard deviations of its own scores."
    return NextStep("warn", text, why)


def _unscored_step(label: str, share: float) -> NextStep | None:
    if share <= UNSCORED_LIMIT:
        return None
    text = f"{label} gave no score for {shown(share, 'percent')} of the pairs."
    return NextStep("warn", text, "They are left out of its figures, which may flatter it.")


def _subset_step(label: str, pairs: PairMeasures) -> NextStep | None:
    weak = [(s, i) for s, i in pairs.by_source.items() if i.n > 1 and i.high < pairs.accuracy.value]
    if not weak:
        return None
    source, interval = min(weak, key=lambda item: item[1].value)
    text = f"{label} is weakest on pairs from “{source}”: add or clean such pairs."
    return NextStep("warn", text, f"Accuracy there {inline(interval, 'percent')} prompts.")


def _temperature_step(label: str, pairs: PairMeasures) -> NextStep | None:
    found = pairs.calibration
    if (
        found.ece_scaled is None
        or pairs.accuracy.low <= 0.5
        or found.ece - found.ece_scaled < ECE_GAIN
    ):
        return None
    text = f"Divide margins of {label} by {found.temperature:.3g} before reading them as odds."
    why = (
        f"Calibration error falls from {found.ece:.3f} to {found.ece_scaled:.3f} "
        f"(temperature fitted on {found.temperature_n} validation pairs)."
    )
    return NextStep("do", text, why)


def _why_low(results: RewardResults, reward: RewardMeasures, pairs: PairMeasures) -> NextStep:
    """Why accuracy is under 60 %, from the training trace and the interval."""
    reasons: list[str] = []
    if pairs.accuracy.high >= LOW_ACCURACY:
        reasons.append(f"the sample is small ({inline(pairs.accuracy, 'percent')} prompts)")
    if reward.name == "classifier" and results.classifier_training:
        reasons += _training_reasons(results.classifier_training)
    elif reward.name == "rubric":
        reasons.append("a rubric reads stated criteria, not these annotators' preferences")
    best_rule = max(_baselines(results), default=0.5)
    reasons.append(f"the best length rule reaches {shown(best_rule, 'percent')} on the same pairs")
    text = f"{reward.label} stays under {shown(LOW_ACCURACY, 'percent')} accuracy."
    return NextStep("warn", text, f"What the numbers say: {_and(reasons)}.")


def _training_reasons(trace: Trace) -> list[str]:
    if trace.last is None or trace.first is None:
        return [f"it was trained for {trace.steps} steps"]
    course = f"over {trace.steps} steps its training loss went {trace.first:.3f} → {trace.last:.3f}"
    if trace.steps == 1:
        course = f"its training loss is {trace.last:.3f}"
    if trace.last > UNDERFIT_LOSS:
        return [f"{course} (ln 2 = 0.693 is guessing): it is undertrained"]
    if trace.last < OVERFIT_LOSS:
        return [f"{course}: it fits the training pairs and does not carry over"]
    return [course]


def _baselines(results: RewardResults) -> list[float]:
    rules = results.baselines
    return [rules.longer_wins.value, rules.shorter_wins.value] if rules else []


def _disagreement(a: Agreement) -> NextStep:
    text = f"{a.first} and {a.second} often prefer different sides: read pairs where they differ."
    return NextStep("warn", text, f"Same side {inline(a.same_side, 'percent')} prompts.")


def _and(parts: Sequence[str], word: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"
