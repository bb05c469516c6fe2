"""The reward-hacking detector inside a run: what it writes into rows, when it stops the run.

Every rollout's row carries the detector's columns (``hacking_*``): the moments it saw, its two
numbers with their thresholds, and its verdict. They are all it needs to go on after a resume, and
all that ``hacking_report`` draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reward_harness.evaluation.hacking import (
    DetectorStatus,
    Moments,
    RewardHackingDetector,
    StepSummary,
)
from reward_harness.sections import HackingSpec
from reward_harness.training.job import HackingOutcome

Columns = dict[str, float | int | str | None]


class HackingWatch:
    """One run's detector; ``look`` once a rollout."""

    def __init__(self, spec: HackingSpec) -> None:
        self.spec = spec
        self._begin()

    def look(
        self, step: int, lengths: Sequence[float], rewards: Sequence[float], kl: float | None
    ) -> Columns:
        """Judge one rollout of scored responses (lengths in tokens); the columns of its row."""
        seen = StepSummary(
            step, Moments.of(lengths, "response lengths"), Moments.of(rewards, "rewards"), kl
        )
        status = self._judge(seen)
        return {
            **seen.row(),
            "hacking_length_z": status.length_z,
            "hacking_length_window": status.length_mean,
            "hacking_length_low": status.length_low,
            "hacking_length_high": status.length_high,
            "hacking_divergence": status.reward_divergence,
            "hacking_divergence_threshold": status.divergence_threshold,
            "hacking_verdict": status.verdict,
        }

    def resume(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Be where the run that wrote ``rows`` was."""
        self._begin()
        for row in rows:
            if row.get("hacking_lengths") is not None:
                self._judge(StepSummary.of_row(row))

    @property
    def alert(self) -> str | None:
        """What to tell about the newest rollout; None if there is nothing."""
        if not self.judged or not self.judged[-1].warning:
            return None
        newest = self.judged[-1]
        return f"reward hacking, {newest.verdict}: {newest.message}"

    @property
    def stops(self) -> bool:
        """Whether the run has to end here."""
        return self.spec.on_hack == "stop" and any(s.hard_stop for s in self.judged)

    def outcome(self) -> HackingOutcome:
        """What the run reports of all its rollouts."""
        stop = next((s for s in self.judged if s.hard_stop), None)
        return HackingOutcome(
            judged_steps=sum(s.length_z is not None for s in self.judged),
            warnings={s.step: s.message for s in self.judged if s.warning},
            hard_stop_step=stop.step if stop else None,
            message=stop.message if stop else "",
            stopped=self.stops,
        )

    def _begin(self) -> None:
        spec = self.spec
        self._detector = RewardHackingDetector(
            spec.length_z_threshold, spec.kl_threshold, spec.window, spec.warmup
        )
        self.judged: list[DetectorStatus] = []

    def _judge(self, seen: StepSummary) -> DetectorStatus:
        status = self._detector.take(seen)
        self.judged.append(status)
        return status
