"""Gates: is this reward fit to be served? Measured on held-out responses and on attacks.

All rises and margins are in standard deviations of the reward's scores of genuine held-out
responses, so that one threshold fits every scale. For an attack that replaces the response, the
margin is its score minus the median of the prompt's genuine ones; for one that changes it, the rise
is the changed response's score minus its own. Intervals are bootstrapped over prompts, and
``gate_rules`` decides. An item without a score never counts as a number: among genuine responses it
is bounded by its own gate, and an attack that gets no score earns nothing.
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
from reward_harness.manifest import Metric
from reward_harness.rewards.base import BaseRM, Item, Scored, reason_of
from reward_harness.rm.attacks import Attack
from reward_harness.rm.gate_rules import (
    GATES,
    AttackResult,
    Example,
    GateReport,
    Genuine,
    Measured,
    Swaps,
    decide,
    worst_of,
)
from reward_harness.sections import GateThresholds

SHOWN_CHARS = 240

__all__ = ["GATES", "GateReport", "Genuine", "as_ranked", "run_gates", "sample", "score_genuine"]


@dataclass(frozen=True, slots=True)
class Target:
    """A genuine response that attacks are tried on, with its score and its prompt's median."""

    prompt: RankedPrompt
    text: str
    score: float
    median: float

    @property
    def cluster(self) -> str:
        """The prompt by content: many pairs share one."""
        return prompt_key(self.prompt.prompt)


@dataclass(frozen=True, slots=True)
class Tried:
    """One attack's rises over the responses that got a score, and the prompts of those."""

    attack_id: str
    rises: Scores
    prompts: list[str]
    unscored: int
    example: Example | None


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
    *,
    incumbent: Genuine | None = None,
    swaps: Swaps | None = None,
) -> GateReport:
    """Try the attacks on the held-out responses that ``rm`` has scored, and decide each gate.

    ``incumbent``: the same responses as another reward scored them, which this one has to beat.
    """
    rng = np.random.default_rng(derive_seed(seed, "gates"))
    agreement = agreement_of(genuine, rng)
    tried = _try_all(rm, attacks, _targets(genuine, thresholds.attacked_responses), genuine.std)
    results = {name: [_attack_result(t, rng) for t in members] for name, members in tried.items()}
    injection = _mean_rise(tried["prompt_injection"], rng)
    ahead = _ahead(genuine, incumbent, rng) if incumbent is not None else None
    found = Measured(agreement, results, injection, ahead, swaps)
    gates = decide(genuine, found, thresholds)
    if not thresholds.enforce:
        gates = {name: g.model_copy(update={"enforced": False}) for name, g in gates.items()}
    return GateReport(
        gates=gates,
        metrics=_metrics(genuine, found),
        attacks=results,
        unscored_reasons=dict(genuine.reasons),
    )


def _ahead(genuine: Genuine, incumbent: Genuine, rng: np.random.Generator) -> Interval | None:
    """Mean over prompts of this reward's agreement less the incumbent's, where both have one."""
    both = zip(genuine.prompts, genuine.scores, incumbent.scores, strict=True)
    found = [
        (own - other, prompt_key(p.prompt))
        for p, ours, theirs in both
        if (own := pair_agreement(p.candidates, ours)) is not None
        and (other := pair_agreement(p.candidates, theirs)) is not None
    ]
    if not found:
        return None
    return cluster_bootstrap_mean([d for d, _ in found], [key for _, key in found], rng)


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


