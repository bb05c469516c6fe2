"""Iterative DPO: roll out, score, pair the best with the worst, update, and again.

The reference of a round is the policy that the round starts from (Xu et al., arXiv 2312.16682): a
round is a DPO job of its own (``training.dpo``) on the buffer's pairs. What is optimised is
``job.reward``; after each round ``job.judge``, a reward that nothing was trained on here, scores
responses to held-out prompts, so that a gain in one without the other shows; without a judge no
number bears its name. Rounds are the resume points: a stopped job starts its unfinished round
again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from reward_harness.data.files import read_records, write_records
from reward_harness.data.on_policy import Paired, buffered, pair_best_and_worst
from reward_harness.data.records import PreferencePair, RLPrompt
from reward_harness.errors import TrainingError
from reward_harness.evaluation.statistics import bootstrap_mean
from reward_harness.hashing import canonical_json, derive_seed, digest_file, unit_interval
from reward_harness.manifest import Metric
from reward_harness.models.embedded import load_policy_folder
from reward_harness.models.folders import model_digest
from reward_harness.models.generation import Generated, generate, response_logprobs
from reward_harness.progress import Progress
from reward_harness.rewards.base import BaseRM, Scored, conversation_of
from reward_harness.sections import DPOSection
from reward_harness.training import dpo
from reward_harness.training.card import model_card
from reward_harness.training.context import MethodResult, MetricRow, StepClock, TrainContext
from reward_harness.training.job import DataFile, DPOJob, IterativeDPOJob, ModelRef
from reward_harness.training.trl_run import require_records
from reward_harness.training.worker import open_reference

STATE_NAME = "rounds.json"


@dataclass(slots=True)
class Held:
    """Responses of one policy to the held-out prompts as the tokens that it sampled, with both
    rewards' scores; ``judge`` is None without a judge.
    """

    token_ids: list[list[int]]
    reward: list[float | None]
    judge: list[float | None] | None

    def scores(self) -> dict[str, list[float | None]]:
        """The scores by the reward's part."""
        judged = {} if self.judge is None else {"judge": self.judge}
        return {"reward": self.reward, **judged}


@dataclass(slots=True)
class Rounds:
    """What is known after the finished rounds; ``held`` begins with the start policy."""

    model: Path
    rows: list[MetricRow] = field(default_factory=list[MetricRow])
    pairs: list[list[PreferencePair]] = field(default_factory=list[list[PreferencePair]])
    held: list[Held] = field(default_factory=list[Held])
    skipped: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def done(self) -> int:
        return len(self.pairs)


def train(job: IterativeDPOJob, context: TrainContext) -> MethodResult:
    """Run the rounds and publish the last policy as ``model/`` and its pairs as ``pairs.jsonl``."""
    if context.reward is None:
        raise TrainingError("iterative DPO needs a reward", where=str(context.output))
    judge = open_reference(job.judge) if job.judge else None
    prompts = read_records(Path(job.train.path), RLPrompt)
    held_out = _chosen(job, read_records(Path(job.test.path), RLPrompt), 0)
    require_records(len(prompts), job.train.path, job.method)
    require_records(len(held_out), job.test.path, job.method)
    work = (context.resume.path if context.resume else context.log) / "work"
    rounds, resumed = _restore(job, context)
    clock = context.clock(job.settings.rounds * job.settings.max_steps)
    if not rounds.held:
        rounds.held.append(_measured(job, context, rounds.model, held_out, judge))
    while rounds.done < job.settings.rounds:
        _round(job, context, rounds, _chosen(job, prompts, rounds.done + 1), work, clock)
        rounds.held.append(_measured(job, context, rounds.model, held_out, judge))
        if rounds.rows:
            rounds.rows[-1] = {**rounds.rows[-1], **_means(rounds.held[-1])}
        context.tracker.tell(rounds.rows)
        if context.resume and rounds.done < job.settings.rounds:
            context.resume.save(rounds.done, lambda folder: _write_state(rounds, folder))
        if context.stop.requested and rounds.done < job.settings.rounds:
            raise context.stopped(len(rounds.rows))
    if judge is not None:
        judge.close()
    metrics = _metrics(job, context, rounds, held_out)
    card: dict[str, Any] = {name: metric.value for name, metric in metrics.items()}
    card |= {"pairs": sum(map(len, rounds.pairs)), **rounds.skipped}
    shutil.copytree(rounds.model, context.model_folder, dirs_exist_ok=True)
    (context.model_folder / "README.md").write_text(model_card(job, card), encoding="utf-8")
    write_records(context.output / "pairs.jsonl", [p for made in rounds.pairs for p in made])
    shutil.rmtree(work, ignore_errors=True)
    return MethodResult(rounds.rows, metrics, card, resumed_from=resumed)


