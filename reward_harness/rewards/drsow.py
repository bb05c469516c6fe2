"""``DrSow``: the density ratio of a strong and a weak language model as a reward.

    r(x, y) = β · Σ_t [log p_strong(y_t | x, y_<t) − log p_weak(y_t | x, y_<t)]

over the response's tokens and its end token (Xu et al. 2024, arXiv 2411.02481): what the better
aligned model likes more than the other is worth more. No training is needed; β is 1. Each model
reads the text by its own tokenizer and template, so the two may differ. Without a weak model the
strong one reads the response without its prompt: the ratio then says how the prompt explains it.

``train()`` fits β on preferences, by the likelihood Σ log σ(β·(r_chosen − r_rejected)) and
a weak prior, and keeps the one of the given pairs of models that agrees with more of them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from reward_harness.data.files import json_lines, located
from reward_harness.data.readers import READERS
from reward_harness.data.records import PreferencePair
from reward_harness.errors import DataError, SpecError, TrainingError
from reward_harness.hashing import digest_json
from reward_harness.model_spec import ModelSpec
from reward_harness.models.folders import model_digest, model_folder
from reward_harness.rewards.base import (
    BaseRM,
    Conversation,
    Failed,
    Scored,
    ScoreResult,
    conversation_of,
    logistic,
    only_valid,
)
from reward_harness.rewards.sources import model_spec
from reward_harness.workspace import Workspace

if TYPE_CHECKING:
    from reward_harness.rewards.language_model import LanguageModel

ModelName = str | Path | ModelSpec
PRIOR = 0.01
"""Precision of the prior on β in units of the differences' standard deviation: separable
preferences alone would drive β to infinity."""
BETA_MAX = 100.0
TRANSCRIPT = "\n\nHuman:"
NO_PROMPT = [{"role": "user", "content": ""}]


@dataclass(frozen=True, slots=True)
class Fit:
    """What ``train`` found: the pair's place in the list, β, agreement, number of preferences."""

    pair: int
    beta: float
    agreement: float
    n: int


