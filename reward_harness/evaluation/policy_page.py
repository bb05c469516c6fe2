"""The page and the short summary of a policy report, from its results and the responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from reward_harness.evaluation import plots
from reward_harness.evaluation.policies import PolicyComparison, PolicyOutput
from reward_harness.evaluation.policy_advice import lead, policy_steps
from reward_harness.evaluation.report import (
    Cell,
    Column,
    Figure,
    Page,
    Response,
    Section,
    SideBySide,
    Source,
    Style,
    Table,
    estimate,
    inline,
    shown,
)
from reward_harness.evaluation.results import PolicyResults
from reward_harness.evaluation.scoring import Scores
from reward_harness.evaluation.statistics import Interval

SPREAD_SAMPLES = 3
DRAWN_SAMPLES = 3
PROMPT_CHARS = 1500


def policy_page(
    results: PolicyResults,
    outputs: Sequence[PolicyOutput],
    comparison: PolicyComparison,
    sources: Sequence[Source],
    rng: np.random.Generator,
) -> Page:
    """Everything a reader of the policy report sees; ``rng`` draws the samples shown at random."""
    sections = [
        _rewards(results),
        _explanations(results),
        _drift(results),
        _text(results),
        _samples(results, outputs, comparison.scores, rng),
    ]
    return Page(
        kicker=f"Policy report · {results.experiment}",
        title="Which policy to ship",
        lead=lead(results),
        next_steps=policy_steps(results),
        facts=_facts(results),
        sections=[section for section in sections if section is not None],
        sources=sources,
        method=_method(results),
    )


def change_plot(results: PolicyResults) -> tuple[plots.Draw, tuple[float, float]]:
    """Win rate of each policy under each scorer: one scale for rewards of any unit."""
    groups = [scorer.label for scorer in results.scorers]
    rows = [
        plots.Row(policy.name.upper() if number == 0 else "", figures.win_rate, number)
        for policy in results.policies
        for number, scorer in enumerate(results.scorers)
        if (figures := policy.by_scorer[scorer.name]).win_rate is not None
    ]
    label = f"win rate against {results.reference.upper()} on the same prompts"
    draw = plots.forest(rows, xlabel=label, reference=0.5, groups=groups, percent=True)
    return draw, plots.forest_size(rows, groups)


def policy_summary(results: PolicyResults) -> str:
    """``summary.md``: the key numbers with n and interval."""
    lines = [f"# Policy report: {results.experiment}", "", lead(results), ""]
    lines += ["| policy | mean reward | paired change | win rate | KL (nats) | tokens |"]
    lines += ["|---|---|---|---|---|---|"]
    main = results.scorers[0].name
    for p in results.policies:
        f = p.by_scorer[main]
        cells = [
            _text_of(f.mean),
            _text_of(f.change, "signed"),
            _text_of(f.win_rate, "percent"),
            _text_of(p.kl_sequence),
            _text_of(p.length_tokens),
        ]
        lines.append(f"| {p.name} | {' | '.join(cells)} |")
    lines += ["", "Next:", ""]
    lines += [f"- {step.text} {step.because}".rstrip() for step in policy_steps(results)]
    return "\n".join(lines) + "\n"


def _text_of(interval: Interval | None, style: Style = "number") -> str:
    return inline(interval, style) if interval else "–"


def _facts(results: PolicyResults) -> list[tuple[str, str]]:
    any_policy = results.policies[0]
    return [
        ("policies", str(len(results.policies))),
        ("held-out prompts", str(any_policy.n_prompts)),
        ("responses each", str(any_policy.n_samples)),
        ("scorers", str(len(results.scorers))),
        ("temperature", f"{results.sampling.temperature:g}"),
        ("new tokens at most", str(results.sampling.max_new_tokens)),
    ]


def _rewards(results: PolicyResults) -> Section:
    blocks: list[Table | Figure] = []
    for number, scorer in enumerate(results.scorers):
        role = "the reward that PPO and GRPO optimise" if number == 0 else "second opinion"
        blocks.append(_scorer_table(results, scorer.name, f"{scorer.label}: {role}."))
    draw, size = change_plot(results)
    if any(p.by_scorer[results.scorers[0].name].win_rate for p in results.policies):
        caption = "Ties count ½. Dashed: no difference from the reference policy."
        blocks.append(Figure(plots.render_svg(draw, size), caption, "forest plot of win rates"))
    reference = results.reference.upper()
    intro = (
        f"Changes and win rates are paired with {reference} on the same held-out prompts. Scorers "
        "judge each response alone, so that the order of two responses cannot matter."
    )
    return Section("Reward", intro, blocks)


def _scorer_table(results: PolicyResults, scorer: str, note: str) -> Table:
    columns = [
        Column("policy"),
        Column("mean reward"),
        Column("std"),
        Column(f"change from {results.reference.upper()}", 0.0),
        Column("win rate", 0.5),
        Column("gain per nat", hint="reward change over KL; left out where KL may be 0"),
        Column("unscored"),
    ]
    rows: list[list[Cell]] = []
    for policy in results.policies:
        f = policy.by_scorer[scorer]
        rows.append(
            [
                policy.name.upper(),
                estimate(f.mean),
                None if f.std is None else shown(f.std, "number"),
                estimate(f.change, "signed", 0.0),
                estimate(f.win_rate, "percent", 0.5),
                estimate(f.gain_per_nat, "signed"),
                shown(f.unscored_share, "percent"),
            ]
        )
    return Table(columns, rows, note)


def _explanations(results: PolicyResults) -> Section | None:
    if not results.explanations:
        return None
    rows: list[list[Cell]] = []
    for name, text in results.explanations.items():
        trace = results.training.get(name)
        rows.append([name.upper(), str(trace.steps) if trace else None, text])
    columns = [Column("policy"), Column("training steps"), Column("what the numbers say")]
    return Section("What happened to the reward", "", [Table(columns, rows)])


def _drift(results: PolicyResults) -> Section:
    columns = [
        Column("policy"),
        Column("KL a response (nats)", 0.0, "sum over response tokens, mean over prompts"),
        Column("KL a token (nats)", 0.0, "total log ratio over total response tokens"),
        Column("response tokens"),
        Column("change in tokens", 0.0),
        Column("ended by itself"),
    ]
    rows: list[list[Cell]] = [
        [
            p.name.upper(),
            estimate(p.kl_sequence),
            estimate(p.kl_token),
            estimate(p.length_tokens),
            estimate(p.length_change, "signed"),
            estimate(p.ended_share, "percent"),
        ]
        for p in results.policies
    ]
    intro = f"How far each policy moved from {results.reference.upper()}, on its own responses."
    return Section("Distance and length", intro, [Table(columns, rows)])


def _text(results: PolicyResults) -> Section:
    columns = [
        Column("policy"),
        Column("verbose bias", hint="hollow opener, or > 200 tokens for a prompt of ≤ 20 words"),
        Column("refusals"),
        Column("repetition", hint="share of 4-grams of words that occurred before in the response"),
        Column("distinct-1"),
        Column("distinct-2"),
    ]
    rows: list[list[Cell]] = [
        [
            p.name.upper(),
            estimate(p.verbose_rate, "percent"),
            estimate(p.refusal_rate, "percent"),
            estimate(p.repetition, "percent"),
            None if p.distinct_1 is None else f"{p.distinct_1:.3f}",
            None if p.distinct_2 is None else f"{p.distinct_2:.3f}",
        ]
        for p in results.policies
    ]
    return Section("Style of the responses", "", [Table(columns, rows)])


def _samples(
    results: PolicyResults,
    outputs: Sequence[PolicyOutput],
    scores: Mapping[str, Mapping[str, Scores]],
    rng: np.random.Generator,
) -> Section | None:
    main = results.scorers[0]
    table = np.array([scores[output.name][main.name] for output in outputs])
    chosen = _chosen_samples(table, rng)
    blocks = [_side_by_side(index, why, outputs, scores, main.name) for index, why in chosen]
    intro = f"The same prompt, every policy; numbers are the score by {main.label}."
    return Section("Side by side", intro, blocks) if blocks else None


def _chosen_samples(scores: Scores, rng: np.random.Generator) -> list[tuple[int, str]]:
    """Where the policies' scores differ most, and some at random, in the order of the prompts."""
    number = scores.shape[1]
    spread = np.nan_to_num(scores, nan=0.0).max(axis=0) - np.nan_to_num(scores, nan=0.0).min(axis=0)
    widest = set(np.argsort(-spread, kind="stable")[:SPREAD_SAMPLES].tolist())
    others = [index for index in range(number) if index not in widest]
    drawn = rng.permutation(len(others))[:DRAWN_SAMPLES]
    chosen = {index: "widest difference between policies" for index in widest}
    chosen |= {others[i]: "drawn at random" for i in drawn.tolist()}
    return sorted(chosen.items(), key=lambda item: (item[1] == "drawn at random", item[0]))


