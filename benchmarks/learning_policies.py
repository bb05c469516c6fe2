"""What GRPO, PPO and DPO change on held-out prompts, seed by seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.learning_jobs import SEEDS, pooled, rng, shown, trained
from reward_harness.data.files import read_records
from reward_harness.data.records import PreferencePair, RLPrompt, prompt_key
from reward_harness.evaluation.statistics import cluster_bootstrap_mean, paired_bootstrap_difference
from reward_harness.evaluation.study import over_seeds
from reward_harness.hashing import digest_json
from reward_harness.models.embedded import load_policy_folder
from reward_harness.models.folders import model_digest
from reward_harness.models.generation import Generated, generate, response_logprobs
from reward_harness.rewards.base import BaseRM, Scored, conversation_of
from reward_harness.rewards.load import load_rm
from reward_harness.spec import read_experiment
from reward_harness.stages.make import make
from reward_harness.store import ArtifactStore
from reward_harness.studies import expand, read_study
from reward_harness.training.summary import read_rows
from reward_harness.workspace import Workspace

WINDOW = 3
SAMPLING = SAMPLES, NEW_TOKENS, TEMPERATURE, BATCH = 8, 40, 0.7, 40
BEFORE_RL = ("preference_pairs", "rl_prompts", "sft_examples", "sft_checkpoint")
Keep = Callable[[str, dict[str, Any]], None]
Values = npt.NDArray[np.float64]


def measure_sums(workspace: Workspace, keep: Keep) -> None:
    """Share of right answers before and after GRPO and PPO, paired by held-out sum."""
    spec = read_experiment(workspace.experiments, "sums")
    made = {n: make(workspace, spec, n)[0] for n in (*BEFORE_RL, "rm_artifact", "rm_deployment")}
    test = read_records(made["rl_prompts"].file("test.jsonl"), RLPrompt)
    reward = load_rm(made["rm_artifact"].path)
    before, row = _answered(made["sft_checkpoint"].folder("model"), test, reward, workspace.cache)
    keep("start", row | {"sums": len(test), "samples": SAMPLES, "temperature": TEMPERATURE})
    gains: dict[str, list[Values]] = {"grpo": [], "ppo": []}
    runs = [trained(workspace, spec, f"{method}_checkpoint", SEEDS) for method in gains]
    for found in zip(*runs, strict=True):
        for method, (seed, model, seconds) in zip(gains, found, strict=True):
            after, row = _answered(model, test, reward, workspace.cache)
            gains[method].append(after - before)
            gain = paired_bootstrap_difference(after, before, rng(seed))
            keep(f"{method} seed {seed}", row | {"gain": shown(gain), "train_seconds": seconds})
    for method, found in gains.items():
        keep(method, {"gain": shown(pooled(found)), "seeds": len(found)})


def _answered(
    model: Path, prompts: Sequence[RLPrompt], reward: BaseRM, cache: Path
) -> tuple[Values, dict[str, Any]]:
    """Share of right samples of each prompt, and what to keep of them all; asked once a model."""
    asked = digest_json(
        [model_digest(model), reward.digest, [p.prompt_id for p in prompts], *SAMPLING]
    )
    known = cache / "learning" / f"answers-{asked[:16]}.json"
    if not known.is_file():
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(json.dumps(_sampled(model, prompts, reward)))
    shares, row = json.loads(known.read_text())
    return np.array(shares), row


def _sampled(
    model: Path, prompts: Sequence[RLPrompt], reward: BaseRM
) -> tuple[list[float], dict[str, Any]]:
    turns = [[m.model_dump() for m in p.prompt] for p in prompts for _ in range(SAMPLES)]
    policy, tokenizer = load_policy_folder(model, dtype="float32", device="cpu")
    found: list[Generated] = generate(
        policy,
        tokenizer,
        turns,
        max_new_tokens=NEW_TOKENS,
        temperature=TEMPERATURE,
        seed=0,
        batch_size=BATCH,
    )
    results = reward.score_batch_results(
        [conversation_of(chat, one.text) for chat, one in zip(turns, found, strict=True)]
    )
    right = np.array([r.value for r in results if isinstance(r, Scored)])
    shares = right.reshape(len(prompts), SAMPLES).mean(axis=1)
    return shares.tolist(), {
        "right": round(float(shares.mean()), 3),
        "tokens": round(float(np.mean([len(one.token_ids) for one in found])), 1),
        "ended": round(float(np.mean([one.ended for one in found])), 3),
    }


def measure_penalty(workspace: Workspace, keep: Keep) -> None:
    """KL that PPO has spent where it reaches one reward gain, by an ensemble's penalty.

    From the seeds of the study ``ensemble-penalty`` whose variants have all run. Gain and KL are
    means of ``WINDOW`` steps; a seed's level is the least of its runs' best gains, and has to be
    above 0.
    """
    runs: dict[int, dict[str, tuple[Values, Values]]] = {}
    store = ArtifactStore(workspace.runs)
    members = expand(read_study(workspace.studies, "ensemble-penalty"))
    variants = len({member.variant for member in members})
    for member in members:
        made = store.current(member.key, "ppo_checkpoint")
        if made is None:
            continue
        rows = read_rows(made.file("metrics.jsonl"))
        reward, kl = (_smooth([float(row[n]) for row in rows]) for n in ("reward_mean", "kl_k1"))
        runs.setdefault(member.seed, {})[member.variant] = (reward - reward[0], kl)
    spent: dict[str, list[float]] = {}
    for seed, found in runs.items():
        if len(found) < variants:
            continue
        level = min(float(gain.max()) for gain, _ in found.values())
        row: dict[str, Any] = {"level": round(level, 3)}
        if level > 0:
            at = {name: float(kl[np.argmax(gain >= level)]) for name, (gain, kl) in found.items()}
            row |= {name: round(kl, 3) for name, kl in at.items()}
            for name, kl in at.items():
                spent.setdefault(name, []).append(kl)
        keep(f"seed {seed}", row)
    if len(next(iter(spent.values()), [])) > 1:
        first, *others = spent
        for name in others:
            saved = np.array(spent[name]) - np.array(spent[first])
            keep(f"{name} minus {first}", {"kl": shown(over_seeds(saved.tolist()))})


def _smooth(values: Sequence[float]) -> Values:
    return np.convolve(values, np.full(WINDOW, 1 / WINDOW), mode="valid")


def measure_dpo(workspace: Workspace, keep: Keep) -> None:
    """Held-out pairs that the policy orders as their labels do, before and after DPO.

    ``preference``: by the log-probability ratio to the start, DPO's own reward; before training it
    is a tie everywhere, ½. ``likelihood``: by the mean log-probability of a response's tokens.
    """
    spec = read_experiment(workspace.experiments, "tour")
    changed = spec.policy.dpo and spec.policy.dpo.model_copy(
        update={"max_steps": 16, "learning_rate": 3e-4}
    )
    spec = spec.model_copy(update={"policy": spec.policy.model_copy(update={"dpo": changed})})
    made = {n: make(workspace, spec, n)[0] for n in (BEFORE_RL[0], *BEFORE_RL[2:])}
    pairs = read_records(made["preference_pairs"].file("test.jsonl"), PreferencePair)
    before = _likelihoods(made["sft_checkpoint"].folder("model"), pairs)
    start = _ordered(pairs, {key: mean for key, (_, mean) in before.items()})
    clusters = [prompt_key(pair.prompt) for pair in pairs]
    keep("start", {"pairs": len(pairs), "prompts": len(set(clusters)), "right": _mean(start)})
    gains: list[Values] = []
    preferred: list[Values] = []
    for seed, model, seconds in trained(workspace, spec, "dpo_checkpoint", SEEDS):
        after = _likelihoods(model, pairs)
        likelihood = _ordered(pairs, {key: mean for key, (_, mean) in after.items()})
        ratio = {key: total - before[key][0] for key, (total, _) in after.items()}
        preference = _ordered(pairs, ratio)
        gains.append(_by_cluster(likelihood - start, clusters))
        preferred.append(_by_cluster(preference, clusters))
        row = {
            "preference": shown(cluster_bootstrap_mean(preference, clusters, rng(seed))),
            "likelihood_gain": shown(
                cluster_bootstrap_mean(likelihood - start, clusters, rng(seed))
            ),
            "train_seconds": seconds,
        }
        keep(f"seed {seed}", row)
    found = {"preference": shown(pooled(preferred)), "likelihood_gain": shown(pooled(gains))}
    keep("dpo", found | {"seeds": len(gains)})


def _likelihoods(
    model: Path, pairs: Sequence[PreferencePair]
) -> dict[tuple[str, str], tuple[float, float]]:
    """Sum and mean of the log-probabilities of each different response, by prompt and text."""
    told = {
        (prompt_key(pair.prompt), text): [m.model_dump() for m in pair.prompt]
        for pair in pairs
        for text in (pair.chosen, pair.rejected)
    }
    policy, tokenizer = load_policy_folder(model, dtype="float32", device="cpu")
    rows = response_logprobs(policy, tokenizer, list(told.values()), [text for _, text in told])
    return {
        key: (float(row.double().sum()), float(row.double().mean()))
        for key, row in zip(told, rows, strict=True)
    }


def _ordered(pairs: Sequence[PreferencePair], value: dict[tuple[str, str], float]) -> Values:
    """1 where the chosen side of a pair has more, ½ for a tie."""
    margins = [
        value[prompt_key(p.prompt), p.chosen] - value[prompt_key(p.prompt), p.rejected]
        for p in pairs
    ]
    return (np.sign(np.array(margins)) + 1) / 2


def _by_cluster(values: Values, clusters: Sequence[str]) -> Values:
    """The mean of each prompt's pairs."""
    groups: dict[str, list[float]] = {}
    for name, value in zip(clusters, values, strict=True):
        groups.setdefault(name, []).append(float(value))
    return np.array([sum(found) / len(found) for found in groups.values()])


def _mean(values: Values) -> float:
    return round(float(values.mean()), 3)