def _round(
    job: IterativeDPOJob,
    context: TrainContext,
    rounds: Rounds,
    prompts: Sequence[RLPrompt],
    work: Path,
    clock: StepClock,
) -> None:
    """One round; appends its pairs and rows and moves ``rounds.model`` on."""
    number, started = rounds.done + 1, time.monotonic()
    total = job.settings.rounds * job.settings.max_steps
    context.progress(Progress(job.method, len(rounds.rows), total, f"round {number}: rolling out"))
    made = _rolled_out(job, context, rounds.model, prompts, number)
    for name in ("too_close", "too_similar", "unscored"):
        rounds.skipped[name] = rounds.skipped.get(name, 0) + int(getattr(made, name))
    rounds.pairs.append(made.pairs)
    pairs = buffered(rounds.pairs, job.settings.buffer)
    if not pairs:
        raise TrainingError(
            f"round {number} has no pair to train on",
            where=job.train.path,
            got=f"{made.too_close} too close, {made.too_similar} too similar, "
            f"{made.unscored} without two scores",
            fix="Lower min_margin, raise max_similarity, temperature or samples_per_prompt.",
        )
    folder = work / f"round-{number}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "log").mkdir(parents=True)
    write_records(folder / "train.jsonl", pairs)
    before = len(rounds.rows)

    def tell(event: Progress) -> None:
        if event.numbers:
            clock.step(before + event.step, 0)
            own = event.numbers["seconds_left"]
            later = job.settings.rounds - number
            left = own + later * (time.monotonic() - started + own)  # as long as this one
            numbers = {**event.numbers, "seconds_left": round(left, 1)}
            context.tell(job.method, before + event.step, total, numbers)

    inner = TrainContext(folder, context.device, None, tell, context.stop)
    found = dpo.train(_dpo_job(job, rounds.model, folder / "train.jsonl", number), inner)
    rounds.rows += [
        {**row, "step": before + i, "round": number, "pairs": len(pairs)}
        for i, row in enumerate(found.rows, start=1)
    ]
    rounds.model = folder / "model"


def _dpo_job(job: IterativeDPOJob, model: Path, data: Path, number: int) -> DPOJob:
    names = DPOSection.model_fields.keys() & type(job.settings).model_fields.keys()
    return DPOJob(
        experiment=job.experiment,
        model=ModelRef(name=f"round-{number - 1}", path=str(model), digest=model_digest(model)),
        train=DataFile(path=str(data), sha256=digest_file(data)),
        seed=derive_seed(job.seed, "round", number) % 2**31,
        device=job.device,
        train_dtype=job.train_dtype,
        threads=job.threads,
        settings=DPOSection(**{name: getattr(job.settings, name) for name in names}),
        lora=job.lora,
    )


def _chosen(job: IterativeDPOJob, prompts: Sequence[RLPrompt], number: int) -> list[RLPrompt]:
    """The prompts of a round in an order that seed and ids decide; round 0 is the held-out one."""
    size = job.settings.prompts if number else job.settings.judged_prompts
    ordered = sorted(prompts, key=lambda p: unit_interval(job.seed, "round", number, p.prompt_id))
    return ordered[:size]


def _rolled_out(
    job: IterativeDPOJob,
    context: TrainContext,
    folder: Path,
    prompts: Sequence[RLPrompt],
    number: int,
) -> Paired:
    count = job.settings.samples_per_prompt
    repeated = [prompt for prompt in prompts for _ in range(count)]
    texts = [one.text for one in _sampled(job, context.device, folder, repeated, number)]
    scores = _scores(job, context.reward, repeated, texts)
    both = list(zip(texts, scores, strict=True))
    groups = [both[start : start + count] for start in range(0, len(both), count)]
    return pair_best_and_worst(
        prompts,
        groups,
        round_number=number,
        min_margin=job.settings.min_margin,
        max_similarity=job.settings.max_similarity,
    )


def _sampled(
    job: IterativeDPOJob, device: str, folder: Path, prompts: Sequence[RLPrompt], number: int
) -> list[Generated]:
    model, tokenizer = load_policy_folder(folder, device=device)
    return generate(
        model,
        tokenizer,
        [_turns(prompt) for prompt in prompts],
        max_new_tokens=job.settings.max_new_tokens,
        temperature=job.settings.temperature,
        seed=derive_seed(job.seed, "sampled", number),
        max_prompt_tokens=job.settings.max_prompt_tokens,
    )