def _side_by_side(
    index: int,
    why: str,
    outputs: Sequence[PolicyOutput],
    scores: Mapping[str, Mapping[str, Scores]],
    scorer: str,
) -> SideBySide:
    values = [float(scores[output.name][scorer][index]) for output in outputs]
    known = [v for v in values if not np.isnan(v)]
    responses = [
        Response(
            author=output.name.upper(),
            text=output.samples[index].text,
            facts=_facts_of(value, output.samples[index].tokens, output.samples[index].ended),
            best=len(set(known)) > 1 and value == max(known),
        )
        for output, value in zip(outputs, values, strict=True)
    ]
    turns = outputs[0].samples[index].prompt
    text = "\n\n".join(t.content if len(turns) == 1 else f"{t.role}: {t.content}" for t in turns)
    shortened = text if len(text) <= PROMPT_CHARS else f"… {text[-PROMPT_CHARS:]}"
    return SideBySide(prompt=shortened, why=why, responses=responses)


def _facts_of(value: float, tokens: int, ended: bool) -> str:
    score = "no score" if np.isnan(value) else shown(value, "number")
    return f"{score} · {tokens} tokens{'' if ended else ', cut'}"


def _method(results: PolicyResults) -> list[str]:
    sampling = results.sampling
    samples = sampling.samples_per_prompt
    each = "one response" if samples == 1 else f"{samples} responses"
    return [
        f"Every policy wrote {each} to each held-out prompt at temperature "
        f"{sampling.temperature:g}, at most {sampling.max_new_tokens} tokens, in {sampling.dtype}.",
        f"Intervals are {shown(results.confidence, 'percent')} percentile bootstraps over prompts "
        f"({results.bootstrap_samples:,} resamples, seed {results.seed}); n counts prompts. One "
        "training seed: the spread between seeds is not in them.",
        "KL is the mean of Σ (log p − log p_ref) over response tokens, both models at temperature "
        "1, on responses sampled at the temperature above: an estimate that can fall below 0.",
        "Responses without a score are left out of means and comparisons; their share is stated.",
    ]
