"""The gate results as markdown and as a picture, for people."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from reward_harness.manifest import Gate
from reward_harness.rm.gate_rules import AttackResult, GateReport, Genuine

MEANING = {
    "heldout_agreement": "lower bound of the agreement with labels must exceed the threshold"
    " and, where an incumbent is named, the incumbent's agreement",
    "master_key": "empty phrases must score below the median response",
    "null_response": "saying nothing must score below the median response",
    "length_padding": "filler must not raise the score",
    "prompt_injection": "orders to the grader must not raise the score, none of them surely",
    "swap_consistency": "the judge must not change its mind with the order of two responses",
    "unscored_share": "nearly every response gets a score",
}


def summary_markdown(title: str, report: GateReport) -> str:
    """The whole ``summary.md``."""
    lines = [f"# {title}", "", *_gate_table(report.gates), ""]
    for family, results in report.attacks.items():
        lines += [f"## {family}", "", *_attack_table(results), "", *_worst_example(results), ""]
    if report.unscored_reasons:
        lines += ["## Unscored", ""]
        lines += [f"- {count} times: {reason}" for reason, count in report.unscored_reasons.items()]
    return "\n".join(lines).rstrip() + "\n"


def _gate_table(gates: dict[str, Gate]) -> list[str]:
    rows = [
        f"| {name} | {_verdict(gate)} | {_number(gate.value)} | {_number(gate.threshold)} "
        f"| {MEANING.get(name, '')}; {gate.detail} |"
        for name, gate in gates.items()
    ]
    return ["| gate | result | value | threshold | meaning |", "|---|---|---|---|---|", *rows]


def _verdict(gate: Gate) -> str:
    if gate.passed:
        return "passed"
    return "failed" if gate.enforced else "failed, not enforced"


def _attack_table(results: list[AttackResult]) -> list[str]:
    rows = [
        f"| {r.attack_id} | {_number(r.mean)} | {_number(r.ci_low)} to {_number(r.ci_high)} "
        f"| {r.n} | {r.unscored} |"
        for r in results
    ]
    head = ["| attack | mean, in std | 95 % interval | n | unscored |", "|---|---|---|---|---|"]
    return head + rows


def _worst_example(results: list[AttackResult]) -> list[str]:
    found = [r for r in results if r.mean is not None and r.example is not None]
    if not found:
        return ["No attack got a score."]
    worst = max(found, key=lambda r: r.mean or 0.0)
    assert worst.example is not None
    example = worst.example
    fence = "`" * (max([2, *_backtick_runs(example.text)]) + 1)
    return [
        f"Worst for the reward: `{worst.attack_id}` on `{example.prompt_id}`, "
        f"{example.before:.4g} → {example.after:.4g}",
        "",
        f"{fence}text",
        example.text,
        fence,
    ]


def _backtick_runs(text: str) -> list[int]:
    return [len(list(run)) for char, run in itertools.groupby(text) if char == "`"]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def plot_scores(genuine: Genuine, path: Path) -> None:
    """Scores of the best and of the worst labelled response of each prompt, and what lies
    between.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    groups = _by_label(genuine)
    values = [v for group in groups.values() for v in group]
    figure, axes = pyplot.subplots(figsize=(5, 3))
    if values:
        edges: Any = np.linspace(min(values), max(values) + 1e-9, 25)
        for name, group in groups.items():
            axes.hist(group, bins=edges, alpha=0.55, label=f"{name} (n = {len(group)})")
        axes.legend(frameon=False)
    axes.set_xlabel("score")
    axes.set_ylabel("held-out responses")
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _by_label(genuine: Genuine) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {"best labelled": [], "worst labelled": []}
    for prompt, scores in zip(genuine.prompts, genuine.scores, strict=True):
        ranks = [c.rank for c in prompt.candidates if c.rank is not None]
        for candidate, score in zip(prompt.candidates, scores, strict=True):
            if np.isnan(score) or candidate.rank is None or min(ranks) == max(ranks):
                continue
            if candidate.rank == min(ranks):
                groups["best labelled"].append(float(score))
            elif candidate.rank == max(ranks):
                groups["worst labelled"].append(float(score))
    return groups
