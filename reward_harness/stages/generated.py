"""Datasets that the experiment's own models make: AI feedback, and rewards distilled from samples.

All write what dataset stages write (``train.jsonl`` …, ``stats.json``, ``summary.md``,
``plot.png``) where they end in records, and beside it the raw answers they were made from. Splits
are those of every other stage: by prompt, seed and shares. Sampling happens in this process.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_harness.data.describe import describe, metrics_of
from reward_harness.data.distill import distilled_pairs
from reward_harness.data.files import json_lines, read_records, validated, write_lines
from reward_harness.data.records import (
    Message,
    PreferencePair,
    Record,
    RLPrompt,
    SFTExample,
    prompt_key,
)
from reward_harness.data.scored import ScoredResponse, Spread, read_scored, write_scored
from reward_harness.data.splits import SPLITS, split_records
from reward_harness.errors import DataError
from reward_harness.hashing import canonical_json, derive_seed, digest_file, digest_json
from reward_harness.hashing import unit_interval as place
from reward_harness.llm.backends import resolve_backend
from reward_harness.llm.event_loop import run_sync
from reward_harness.llm.feedback import (
    LEVELS,
    CheckedFeedback,
    Confidence,
    Feedback,
    ModelFeedback,
    Preferred,
    Revision,
    each,
    read_constitution,
)
from reward_harness.llm.roles import open_roles
from reward_harness.llm.verdicts import STORE_NAME
from reward_harness.manifest import Cost, Frozen, Metric, Outcome
from reward_harness.models.folders import model_folder
from reward_harness.progress import Progress
from reward_harness.prompts import load_templates
from reward_harness.rewards.base import Failed, Item, Scored, conversation_of
from reward_harness.rewards.rubric import RubricRM
from reward_harness.rubrics.grading import prompt_text
from reward_harness.stages.datasets import write_dataset
from reward_harness.stages.make import StageRun
from reward_harness.stages.reward_models import searched_rubric
from reward_harness.stages.training import required

LICENCE = "of the models and prompts it was made with"


class Sampled(Frozen):
    """One response of a batch."""

    sample_id: str
    prompt_id: str
    prompt: list[Message]
    response: str


class Batch(Frozen):
    """``batch.json``: what the samples are and which training run they come from."""

    rows: int
    sha256: str
    stage: str
    training_run: str


def synthetic_sft(run: StageRun, folder: Path) -> Outcome:
    """Drafts, critiqued and revised under the constitution."""
    section = required(run.experiment.dataset.synthetic_sft, "dataset.synthetic_sft")
    prompts = _prompts(run, section.prompts)
    feedback = _feedback(run)
    texts = [prompt_text(prompt.prompt) for prompt in prompts]
    drafts: list[Any] = run_sync(each(texts, feedback.draft))
    if all(draft is None for draft in drafts):
        base = model_folder(run.experiment.policy.model, run.workspace.cache)
        drafts = _sample(run, base, prompts, section.max_new_tokens, section.temperature)
    asked = [(t, d) for t, d in zip(texts, drafts, strict=True) if isinstance(d, str) and d.strip()]
    found: list[Revision | Failed] = run_sync(each(asked, lambda one: feedback.revise(*one)))
    revised = dict(zip([text for text, _ in asked], found, strict=True))
    examples: list[Record] = []
    raw: list[Mapping[str, Any]] = []
    for prompt, text, draft in zip(prompts, texts, drafts, strict=True):
        got = revised.get(text)
        if not isinstance(got, Revision) or not got.response.strip():
            continue
        raw.append({"id": prompt.prompt_id, "draft": draft, "critique": got.critique})
        examples.append(
            SFTExample(
                example_id=prompt.prompt_id,
                prompt=prompt.prompt,
                response=got.response,
                source="synthetic",
            )
        )
    _write_raw(folder / "critiques.jsonl", raw)
    return _dataset(run, folder, examples, len(prompts), feedback)


def ai_preferences(run: StageRun, folder: Path) -> Outcome:
    """Two samples of the SFT policy to each prompt; the one that the judge prefers is chosen."""
    section = required(run.experiment.dataset.ai_preferences, "dataset.ai_preferences")
    prompts = _prompts(run, section.prompts)
    policy = run.input("sft_checkpoint").folder("model")
    twice = [prompt for prompt in prompts for _ in range(2)]
    texts = _sample(run, policy, twice, section.max_new_tokens, section.temperature)
    feedback = _feedback(run)
    trios = [
        (prompt_text(p.prompt), left, right)
        for p, left, right in zip(prompts, texts[::2], texts[1::2], strict=True)
    ]
    run.services.progress(Progress(run.stage.name, 1, 2, f"judging {len(trios)} pairs"))
    found: list[Preferred | Failed] = run_sync(each(trios, lambda one: feedback.prefer(*one)))
    pairs: list[Record] = []
    raw: list[Mapping[str, Any]] = []
    for prompt, (_, left, right), verdict in zip(prompts, trios, found, strict=True):
        raw.append({"id": prompt.prompt_id, "left": left, "right": right, **_told(verdict)})
        if not _is_usable(verdict, left, right, section.min_confidence):
            continue
        first = isinstance(verdict, Preferred) and verdict.preference == 1
        pairs.append(
            PreferencePair(
                pair_id=prompt.prompt_id,
                prompt=prompt.prompt,
                chosen=left if first else right,
                rejected=right if first else left,
                source="ai_feedback",
            )
        )
    _write_raw(folder / "verdicts.jsonl", raw)
    return _dataset(run, folder, pairs, len(prompts), feedback)


def rl_samples(run: StageRun, folder: Path) -> Outcome:
    """Several responses of one policy to each prompt, with the training run they come from."""
    section = required(run.experiment.dataset.rl_samples, "dataset.rl_samples")
    stage = f"{section.policy}_checkpoint"
    policy = run.input(stage)
    count = section.samples_per_prompt
    repeated = [p for p in _prompts(run, section.prompts) for _ in range(count)]
    texts = _sample(
        run, policy.folder("model"), repeated, section.max_new_tokens, section.temperature
    )
    rows = [
        Sampled(
            sample_id=f"{prompt.prompt_id}/{index % count}",
            prompt_id=prompt.prompt_id,
            prompt=prompt.prompt,
            response=text,
        )
        for index, (prompt, text) in enumerate(zip(repeated, texts, strict=True))
    ]
    path = folder / "samples.jsonl"
    _write_raw(path, [row.model_dump(mode="json") for row in rows])
    batch = Batch(rows=len(rows), sha256=digest_file(path), stage=stage, training_run=policy.digest)
    (folder / "batch.json").write_bytes(canonical_json(batch.model_dump()))
    metrics = {"samples": Metric(value=len(rows), n=len(rows) // count)}
    return Outcome(metrics=metrics, notes={"policy": policy.manifest.artifact_id})


def score_dataset(run: StageRun, folder: Path) -> Outcome:
    """Each different response graded several times: raw grades, and their mean and spread."""
    section = required(run.experiment.dataset.scores, "dataset.scores")
    samples = checked_batch(run)
    scorer = searched_rubric(run, folder / "rubric")
    if isinstance(scorer, RubricRM):
        scorer.rubrics = {
            name: rubric.model_copy(update={"votes": section.repeats})
            for name, rubric in scorer.rubrics.items()
        }
    turns = [conversation_of([m.model_dump() for m in s.prompt], s.response) for s in samples]
    results = scorer.score_items([Item(conversation) for conversation in turns])
    scorer.close()
    kept = [(s, r) for s, r in zip(samples, results, strict=True) if isinstance(r, Scored)]
    missing = len(samples) - len(kept)
    if missing > section.max_unscored_share * len(samples):
        raise DataError(
            "too many samples got no score",
            where=f"experiment {run.experiment.key!r}, score_dataset",
            got=f"{missing} of {len(samples)}",
            expected=f"a share of at most {section.max_unscored_share}",
        )
    _write_raw(folder / "raw_scores.jsonl", [row for s, r in kept for row in _raw(s, r)])
    rows = [_scored(sample, result) for sample, result in kept]
    write_scored(folder / "scores.jsonl", rows)
    spread = statistics.fmean(row.std for row in rows) if rows else 0.0
    metrics = {
        "responses": Metric(value=len(rows), n=len(samples)),
        "unscored_share": Metric(value=missing / max(len(samples), 1), direction="min"),
        "std_mean": Metric(value=spread, n=len(rows), direction="min"),
    }
    return Outcome(metrics=metrics)


def distilled_preferences(run: StageRun, folder: Path) -> Outcome:
    """Pairs of scored samples that differ by more than their noise."""
    section = required(run.experiment.dataset.distilled, "dataset.distilled")
    scores = run.input("score_dataset")
    pairs, origins = distilled_pairs(read_scored(scores.file("scores.jsonl")), section)
    lines = [{**o.model_dump(), "score_dataset": scores.digest} for o in origins]
    _write_raw(folder / "origins.jsonl", lines)
    return _dataset(run, folder, list(pairs), len(pairs), None)


def checked_batch(run: StageRun) -> list[Sampled]:
    """Each different (prompt, response) once; ``DataError`` if the batch is not what it says."""
    source = run.input("rl_samples")
    batch = Batch.model_validate_json(source.file("batch.json").read_bytes())
    path = source.file("samples.jsonl")
    rows = [validated(Sampled, value, f"{path}:{line}") for line, value in json_lines(path)]
    if (digest_file(path), len(rows)) != (batch.sha256, batch.rows):
        raise DataError(
            "the samples are not the batch that batch.json describes",
            where=str(path),
            got=f"{len(rows)} rows, sha256 {digest_file(path)[:16]}",
            expected=f"{batch.rows} rows, sha256 {batch.sha256[:16]}",
        )
    run.store.load(run.experiment.key, batch.stage, batch.training_run)
    unique: dict[str, Sampled] = {}
    for row in rows:
        if row.response.strip():
            unique.setdefault(digest_json([prompt_key(row.prompt), row.response]), row)
    return list(unique.values())


def _grades(result: Scored) -> list[tuple[float, dict[str, float | None]]]:
    """(score, grades by criterion) of each grading; programmatic rubrics are graded once."""
    details = result.details
    if "per_vote_grades" not in details:
        return [(result.value, dict(details.get("criteria", {})))]
    return list(zip(details["vote_scores"], map(dict, details["per_vote_grades"]), strict=False))


def _raw(sample: Sampled, result: Scored) -> list[Mapping[str, Any]]:
    return [
        {"response_id": sample.sample_id, "repeat": number, "score": score, "criteria": grades}
        for number, (score, grades) in enumerate(_grades(result))
    ]


def _scored(sample: Sampled, result: Scored) -> ScoredResponse:
    found = _grades(result)
    names = sorted({name for _, grades in found for name in grades})
    criteria = {
        name: _spread(values)
        for name in names
        if (values := [v for _, grades in found if (v := grades.get(name)) is not None])
    }
    whole = _spread([score for score, _ in found])
    return ScoredResponse(
        response_id=sample.sample_id,
        prompt=sample.prompt,
        response=sample.response,
        score=min(max(whole.mean, 0.0), 1.0),
        std=whole.std,
        n=whole.n,
        criteria=criteria,
    )


def _spread(values: Sequence[float]) -> Spread:
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return Spread(mean=statistics.fmean(values), std=std, n=len(values))


def _prompts(run: StageRun, limit: int) -> list[RLPrompt]:
    """The first prompts of all splits in the seeded order."""
    source, seed = run.input("rl_prompts"), run.experiment.seed
    found = [p for split in SPLITS for p in read_records(source.file(f"{split}.jsonl"), RLPrompt)]
    ordered = sorted(found, key=lambda p: place("order", seed, prompt_key(p.prompt)))
    return ordered[:limit]


def _sample(
    run: StageRun, folder: Path, prompts: Sequence[RLPrompt], tokens: int, temperature: float
) -> list[str]:
    from reward_harness.models.embedded import load_policy_folder
    from reward_harness.models.generation import generate
    from reward_harness.scaling.memory import resolve_device

    run.services.progress(Progress(run.stage.name, 0, 2, f"sampling {len(prompts)} responses"))
    compute = run.experiment.compute
    device = run.services.device or resolve_device(compute.device)
    model, tokenizer = load_policy_folder(folder, dtype=compute.generation_dtype, device=device)
    found = generate(
        model,
        tokenizer,
        [[m.model_dump() for m in p.prompt] for p in prompts],
        max_new_tokens=tokens,
        temperature=temperature,
        seed=derive_seed(run.experiment.seed, run.stage.name),
    )
    return [one.text for one in found]


def _feedback(run: StageRun) -> Feedback:
    """The search's endpoint where it has one, else the principles' checks."""
    constitution = read_constitution(run.workspace.prompts)
    search = run.experiment.search
    if resolve_backend(search) != "openai":
        return CheckedFeedback(constitution)
    templates = load_templates(run.workspace.prompts, search.locale)
    roles = open_roles(search.endpoint, templates, run.workspace.cache / STORE_NAME)
    return ModelFeedback(roles, constitution)


def _is_usable(verdict: Preferred | Failed, left: str, right: str, least: Confidence) -> bool:
    return (
        isinstance(verdict, Preferred)
        and verdict.preference != 0
        and LEVELS.index(verdict.confidence) >= LEVELS.index(least)
        and left != right
        and bool(left.strip())
        and bool(right.strip())
    )


def _told(verdict: Preferred | Failed) -> dict[str, Any]:
    if isinstance(verdict, Failed):
        return {"failed": verdict.error}
    return {
        "preference": verdict.preference,
        "confidence": verdict.confidence,
        "consistent": verdict.consistent,
    }


def _dataset(
    run: StageRun, folder: Path, records: list[Any], asked: int, feedback: Feedback | None
) -> Outcome:
    """Split, describe and write the records; closes the feedback's connections."""
    cost = Cost()
    if isinstance(feedback, ModelFeedback):
        run_sync(feedback.roles.aclose())
        usage = feedback.roles.gateway.usage
        cost = Cost(
            llm_calls=usage.calls,
            llm_cached=usage.cached,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            usd=usage.usd,
        )
    seed = run.experiment.seed
    splits = split_records(records, seed, run.experiment.dataset.split)
    stats = describe(
        splits,
        source=run.stage.name,
        licence=LICENCE,
        records_sha256=digest_json([record.model_dump(mode="json") for record in records]),
        left_out=asked - len(records),
        seed=seed,
    )
    write_dataset(folder, splits, (), stats)
    kept = Metric(value=len(records) / max(asked, 1), n=asked, direction="max")
    backend = {} if feedback is None else {"backend": type(feedback).__name__}
    return Outcome(metrics={**metrics_of(stats), "kept_share": kept}, cost=cost, notes=backend)


def _write_raw(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_lines(path, (canonical_json(dict(row)) + b"\n" for row in rows))
