"""Bradley-Terry reward models: one, or an ensemble whose members differ in their seed.

``training.reward_loop`` trains them; this module says what a pair is, what it costs, and how the
result is measured on held-out pairs. A member of an ensemble sees the pairs in an order of its own
(seed + its number); its head is solved on other pairs, too, where there are many. A flywheel
is a chain of members, of which the last is the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from reward_harness.data.confidence import STRATA, keep_confident
from reward_harness.data.files import read_records
from reward_harness.data.records import PreferencePair
from reward_harness.errors import DataError
from reward_harness.hashing import canonical_json, derive_seed
from reward_harness.manifest import Metric
from reward_harness.models.batches import in_batches, length_batches, padding_on
from reward_harness.models.chat import pad_id
from reward_harness.models.reward_head import (
    SCORE_BATCH_TOKENS,
    EncodedConversation,
    RewardModel,
)
from reward_harness.models.shared_prefix import can_share, last_states, shared_length
from reward_harness.progress import Progress
from reward_harness.rewards.base import conversation_of
from reward_harness.sections import FlywheelSection
from reward_harness.training.bradley_terry import bradley_terry_loss, warm_head
from reward_harness.training.card import model_card
from reward_harness.training.context import MethodResult, TrainContext
from reward_harness.training.heldout import as_json, heldout_measures
from reward_harness.training.job import BTJob, EnsembleJob
from reward_harness.training.reward_loop import (
    MICRO_BATCH_TOKENS,
    RewardRun,
    Trained,
    start_model,
    steps_of,
    train_members,
)

Scores = tuple[list[float], list[float]]
"""Scores of the chosen and of the rejected sides, in the order of the pairs."""


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """Both sides of a pair as the reward model reads them; ``shared`` tokens are computed once.

    ``margin``: by how much the chosen side's reward is to exceed the other (in training).
    """

    chosen: EncodedConversation
    rejected: EncodedConversation
    shared: int = 0
    margin: float = 0.0

    @property
    def length(self) -> int:
        return max(len(self.chosen.ids), len(self.rejected.ids))

    @property
    def tokens(self) -> int:
        return len(self.chosen.ids) + len(self.rejected.ids)

    @property
    def width(self) -> int:
        return self.tokens - self.shared if self.shared else 2 * self.length


class BradleyTerry:
    """-log σ(r_c − r_r − margin), with λ·(r_c + r_r)²; values are (chosen, rejected) rewards
    (N, 2).
    """

    name = "bt"

    def __init__(self, center: float) -> None:
        self.center = center

    def solve_head(self, model: RewardModel, samples: Sequence[EncodedPair]) -> Tensor:
        margins = torch.tensor([pair.margin for pair in samples])
        if not samples[0].shared:
            chosen = model.pooled_features([pair.chosen for pair in samples])
            rejected = model.pooled_features([pair.rejected for pair in samples])
            return warm_head(chosen, rejected, margin_N=margins)

        def states(part: list[int]) -> Tensor:
            return shared_states(model, [samples[index] for index in part]).cpu()

        widths = [pair.width for pair in samples]
        with torch.inference_mode():
            found = in_batches(widths, SCORE_BATCH_TOKENS, states, padding_on(model.device))
        both = torch.stack(found)
        return warm_head(both[:, 0], both[:, 1], margin_N=margins)

    def loss(self, model: RewardModel, part: Sequence[EncodedPair]) -> tuple[Tensor, Tensor]:
        if part[0].shared:
            rewards = model.head(shared_states(model, part)).squeeze(-1).float()
        else:
            rows = [side for pair in part for side in (pair.chosen, pair.rejected)]
            rewards = rewards_of(model, rows).float().view(-1, 2)
        chosen, rejected = rewards.unbind(dim=1)
        margins = torch.tensor([pair.margin for pair in part], device=chosen.device)
        return bradley_terry_loss(chosen, rejected, self.center, margins), rewards

    def describe(self, values: Tensor) -> dict[str, float]:
        chosen, rejected = values[:, 0], values[:, 1]
        return {
            "accuracy": float((chosen > rejected).float().mean()),
            "margin": float((chosen - rejected).mean()),
            "reward_mean": float(torch.cat([chosen, rejected]).mean()),
        }


def train(job: BTJob | EnsembleJob, context: TrainContext) -> MethodResult:
    """Train, measure on validation and test pairs, publish ``model/`` and ``heldout.json``.

    An ensemble's members lie in ``model/member-<i>``.
    """
    pairs = read_records(Path(job.train.path), PreferencePair)
    if job.settings.margin and all(pair.margin is None for pair in pairs):
        raise DataError(
            "no training pair has a margin",
            where=f"{job.experiment}: reward_model, margin",
            got=f"{len(pairs)} pairs without one",
            expected="a source that grades its pairs",
            fix="Set margin to false, or train on graded pairs.",
        )
    if job.settings.flywheel is not None:
        return _turned(job, job.settings.flywheel, pairs, context)
    count = job.settings.members if job.method == "ensemble" else 1
    cuts: dict[str, int] = {}
    trained = train_members(
        job.method, [partial(_member, job, pairs, i, context, cuts) for i in range(count)], context
    )
    return _published(job, trained, trained.models, cuts, context)


def _turned(
    job: BTJob | EnsembleJob,
    spec: FlywheelSection,
    pairs: Sequence[PreferencePair],
    context: TrainContext,
) -> MethodResult:
    """A first model on all pairs, then one a cycle on the pairs that the model before is surest of;
    all from the untouched backbone, with as many steps as the first.
    """
    settings = job.settings
    settings = settings.model_copy(update={"max_steps": steps_of(settings, len(pairs))})
    equal = job.model_copy(update={"settings": settings})
    models: list[RewardModel] = []
    cuts: dict[str, int] = {}

    def cycle(number: int) -> RewardRun[EncodedPair]:
        kept = pairs
        if number:
            context.progress(Progress(job.method, 0, 1, f"filtering for cycle {number}"))
            chosen, rejected = pair_scores(models[number - 1], pairs)
            sure = [abs(c - r) for c, r in zip(chosen, rejected, strict=True)]
            stratum = STRATA[spec.stratify]
            kept = keep_confident(pairs, sure, fraction=spec.keep, stratify=stratum)
        return _member(equal, kept, 0, context, cuts)

    turns = [partial(cycle, number) for number in range(spec.cycles + 1)]
    trained = train_members(job.method, turns, context, models)
    held = read_records(Path(job.test.path), PreferencePair)
    before = {
        f"cycle_{number}_heldout_accuracy": _measures(job, held, [pair_scores(model, held)])[
            "accuracy"
        ]
        for number, model in enumerate(trained.models[:-1])
        if held
    }
    return _published(job, trained, trained.models[-1:], cuts, context, before)


def _published(
    job: BTJob | EnsembleJob,
    trained: Trained,
    models: Sequence[RewardModel],
    cuts: dict[str, int],
    context: TrainContext,
    more: Mapping[str, Metric] | None = None,
) -> MethodResult:
    """Measure the resulting models on held-out pairs and save them; ``more`` joins the metrics."""
    context.progress(Progress(job.method, 1, 1, "measuring held-out pairs"))
    splits = _heldout(job, models)
    (context.output / "heldout.json").write_bytes(canonical_json(as_json(splits)))
    metrics = trained.loss_metrics(job.settings.batch_size) | flattened(splits) | dict(more or {})
    body = float(models[0].backbone.num_parameters(exclude_embeddings=True))
    metrics["body_parameters"] = Metric(value=body)
    card = {name: metric.value for name, metric in metrics.items()} | cuts
    for number, model in enumerate(models):
        model.save(context.model_folder / (f"member-{number}" if len(models) > 1 else ""))
    (context.model_folder / "README.md").write_text(model_card(job, card), encoding="utf-8")
    return trained.result(metrics, card)


def _heldout(
    job: BTJob | EnsembleJob, models: Sequence[RewardModel]
) -> dict[str, dict[str, Metric]]:
    """The models' measures on the held-out splits that have pairs."""
    splits: dict[str, dict[str, Metric]] = {}
    for name, file in (("validation", job.validation), ("test", job.test)):
        if held := read_records(Path(file.path), PreferencePair):
            splits[name] = _measures(job, held, [pair_scores(model, held) for model in models])
    return splits