def _turns(prompt: RLPrompt) -> list[dict[str, str]]:
    return [message.model_dump() for message in prompt.prompt]


def _scores(
    job: IterativeDPOJob, reward: BaseRM | None, prompts: Sequence[RLPrompt], texts: Sequence[str]
) -> list[float | None]:
    """A score for each response; ``TrainingError`` if more have none than the settings allow."""
    chats = [conversation_of(_turns(p), text) for p, text in zip(prompts, texts, strict=True)]
    results = reward.score_batch_results(chats) if reward else []
    scores = [result.value if isinstance(result, Scored) else None for result in results]
    missing = [result for result in results if not isinstance(result, Scored)]
    if len(missing) > job.settings.max_unscored_share * len(results):
        raise TrainingError(
            "too many responses got no score",
            where=f"iterative_dpo, reward {reward.artifact_id if reward else None}",
            got=f"{len(missing)} of {len(results)} unscored, the first: {missing[0]}",
            expected=f"a share of at most {job.settings.max_unscored_share}",
        )
    return scores


def _measured(
    job: IterativeDPOJob,
    context: TrainContext,
    folder: Path,
    prompts: Sequence[RLPrompt],
    judge: BaseRM | None,
) -> Held:
    drawn = _sampled(job, context.device, folder, prompts, 0)
    texts = [one.text for one in drawn]
    own = _scores(job, context.reward, prompts, texts)
    judged = None if judge is None else _scores(job, judge, prompts, texts)
    return Held([list(one.token_ids) for one in drawn], own, judged)


def _means(held: Held) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, scores in held.scores().items():
        values = [score for score in scores if score is not None]
        if values:
            found[f"{name}_mean"] = sum(values) / len(values)
    return found


def _metrics(
    job: IterativeDPOJob, context: TrainContext, rounds: Rounds, prompts: Sequence[RLPrompt]
) -> dict[str, Metric]:
    """Gains over the start policy on the same prompts with intervals, and how far it moved."""
    found: dict[str, Metric] = {}
    for name, start in rounds.held[0].scores().items():
        for number, held in enumerate(rounds.held[1:], start=1):
            pairs = zip(held.scores()[name], start, strict=True)
            gains = [a - b for a, b in pairs if a is not None and b is not None]
            if gains:
                rng = np.random.default_rng(derive_seed(job.seed, name, number))
                found[f"{name}_gain_round_{number}"] = bootstrap_mean(gains, rng).metric("max")
    found["kl_to_start"] = _moved(job, context.device, rounds, prompts)
    for number, made in enumerate(rounds.pairs, start=1):
        found[f"pairs_round_{number}"] = Metric(value=len(made), n=job.settings.prompts)
    return found


def _moved(
    job: IterativeDPOJob, device: str, rounds: Rounds, prompts: Sequence[RLPrompt]
) -> Metric:
    """KL(last policy || start policy) in nats a response: mean log ratio of its own samples, token
    by token as they were drawn, after the prompt as it was cut.
    """
    turns = [_turns(prompt) for prompt in prompts]
    sums: list[list[float]] = []
    for folder in (rounds.model, Path(job.model.path)):
        model, tokenizer = load_policy_folder(folder, device=device)
        found = response_logprobs(
            model,
            tokenizer,
            turns,
            rounds.held[-1].token_ids,
            max_prompt_tokens=job.settings.max_prompt_tokens,
        )
        sums.append([float(values.double().sum()) for values in found])
    ratios = [a - b for a, b in zip(*sums, strict=True)]
    rng = np.random.default_rng(derive_seed(job.seed, "kl"))
    return bootstrap_mean(ratios, rng).metric("none")


def _write_state(rounds: Rounds, folder: Path) -> None:
    shutil.copytree(rounds.model, folder / "model")
    body = {
        "rows": rounds.rows,
        "pairs": [[pair.model_dump() for pair in made] for made in rounds.pairs],
        "held": [asdict(held) for held in rounds.held],
        "skipped": rounds.skipped,
    }
    (folder / STATE_NAME).write_bytes(canonical_json(body))


def _restore(job: IterativeDPOJob, context: TrainContext) -> tuple[Rounds, int | None]:
    found = context.resume.newest() if context.resume else None
    if found is None:
        return Rounds(Path(job.model.path)), None
    number, folder = found
    body: dict[str, Any] = orjson.loads((folder / STATE_NAME).read_bytes())
    rounds = Rounds(
        folder / "model",
        rows=body["rows"],
        pairs=[[PreferencePair.model_validate(p) for p in made] for made in body["pairs"]],
        held=[Held(**one) for one in body["held"]],
        skipped=body["skipped"],
    )
    return rounds, number
