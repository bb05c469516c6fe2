"""What a search works on: prompts, response texts and what is known of which response is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from reward_harness.data.records import Candidate, RankedPrompt
from reward_harness.errors import DataError
from reward_harness.hashing import digest_json, unit_interval
from reward_harness.rubrics.extraction import WHOLE
from reward_harness.rubrics.extraction import extract as extracted
from reward_harness.rubrics.grading import prompt_text
from reward_harness.rubrics.objective import Array
from reward_harness.search_sections import Extraction


@dataclass(frozen=True, slots=True)
class SearchPrompt:
    """One prompt with its responses; ``judged`` (R, R) is NaN where a judge must still be asked."""

    prompt_id: str
    text: str
    responses: tuple[str, ...]
    sources: tuple[str, ...]
    judged: Array
    labelled: bool


def search_prompts(
    records: Sequence[RankedPrompt],
    judge: str,
    *,
    extract: Extraction = WHOLE,
    candidate_extract: Extraction = WHOLE,
    noise: float = 0.0,
    seed: int = 0,
) -> list[SearchPrompt]:
    """The prompts of a search; ``judge`` "labels" requires ranks or qualities of all responses.

    Ranks decide where every response has one, whatever the judge: they cost nothing. Qualities
    decide for the judge "labels" only. ``DataError`` where that judge has neither. ``noise`` is
    the share of label preferences that are flipped: which ones follows from ``seed``, the prompt's
    id and the two candidates' ids.
    """
    prompts = [_search_prompt(record, judge, extract, candidate_extract) for record in records]
    if noise == 0:
        return prompts
    return [_noisy(p, r, noise, seed) for p, r in zip(prompts, records, strict=True)]


def _search_prompt(
    record: RankedPrompt, judge: str, extract: Extraction, candidate_extract: Extraction
) -> SearchPrompt:
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
        text=extracted(extract, prompt_text(record.prompt)),
        responses=tuple(extracted(candidate_extract, c.text) for c in record.candidates),
        sources=tuple(c.source for c in record.candidates),
        judged=judged,
        labelled=worth is not None,
    )


def _noisy(prompt: SearchPrompt, record: RankedPrompt, noise: float, seed: int) -> SearchPrompt:
    """The prompt with some of its label preferences flipped, antisymmetrically."""
    if not prompt.labelled:
        return prompt
    signs = np.ones_like(prompt.judged)
    ids = [c.candidate_id for c in record.candidates]
    for a, b in combinations(range(len(ids)), 2):
        pair = sorted((ids[a], ids[b]))
        if unit_interval(seed, "noise", record.prompt_id, *pair) < noise:
            signs[a, b] = signs[b, a] = -1.0
    return replace(prompt, judged=prompt.judged * signs)


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
