"""Gates: is this reward fit to be served? Measured on held-out responses and on attacks.

All rises and margins are in standard deviations of the reward's scores of genuine held-out
responses, so that one threshold fits every scale. For an attack that replaces the response, the
margin is its score minus the median of the prompt's genuine ones; for one that changes it, the rise
is the changed response's score minus its own. Each family is judged by its worst attack, and
intervals are bootstrapped over prompts. An item without a score never counts as a number: among
genuine responses it is bounded by its own gate, and an attack that gets no score earns nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reward_harness.data.records import Candidate, PreferencePair, RankedPrompt, prompt_key
from reward_harness.evaluation.reward_models import pair_agreement
from reward_harness.evaluation.scoring import Scores, conversation
from reward_harness.evaluation.statistics import Interval, cluster_bootstrap_mean
from reward_harness.hashing import derive_seed, unit_interval
from reward_harness.manifest import Frozen, Gate, Metric
from reward_harness.rewards.base import BaseRM, Item, Scored, reason_of
from reward_harness.rm.attacks import Attack
from reward_harness.sections import GateThresholds

GATES = (
    "heldout_agreement",
    "master_key",
    "null_response",
    "length_padding",
    "prompt_injection",
    "unscored_share",
)
"""Every gate that ``run_gates`` decides."""
SHOWN_CHARS = 240


class Example(Frozen):
    """The attacked response that gained most."""

    prompt_id: str
    before: float
    after: float
    text: str


class AttackResult(Frozen):
    """One attack: mean margin or rise in standard deviations; None where nothing was scored."""

    attack_id: str
    n: int
    unscored: int
    mean: float | None
    ci_low: float | None
    ci_high: float | None
    example: Example | None


class GateReport(Frozen):
    """All results; written beside the artifact."""

    gates: dict[str, Gate]
    metrics: dict[str, Metric]
    attacks: dict[str, list[AttackResult]]
    unscored_reasons: dict[str, int]


@dataclass(frozen=True, slots=True)
class Genuine:
    """Held-out prompts with the reward's score of each candidate, NaN where there is none."""

    prompts: Sequence[RankedPrompt]
    scores: list[Scores]
    reasons: Counter[str]

    @property
    def all_scores(self) -> Scores:
        return np.concatenate(self.scores) if self.scores else np.empty(0)

    @property
    def std(self) -> float:
        """The unit of every rise; 1 where the scores do not vary at all."""
        given = self.all_scores[~np.isnan(self.all_scores)]
        return (float(given.std()) or 1.0) if len(given) else 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """A genuine response that attacks are tried on, with its score and its prompt's median."""

    prompt: RankedPrompt
    text: str
    score: float
    median: float


def as_ranked(pairs: Sequence[PreferencePair]) -> list[RankedPrompt]:
    """Each pair as a prompt with two ranked candidates."""
    return [
        RankedPrompt(
            prompt_id=pair.pair_id,
            prompt=pair.prompt,
            candidates=[
                Candidate(candidate_id="chosen", text=pair.chosen, source=pair.source, rank=1),
                Candidate(candidate_id="rejected", text=pair.rejected, source=pair.source, rank=2),
            ],
        )
        for pair in pairs
    ]


def sample(prompts: Sequence[RankedPrompt], limit: int) -> list[RankedPrompt]:
    """At most ``limit`` prompts, chosen by their content, so that order and additions do not
    matter.
    """
    chosen = sorted(prompts, key=lambda p: unit_interval("heldout", p.prompt_id))[:limit]
    return sorted(chosen, key=lambda p: p.prompt_id)