class DrSow(BaseRM):
    """See the module's docstring.

    Args:
        strong, weak: models: a package model's name, a folder, a hub repository or a
            ``ModelSpec``; ``base_model`` is another name for ``strong``.
        preference_data: preferences for ``train``: a JSONL file (TRL or hh-rlhf format) or pairs.
        pairs: several ``(strong, weak)`` for ``train`` to choose from.
        beta: the scale.
        device, torch_dtype: of both models.
    """

    pace = "batched"

    def __init__(
        self,
        strong: ModelName | None = None,
        weak: ModelName | None = None,
        *,
        base_model: ModelName | None = None,
        preference_data: Path | str | Sequence[PreferencePair] | None = None,
        pairs: Sequence[tuple[ModelName, ModelName | None]] = (),
        beta: float = 1.0,
        device: str | None = None,
        torch_dtype: str | None = None,
        cache: Path | None = None,
    ) -> None:
        first = strong if strong is not None else base_model
        self.pairs = [*([(first, weak)] if first is not None else []), *pairs]
        if not self.pairs or (strong is not None and base_model is not None):
            raise SpecError(
                "a density ratio needs its models",
                expected="strong (or base_model) and weak, or pairs=[(strong, weak), …]",
            )
        self.beta = beta
        self.chosen = 0
        self.fit: Fit | None = None
        self._preferences = preference_data
        self._device, self._dtype = device, torch_dtype
        self._cache = cache
        self._models: dict[str, LanguageModel] = {}
        self._turn = threading.Lock()

    def train(self) -> Fit:
        """Fit β and choose the pair; ``TrainingError`` where no pair beats chance.

        ``SpecError`` without preferences, or with fewer than two.
        """
        preferences = _preferences(self._preferences)
        fits: list[Fit] = []
        for number in range(len(self.pairs)):
            self.chosen = number
            fits.append(_fitted(number, self._differences(preferences)))
        best = max(fits, key=lambda fit: (fit.agreement, -fit.pair))
        if best.agreement <= 0.5:
            raise TrainingError(
                "no pair of models ranks the preferences better than chance",
                got=", ".join(f"{fit.agreement:.3f}" for fit in fits),
                fix="Give a stronger model, or a weak one that it was made from.",
            )
        self.chosen, self.beta, self.fit = best.pair, best.beta, best
        return best

    def score_batch_results(
        self, batch: Sequence[Conversation], batch_size: int = 32, progress: bool = False
    ) -> list[ScoreResult]:
        """One result for each conversation, in order; too long for a model is ``Failed``."""
        return only_valid(batch, self._score)

    def identity(self) -> str | None:
        """Digest of both models' files, of β and of the number format."""
        folders = [name and model_digest(self._folder(name)) for name in self.pairs[self.chosen]]
        return digest_json(["drsow", folders, self.beta, self._dtype])

    def _score(self, batch: list[Conversation]) -> list[ScoreResult]:
        strong, weak = self.pairs[self.chosen]
        with self._turn:
            high = self._model(strong).log_likelihoods(batch)
            if weak is None:
                low = self._model(strong).log_likelihoods([[*NO_PROMPT, c[-1]] for c in batch])
            else:
                low = self._model(weak).log_likelihoods(batch)
        return [self._result(top, base) for top, base in zip(high, low, strict=True)]

    def _result(
        self, strong: tuple[float, int] | Failed, weak: tuple[float, int] | Failed
    ) -> ScoreResult:
        if isinstance(strong, Failed):
            return strong
        if isinstance(weak, Failed):
            return weak
        value = self.beta * (strong[0] - weak[0])
        details = {
            "raw_logits": [strong[0], weak[0]],
            "normalized_score": logistic(value),
            "tokens_scored": strong[1],
        }
        return Scored(value, details)

    def _differences(self, preferences: Sequence[PreferencePair]) -> list[float]:
        """Log ratios of chosen minus rejected, without β; pairs that are too long are left out."""
        batch = [
            conversation_of([m.model_dump() for m in pair.prompt], text)
            for pair in preferences
            for text in (pair.chosen, pair.rejected)
        ]
        ratios = [
            result.details["raw_logits"][0] - result.details["raw_logits"][1]
            if isinstance(result, Scored)
            else None
            for result in self._score(cast("list[Conversation]", batch))
        ]
        return [
            chosen - rejected
            for chosen, rejected in zip(ratios[::2], ratios[1::2], strict=True)
            if chosen is not None and rejected is not None
        ]

    def _model(self, name: ModelName) -> LanguageModel:
        from reward_harness.rewards.language_model import LanguageModel

        folder = self._folder(name)
        if str(folder) not in self._models:
            self._models[str(folder)] = LanguageModel(folder, self._device, self._dtype)
        return self._models[str(folder)]

    def _folder(self, name: ModelName) -> Path:
        cache = self._cache or Workspace.discover().cache
        return model_folder(name if isinstance(name, ModelSpec) else model_spec(name), cache)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_models", "_turn")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._models, self._turn = {}, threading.Lock()


def _preferences(
    given: Path | str | Sequence[PreferencePair] | None,
) -> Sequence[PreferencePair]:
    if given is None:
        raise SpecError("nothing to train on", expected="preference_data, a JSONL file or pairs")
    if isinstance(given, Path | str):
        given = _read_preferences(Path(given))
    if len(given) < 2:
        raise SpecError("too few preferences", got=str(len(given)), expected="at least 2")
    return given


def _read_preferences(path: Path) -> list[PreferencePair]:
    """Pairs of a JSONL file; ``DataError`` names the line that holds none."""
    rows = list(json_lines(path))
    transcripts = bool(rows) and str(dict(rows[0][1]).get("chosen")).startswith(TRANSCRIPT)
    reader = READERS["hh-rlhf" if transcripts else "trl-preference"]
    pairs: list[PreferencePair] = []
    for line, read in reader.read(rows, path.stem):
        if isinstance(read, DataError):
            raise located(read, f"{path}:{line}")
        pairs.append(cast("PreferencePair", read))
    return pairs


def _fitted(pair: int, differences: Sequence[float]) -> Fit:
    """β ≥ 0 of the greatest penalised likelihood, and the share of preferences agreed with."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    if not differences:
        return Fit(pair, 0.0, 0.0, 0)
    found = np.asarray(differences)
    unit = float(np.sqrt(np.mean(found**2))) or 1.0

    def loss(beta: float) -> float:
        return float(np.logaddexp(0, -beta * found / unit).sum() + 0.5 * PRIOR * beta**2)

    best: Any = minimize_scalar(loss, bounds=(0.0, BETA_MAX), method="bounded")
    agreement = float(np.mean((found > 0) + 0.5 * (found == 0)))
    return Fit(pair, float(best.x) / unit, agreement, len(differences))
