"""``StepModel``: a trained process reward model as the scorer of a ``ProcessRM``.

Calls from several threads take turns, so that a batch keeps all cores.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reward_harness.rewards.base import Failed
from reward_harness.rewards.process import Solution, StepScores

if TYPE_CHECKING:
    from reward_harness.models.reward_head import RewardModel

STEP_LINES = "\n"
"""Training reads one step a line."""


class StepModel:
    """Implements ``rewards.process.StepScorer`` on a model folder."""

    def __init__(self, model: RewardModel, digest: str | None = None) -> None:
        self.model, self.digest = model, digest
        self._turn = threading.Lock()

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> StepModel:
        """Read a ``model/`` folder as ``process_reward_model`` publishes it."""
        from reward_harness.models.folders import model_digest
        from reward_harness.models.reward_head import RewardModel

        return cls(RewardModel.load(folder, device=device), model_digest(folder))

    def score_solutions(self, solutions: Sequence[Solution]) -> list[StepScores | Failed]:
        """Probabilities of being right for the steps of each solution, in order."""
        from reward_harness.models.step_head import encode_steps, step_probabilities

        rows = [encode_steps(self.model, s.prompt, s.steps) for s in solutions]
        with self._turn:
            values = step_probabilities(self.model, [row for found in rows for row in found])
        scores: list[StepScores | Failed] = []
        for solution, found in zip(solutions, rows, strict=True):
            own, values = values[: len(solution.steps)], values[len(solution.steps) :]
            scores.append(StepScores(tuple(own), sum(len(row.ids) for row in found)))
        return scores

    def identity(self) -> str | None:
        """Digest of the model's files."""
        return self.digest
