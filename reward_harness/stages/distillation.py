"""A reward distilled from a policy's samples: sample, grade repeatedly, pair what differs.

``rl_samples`` writes ``samples.jsonl`` and ``batch.json`` (sha256, rows, training run), which
``score_dataset`` checks before it grades; ``raw_scores.jsonl`` holds every grading. A pair's line
in ``origins.jsonl`` of ``distilled_preferences`` names the two responses there.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_harness.data.distill import distilled_pairs
from reward_harness.data.files import json_lines, validated
from reward_harness.data.records import Message, prompt_key
from reward_harness.data.scored import ScoredResponse, Spread, read_scored, write_scored
from reward_harness.data.splits import split_of
from reward_harness.errors import DataError
from reward_harness.hashing import canonical_json, digest_file, digest_json
from reward_harness.manifest import Frozen, Metric, Outcome
from reward_harness.rewards.base import Item, Scored, conversation_of
from reward_harness.rewards.rubric import RubricRM
from reward_harness.stages.generated import (
    publish_dataset,
    sample_policy,
    seeded_prompts,
    write_raw,
)
from reward_harness.stages.make import StageRun
from reward_harness.stages.rubrics import searched_rubric
from reward_harness.stages.training import required


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


def rl_samples(run: StageRun, folder: Path) -> Outcome:
    """Several responses of one policy to each prompt, with the training run they come from."""
    section = required(run.experiment.dataset.rl_samples, "dataset.rl_samples")
    stage = f"{section.policy}_checkpoint"
    policy = run.input(stage)
    count = section.samples_per_prompt
    repeated = [p for p in seeded_prompts(run, section.prompts) for _ in range(count)]
    texts = sample_policy(
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
    write_raw(path, [row.model_dump(mode="json") for row in rows])
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
    write_raw(folder / "raw_scores.jsonl", [row for s, r in kept for row in raw_rows(s, r)])
    rows = [scored_row(sample, result) for sample, result in kept]
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
    seed, shares = run.experiment.seed, run.experiment.dataset.split
    pairs, origins = distilled_pairs(
        read_scored(scores.file("scores.jsonl")),
        section,
        lambda key: split_of(key, seed, shares) == "train",
    )
    lines = [{**o.model_dump(), "score_dataset": scores.digest} for o in origins]
    write_raw(folder / "origins.jsonl", lines)
    return publish_dataset(run, folder, list(pairs), len(pairs), None)


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
    """(score, grades by criterion) of each grading that gave a score; the whole result as one where
    the rubric is programmatic, or no grading was enough for a score by itself.
    """
    details = result.details
    if not (votes := details.get("per_vote_grades")):
        return [(result.value, dict(details.get("criteria", {})))]
    return list(zip(details["vote_scores"], map(dict, votes), strict=True))


def raw_rows(sample: Sampled, result: Scored) -> list[Mapping[str, Any]]:
    """A line of ``raw_scores.jsonl`` for each grading of the response."""
    return [
        {"response_id": sample.sample_id, "repeat": number, "score": score, "criteria": grades}
        for number, (score, grades) in enumerate(_grades(result))
    ]


def scored_row(sample: Sampled, result: Scored) -> ScoredResponse:
    """Mean and spread over the response's gradings, of the score and of each criterion."""
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