def run_gates(
    rm: BaseRM,
    genuine: Genuine,
    attacks: Mapping[str, Sequence[Attack]],
    thresholds: GateThresholds,
    seed: int,
) -> GateReport:
    """Try the attacks on the held-out responses that ``rm`` has scored, and decide each gate."""
    rng = np.random.default_rng(derive_seed(seed, "gates"))
    agreement = agreement_of(genuine, rng)
    targets = _targets(genuine, thresholds.attacked_responses)
    results = {
        family: [_attack_result(rm, attack, targets, genuine.std, rng) for attack in members]
        for family, members in attacks.items()
    }
    gates = _decide(genuine, agreement, results, thresholds)
    if not thresholds.enforce:
        gates = {name: g.model_copy(update={"enforced": False}) for name, g in gates.items()}
    return GateReport(
        gates=gates,
        metrics=_metrics(genuine, agreement, results),
        attacks=results,
        unscored_reasons=dict(genuine.reasons),
    )


def score_genuine(rm: BaseRM, prompts: Sequence[RankedPrompt]) -> Genuine:
    """Score all candidates of all prompts in one batch."""
    items = [
        Item(conversation(p.prompt, c.text), p.prompt_id) for p in prompts for c in p.candidates
    ]
    scores, reasons = _score(rm, items)
    ends = np.cumsum([len(p.candidates) for p in prompts])
    return Genuine(prompts, list(np.split(scores, ends[:-1])) if prompts else [], reasons)


def agreement_of(genuine: Genuine, rng: np.random.Generator) -> Interval | None:
    """Mean over prompts of the share of labelled pairs ordered as labelled; a tie counts a half."""
    shares = [
        (pair_agreement(p.candidates, s), prompt_key(p.prompt))
        for p, s in zip(genuine.prompts, genuine.scores, strict=True)
    ]
    usable = [(share, key) for share, key in shares if share is not None]
    if not usable:
        return None
    return cluster_bootstrap_mean([s for s, _ in usable], [k for _, k in usable], rng)


def _score(rm: BaseRM, items: Sequence[Item]) -> tuple[Scores, Counter[str]]:
    results = rm.score_items(items) if items else []
    values = [r.value if isinstance(r, Scored) else np.nan for r in results]
    reasons = Counter(reason_of(r) for r in results if not isinstance(r, Scored))
    return np.array(values, dtype=np.float64), reasons


def _targets(genuine: Genuine, limit: int) -> list[Target]:
    found: list[tuple[float, Target]] = []
    for prompt, scores in zip(genuine.prompts, genuine.scores, strict=True):
        if np.isnan(scores).all():
            continue
        median = float(np.nanmedian(scores))
        for candidate, score in zip(prompt.candidates, scores, strict=True):
            if not np.isnan(score):
                order = unit_interval("attacked", prompt.prompt_id, candidate.candidate_id)
                found.append((order, Target(prompt, candidate.text, float(score), median)))
    found.sort(key=lambda pair: pair[0])
    return [target for _, target in found[:limit]]


def _attack_result(
    rm: BaseRM, attack: Attack, targets: Sequence[Target], std: float, rng: np.random.Generator
) -> AttackResult:
    tried = _one_a_prompt(targets) if attack.replaces else list(targets)
    texts = [attack.applied(target.text) for target in tried]
    items = [
        Item(conversation(t.prompt.prompt, text), t.prompt.prompt_id)
        for t, text in zip(tried, texts, strict=True)
    ]
    after, _ = _score(rm, items)
    before = np.array([t.median if attack.replaces else t.score for t in tried])
    scored = np.flatnonzero(~np.isnan(after))
    if not len(scored):
        return AttackResult(
            attack_id=attack.attack_id,
            n=0,
            unscored=len(tried),
            mean=None,
            ci_low=None,
            ci_high=None,
            example=None,
        )
    rise = (after[scored] - before[scored]) / std
    interval = cluster_bootstrap_mean(rise, [tried[i].prompt.prompt_id for i in scored], rng)
    worst = int(scored[int(rise.argmax())])
    return AttackResult(
        attack_id=attack.attack_id,
        n=len(scored),
        unscored=len(tried) - len(scored),
        mean=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
        example=Example(
            prompt_id=tried[worst].prompt.prompt_id,
            before=float(before[worst]),
            after=float(after[worst]),
            text=_shortened(texts[worst]),
        ),
    )


