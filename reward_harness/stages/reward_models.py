"""The stages of trained rewards beyond the plain Bradley-Terry model; all optional.

Each writes a job as ``stages.training`` does and publishes ``model/``, ``metrics.jsonl``,
``heldout.json`` (measures with intervals), ``plot.png`` and ``summary.md``.
"""

from __future__ import annotations

from pathlib import Path

from reward_harness.data.files import read_records
from reward_harness.data.records import PreferencePair, RankedPrompt, prompt_key
from reward_harness.data.scored import ScoredResponse, write_scored
from reward_harness.errors import DataError
from reward_harness.hashing import digest_file, digest_json
from reward_harness.manifest import Outcome
from reward_harness.progress import Progress
from reward_harness.rewards.base import BaseRM, Item, Scored, conversation_of
from reward_harness.stages.make import StageRun
from reward_harness.stages.rubrics import searched_rubric
from reward_harness.stages.training import (
    base_model,
    data_file,
    job_fields,
    pair_files,
    published_model,
    required,
    reward_start,
    run_training,
)
from reward_harness.training.job import (
    BTJob,
    DataFile,
    EnsembleJob,
    ProcessJob,
    RubricModelJob,
)

RUBRIC_FOLDER = "rubric"
SCORED = "scored"


def rubric_reward_model(run: StageRun, folder: Path) -> Outcome:
    """A model that reproduces the searched rubric's scores, beside the Bradley-Terry model."""
    settings = required(run.experiment.reward_model.rubric, "reward_model.rubric")
    scorer = searched_rubric(run, folder / RUBRIC_FOLDER)
    files = {split: _scored(run, scorer, split, folder) for split in ("train", "validation")}
    scorer.close()
    job = RubricModelJob(
        **job_fields(run),
        settings=settings,
        model=base_model(run, settings.backbone),
        train=files["train"],
        validation=files["validation"],
        test=data_file(run.input("preference_pairs"), "test.jsonl"),
        rival=published_model(run, "bt_reward_model") if "bt_reward_model" in run.inputs else None,
    )
    return run_training(run, folder, job)


def reward_ensemble(run: StageRun, folder: Path) -> Outcome:
    """Bradley-Terry models of different seeds on the same pairs."""
    settings = required(run.experiment.reward_model.ensemble, "reward_model.ensemble")
    pairs = run.input("preference_pairs")
    job = EnsembleJob(
        **job_fields(run),
        settings=settings,
        model=reward_start(run, settings),
        **pair_files(run.input(settings.pairs), pairs),
    )
    return run_training(run, folder, job)


def process_reward_model(run: StageRun, folder: Path) -> Outcome:
    """A model that says of each step whether it is right, and its outcome twin."""
    settings = required(run.experiment.reward_model.process, "reward_model.process")
    steps = run.input("reasoning_steps")
    job = ProcessJob(
        **job_fields(run),
        settings=settings,
        model=base_model(run, settings.backbone),
        train=data_file(steps, "train.jsonl"),
        test=data_file(steps, "test.jsonl"),
    )
    return run_training(run, folder, job)


def classifier_reward_model(run: StageRun, folder: Path) -> Outcome:
    """A Bradley-Terry model on pairs made from scored samples of a policy."""
    settings = required(run.experiment.reward_model.distilled, "reward_model.distilled")
    pairs = run.input("distilled_preferences")
    job = BTJob(
        **job_fields(run),
        settings=settings,
        model=reward_start(run, settings),
        **pair_files(pairs, pairs),
    )
    return run_training(run, folder, job)


def _scored(run: StageRun, scorer: BaseRM, split: str, folder: Path) -> DataFile:
    """All responses of a split with their rubric score; ``DataError`` if too many have none."""
    rows = _responses(run, split)
    run.services.progress(Progress(run.stage.name, 0, len(rows), f"scoring {split} responses"))
    results = scorer.score_items([Item(conversation_of(_turns(r), r.response)) for r in rows])
    kept = [
        row.model_copy(update={"score": min(max(result.value, 0.0), 1.0)})
        for row, result in zip(rows, results, strict=True)
        if isinstance(result, Scored)
    ]
    bound = required(run.experiment.reward_model.rubric, "reward_model.rubric").max_unscored_share
    if len(rows) - len(kept) > bound * len(rows):
        reason = next(result for result in results if not isinstance(result, Scored))
        raise DataError(
            "too many responses got no score from the rubric",
            where=f"{run.experiment.key}/{split}",
            got=f"{len(rows) - len(kept)} of {len(rows)}, the first: {reason}",
            expected=f"a share of at most {bound}",
            fix="Look at the grading endpoint, or raise max_unscored_share.",
        )
    path = folder / f"{SCORED}_{split}.jsonl"
    write_scored(path, kept)
    return DataFile(path=str(path), sha256=digest_file(path))


def _turns(row: ScoredResponse) -> list[dict[str, str]]:
    return [message.model_dump() for message in row.prompt]


def _responses(run: StageRun, split: str) -> list[ScoredResponse]:
    """Each different response to a prompt of the split once, not yet scored."""
    found: dict[str, ScoredResponse] = {}
    pairs = read_records(run.input("preference_pairs").file(f"{split}.jsonl"), PreferencePair)
    told = [(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    if (ranked := run.inputs.get("ranked_prompts")) is not None:
        prompts = read_records(ranked.file(f"{split}.jsonl"), RankedPrompt)
        told += [(prompt.prompt, c.text) for prompt in prompts for c in prompt.candidates]
    for prompt, text in told:
        name = digest_json([prompt_key(prompt), text])[:16]
        found.setdefault(
            name, ScoredResponse(response_id=name, prompt=prompt, response=text, score=0.0)
        )
    return list(found.values())