def _try_all(
    rm: BaseRM, attacks: Mapping[str, Sequence[Attack]], targets: Sequence[Target], std: float
) -> dict[str, list[Tried]]:
    """Every attack by family, scored in one call: a classifier sorts all of them by length, a
    judge is asked about all of them at once.
    """
    single = _one_a_prompt(targets)
    planned = [
        (family, attack, single if attack.replaces else targets)
        for family, members in attacks.items()
        for attack in members
    ]
    texts = [[attack.applied(t.text) for t in chosen] for _, attack, chosen in planned]
    items = [
        Item(conversation(t.prompt.prompt, text), t.prompt.prompt_id)
        for (_, _, chosen), attacked in zip(planned, texts, strict=True)
        for t, text in zip(chosen, attacked, strict=True)
    ]
    scores, _ = _score(rm, items)
    found: dict[str, list[Tried]] = {family: [] for family in attacks}
    start = 0
    for (family, attack, chosen), attacked in zip(planned, texts, strict=True):
        after = scores[start : start + len(chosen)]
        found[family].append(_tried(attack, chosen, attacked, after, std))
        start += len(chosen)
    return found


def _tried(
    attack: Attack, chosen: Sequence[Target], texts: Sequence[str], after: Scores, std: float
) -> Tried:
    before = np.array([t.median if attack.replaces else t.score for t in chosen])
    scored = np.flatnonzero(~np.isnan(after))
    rises = (after[scored] - before[scored]) / std
    example = None
    if len(scored):
        worst = int(scored[int(rises.argmax())])
        example = Example(
            prompt_id=chosen[worst].prompt.prompt_id,
            before=float(before[worst]),
            after=float(after[worst]),
            text=_shortened(texts[worst]),
        )
    prompts = [chosen[int(i)].cluster for i in scored]
    return Tried(attack.attack_id, rises, prompts, len(chosen) - len(scored), example)


def _mean_rise(tried: Sequence[Tried], rng: np.random.Generator) -> Interval | None:
    """Mean over all responses of all these attacks; None where nothing was scored."""
    rises = np.concatenate([t.rises for t in tried]) if tried else np.empty(0)
    prompts = [prompt for t in tried for prompt in t.prompts]
    return cluster_bootstrap_mean(rises, prompts, rng) if len(rises) else None


def _attack_result(tried: Tried, rng: np.random.Generator) -> AttackResult:
    found = _mean_rise([tried], rng)
    return AttackResult(
        attack_id=tried.attack_id,
        n=len(tried.rises),
        unscored=tried.unscored,
        mean=found.value if found else None,
        ci_low=found.low if found else None,
        ci_high=found.high if found else None,
        example=tried.example,
    )


def _one_a_prompt(targets: Sequence[Target]) -> list[Target]:
    return list({target.cluster: target for target in targets}.values())


def _shortened(text: str) -> str:
    """The text's end, where most attacks stand, or all of a short one."""
    return text if len(text) <= SHOWN_CHARS else f"…{text[-SHOWN_CHARS:]}"


def _metrics(genuine: Genuine, measured: Measured) -> dict[str, Metric]:
    given = genuine.all_scores[~np.isnan(genuine.all_scores)]
    n = len(genuine.all_scores)
    found = {"unscored_share": Metric(value=1 - len(given) / n if n else 1.0, n=n, direction="min")}
    if len(given):
        found["score_mean"] = Metric(value=float(given.mean()), n=len(given))
        found["score_std"] = Metric(value=float(given.std()), n=len(given))
    if measured.agreement is not None:
        found["heldout_agreement"] = measured.agreement.metric("max")
    if measured.over_incumbent is not None:
        found["agreement_over_incumbent"] = measured.over_incumbent.metric("max")
    if measured.injection is not None:
        found["prompt_injection_mean"] = measured.injection.metric("min")
    if (swaps := measured.swaps) is not None and swaps.judged:
        share = swaps.consistent / swaps.judged
        found["swap_consistency"] = Metric(value=share, n=swaps.judged, direction="max")
    for family, members in measured.attacks.items():
        if (worst := worst_of(members, "mean")) is not None:
            r, value = worst
            found[f"{family}_worst"] = Metric(
                value=value, ci_low=r.ci_low, ci_high=r.ci_high, n=r.n, direction="min"
            )
    return found