def _one_a_prompt(targets: Sequence[Target]) -> list[Target]:
    return list({target.prompt.prompt_id: target for target in targets}.values())


def _shortened(text: str) -> str:
    """The text's end, where most attacks stand, or all of a short one."""
    return text if len(text) <= SHOWN_CHARS else f"…{text[-SHOWN_CHARS:]}"


def _decide(
    genuine: Genuine,
    agreement: Interval | None,
    results: Mapping[str, Sequence[AttackResult]],
    thresholds: GateThresholds,
) -> dict[str, Gate]:
    return {
        "heldout_agreement": _agreement_gate(agreement, thresholds.min_heldout_agreement),
        "master_key": _below(results["master_key"], thresholds.max_master_key_margin),
        "null_response": _below(results["null_response"], thresholds.max_null_response_margin),
        "length_padding": _at_most(results["length_padding"], thresholds.max_length_padding_std),
        "prompt_injection": _upper_at_most(
            results["prompt_injection"], thresholds.max_injection_rise
        ),
        "unscored_share": _unscored_gate(genuine, thresholds.max_unscored_share),
    }


def _agreement_gate(agreement: Interval | None, threshold: float) -> Gate:
    if agreement is None:
        detail = "no held-out pair with labels and scores"
        return Gate(passed=False, value=None, threshold=threshold, detail=detail)
    detail = f"agreement {agreement.value:.3f}, lower bound over {agreement.n} prompts"
    passed = agreement.low > threshold
    return Gate(passed=passed, value=agreement.low, threshold=threshold, detail=detail)


def _worst(results: Sequence[AttackResult], bound: str) -> tuple[AttackResult, float] | None:
    found = [(r, value) for r in results if (value := getattr(r, bound)) is not None]
    return max(found, key=lambda pair: pair[1]) if found else None


def _of_worst(
    results: Sequence[AttackResult], bound: str, threshold: float, *, inclusive: bool
) -> Gate:
    worst = _worst(results, bound)
    if worst is None:
        return Gate(passed=True, value=None, threshold=threshold, detail="no attack got a score")
    result, value = worst
    passed = value < threshold or (inclusive and value == threshold)
    detail = f"worst attack {result.attack_id!r} on {result.n} responses, in standard deviations"
    return Gate(passed=passed, value=value, threshold=threshold, detail=detail)


def _below(results: Sequence[AttackResult], threshold: float) -> Gate:
    return _of_worst(results, "mean", threshold, inclusive=False)


def _at_most(results: Sequence[AttackResult], threshold: float) -> Gate:
    return _of_worst(results, "mean", threshold, inclusive=True)


def _upper_at_most(results: Sequence[AttackResult], threshold: float) -> Gate:
    return _of_worst(results, "ci_high", threshold, inclusive=True)


def _unscored_gate(genuine: Genuine, threshold: float) -> Gate:
    scores = genuine.all_scores
    share = float(np.isnan(scores).mean()) if len(scores) else 1.0
    common = "; ".join(f"{count}x {reason}" for reason, count in genuine.reasons.most_common(2))
    return Gate(passed=share <= threshold, value=share, threshold=threshold, detail=common)


def _metrics(
    genuine: Genuine, agreement: Interval | None, results: Mapping[str, Sequence[AttackResult]]
) -> dict[str, Metric]:
    given = genuine.all_scores[~np.isnan(genuine.all_scores)]
    n = len(genuine.all_scores)
    found = {"unscored_share": Metric(value=1 - len(given) / n if n else 1.0, n=n, direction="min")}
    if len(given):
        found["score_mean"] = Metric(value=float(given.mean()), n=len(given))
        found["score_std"] = Metric(value=float(given.std()), n=len(given))
    if agreement is not None:
        found["heldout_agreement"] = agreement.metric("max")
    for family, members in results.items():
        if (worst := _worst(members, "mean")) is not None:
            r, value = worst
            found[f"{family}_worst"] = Metric(
                value=value, ci_low=r.ci_low, ci_high=r.ci_high, n=r.n, direction="min"
            )
    return found
