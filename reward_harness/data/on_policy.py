"""Pairs from a policy's own scored responses, and the buffer of rounds that is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from reward_harness.data.confidence import trigram_similarity
from reward_harness.data.records import PreferencePair, RLPrompt

Buffer = Literal["current", "rolling2", "full"]
ROUNDS_KEPT: dict[Buffer, int | None] = {"current": 1, "rolling2": 2, "full": None}


@dataclass(frozen=True, slots=True)
class Paired:
    """The pairs of a round, and how many prompts gave none, by reason."""

    pairs: list[PreferencePair]
    too_close: int = 0
    too_similar: int = 0
    unscored: int = 0


def pair_best_and_worst(
    prompts: Sequence[RLPrompt],
    responses: Sequence[Sequence[tuple[str, float | None]]],
    *,
    round_number: int,
    min_margin: float,
    max_similarity: float,
) -> Paired:
    """The best against the worst (response, score) of each prompt.

    A prompt is skipped where fewer than two responses have a score, where the margin does not
    exceed ``min_margin``, or where the two share more than ``max_similarity`` of their trigrams.
    """
    pairs: list[PreferencePair] = []
    too_close = too_similar = unscored = 0
    for prompt, found in zip(prompts, responses, strict=True):
        scored = [(text, score) for text, score in found if score is not None and text.strip()]
        if len(scored) < 2:
            unscored += 1
            continue
        best = max(scored, key=lambda one: one[1])
        worst = min(scored, key=lambda one: one[1])
        margin = best[1] - worst[1]
        if margin <= min_margin or best[0] == worst[0]:
            too_close += 1
        elif trigram_similarity(best[0], worst[0]) > max_similarity:
            too_similar += 1
        else:
            name = f"round-{round_number}/{prompt.prompt_id}"
            pairs.append(
                PreferencePair(
                    pair_id=name,
                    prompt=prompt.prompt,
                    chosen=best[0],
                    rejected=worst[0],
                    source=f"round-{round_number}",
                    margin=margin,
                )
            )
    return Paired(pairs, too_close, too_similar, unscored)


def buffered(rounds: Sequence[Sequence[PreferencePair]], buffer: Buffer) -> list[PreferencePair]:
    """The pairs to train on after the last of ``rounds``: its own, the last two rounds', or all."""
    kept = ROUNDS_KEPT[buffer]
    chosen = rounds if kept is None else rounds[-kept:]
    return [pair for pairs in chosen for pair in pairs]