def _member(
    job: BTJob | EnsembleJob,
    pairs: Sequence[PreferencePair],
    number: int,
    context: TrainContext,
    cuts: dict[str, int],
) -> RewardRun[EncodedPair]:
    """The run of member ``number``; writes the counts of cut texts into ``cuts``."""
    settings, seed = job.settings, job.seed + number
    model = start_model(job, settings, context, settings.reads, seed)
    share = model.settings.pooling == "last" and can_share(model.backbone)
    encoded = [encode_pair(model, pair, share, settings.margin) for pair in pairs]
    cuts |= _cuts(encoded)
    if number:
        generator = torch.Generator().manual_seed(derive_seed(seed, "member order"))
        order = torch.randperm(len(encoded), generator=generator).tolist()
        encoded = [encoded[index] for index in order]
    objective = BradleyTerry(settings.center_rewards)
    mixed = job.train_dtype == "bfloat16"
    return RewardRun(model, encoded, objective, settings, seed=seed, mixed=mixed)


def encode_pair(
    model: RewardModel, pair: PreferencePair, share: bool = False, margin: bool = False
) -> EncodedPair:
    """Both sides with their prompt, ``share`` where the backbone can compute that once, and with
    the pair's ``margin``, 0 where it has none.
    """
    prompt = [m.model_dump() for m in pair.prompt]
    chosen, rejected = (
        model.encode(conversation_of(prompt, text)) for text in (pair.chosen, pair.rejected)
    )
    shared = shared_length(chosen.ids, rejected.ids) if share else 0
    return EncodedPair(chosen, rejected, shared, (pair.margin or 0.0) if margin else 0.0)


