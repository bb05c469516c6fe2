"""What a search works on: prompts, response texts and what is known of which response is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reward_harness.data.records import Candidate, RankedPrompt
from reward_harness.errors import DataError
from reward_harness.hashing import digest_json
from reward_harness.rubrics.grading import prompt_text
from reward_harness.rubrics.objective import Array


@dataclass(frozen=True, slots=True)
class SearchPrompt:
    """One prompt with its responses; ``judged`` (R, R) is NaN where a judge must still be asked."""

    prompt_id: str
    text: str
    responses: tuple[str, ...]
    sources: tuple[str, ...]
    judged: Array
    labelled: bool


def search_prompts(records: Sequence[RankedPrompt], judge: str) -> list[SearchPrompt]:
    """The prompts of a search; ``judge`` "labels" requires ranks or qualities of all responses.

    Ranks decide where every response has one, whatever the judge: they cost nothing. Qualities
    decide for the judge "labels" only. ``DataError`` where that judge has neither.
    """
    return [_search_prompt(record, judge) for record in records]


def _search_prompt(record: RankedPrompt, judge: str) -> SearchPrompt:
    worth = _worth(record.candidates, judge)
    if worth is None and judge == "labels":
        raise DataError(
            "a search without a model needs a rank or a quality on every candidate",
            where=f"prompt {record.prompt_id}",
            fix="Add ranks to the data set, or set an endpoint (backend: openai).",
        )
    n = len(record.candidates)
    if worth is None:
        judged = np.full((n, n), math.nan)
        np.fill_diagonal(judged, 0.0)
    else:
        judged = np.sign(worth[:, None] - worth[None, :])
    return SearchPrompt(
        prompt_id=record.prompt_id,
        text=prompt_text(record.prompt),
        responses=tuple(c.text for c in record.candidates),
        sources=tuple(c.source for c in record.candidates),
        judged=judged,
        labelled=worth is not None,
    )


def _worth(candidates: Sequence[Candidate], judge: str) -> Array | None:
    """Larger is better; None where the labels do not say."""
    ranks = [c.rank for c in candidates if c.rank is not None]
    if len(ranks) == len(candidates):
        return -np.asarray(ranks, dtype=np.float64)
    qualities = [c.quality for c in candidates if c.quality is not None]
    if judge == "labels" and len(qualities) == len(candidates):
        return np.asarray(qualities, dtype=np.float64)
    return None


def dataset_digest(records: Sequence[RankedPrompt]) -> str:
    """Identity of the records a search reads."""
    return digest_json([record.model_dump(mode="json") for record in records])