def shared_states(model: RewardModel, pairs: Sequence[EncodedPair]) -> Tensor:
    """Pooled states (N, 2, H) of chosen and rejected in float32, each pair's prompt read once."""
    rows = [(pair.chosen.ids, pair.rejected.ids, pair.shared) for pair in pairs]
    return last_states(model.backbone, rows, pad_id(model.tokenizer)).float()


def rewards_of(model: RewardModel, rows: Sequence[EncodedConversation]) -> Tensor:
    """Rewards (N,) with gradient: sides of like length share a pass, whichever pair they are of."""
    lengths = [len(row.ids) for row in rows]
    parts = list(length_batches(lengths, MICRO_BATCH_TOKENS, padding_on(model.device)))
    passes = [model(model.batch([rows[i] for i in part]).to(model.device)) for part in parts]
    places = torch.tensor([index for part in parts for index in part], device=model.device)
    return torch.cat(passes)[places.argsort()]


def pair_scores(model: RewardModel, pairs: Sequence[PreferencePair]) -> Scores:
    """What the model gives to both sides of each pair."""
    sides = [
        model.score_conversations(
            [
                conversation_of([m.model_dump() for m in p.prompt], text)
                for p, text in zip(pairs, texts, strict=True)
            ]
        )
        for texts in ([p.chosen for p in pairs], [p.rejected for p in pairs])
    ]
    return sides[0], sides[1]


def penalised(members: Sequence[Sequence[float]], penalty: float) -> list[float]:
    """mean − λ·s over members, s the unbiased standard deviation (arXiv 2310.02743, section 3).

    ``members`` is (K, N), K ≥ 2; the result has N numbers.
    """
    table = torch.tensor(members, dtype=torch.float64)
    return (table.mean(dim=0) - penalty * table.std(dim=0)).tolist()


def _measures(
    job: BTJob | EnsembleJob, pairs: Sequence[PreferencePair], scores: Sequence[Scores]
) -> dict[str, Metric]:
    """The model's measures; of an ensemble those of the penalised reward, then each member's."""
    if job.method == "bt":
        return heldout_measures(pairs, *scores[0], job.seed)
    chosen, rejected = ([side[i] for side in scores] for i in (0, 1))
    penalty = job.settings.penalty
    found = heldout_measures(
        pairs, penalised(chosen, penalty), penalised(rejected, penalty), job.seed
    )
    spread = torch.tensor(chosen + rejected, dtype=torch.float64).view(2, len(scores), -1)
    found["members_std"] = Metric(value=float(spread.std(dim=1).mean()), n=2 * len(pairs))
    for number, one in enumerate(scores):
        found[f"member_{number}_accuracy"] = heldout_measures(pairs, *one, job.seed)["accuracy"]
    return found


def flattened(splits: dict[str, dict[str, Metric]]) -> dict[str, Metric]:
    """All splits' measures by one name each; those of the test split begin with ``heldout``."""
    return {
        f"{'heldout' if split == 'test' else split}_{name}": metric
        for split, measures in splits.items()
        for name, metric in measures.items()
    }


def _cuts(encoded: Sequence[EncodedPair]) -> dict[str, int]:
    sides = [side for pair in encoded for side in (pair.chosen, pair.rejected)]
    return {
        "pairs": len(encoded),
        "contexts_cut": sum(side.cut_context > 0 for side in sides),
        "responses_cut": sum(side.cut_response > 0 for side in sides),
    }
