"""What a search writes: the population and the output JSON that covers every prompt.

Nothing here holds a time, a machine or a key, so the same search makes the same bytes; when and
where it ran stands in the manifest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reward_harness.data.records import RankedPrompt
from reward_harness.errors import DataError
from reward_harness.hashing import digest_json
from reward_harness.llm.backends import resolve_endpoint
from reward_harness.manifest import Frozen
from reward_harness.prompts import ROLES
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.session import SearchResult, SearchSession
from reward_harness.rubrics.search.state import Member, Round, SearchState
from reward_harness.rubrics.types import Rubric


class UnitResult(Frozen):
    """One population as published: ``archive`` is what a selection chooses from, best first."""

    unit_id: str
    initial: str
    best: str
    population: tuple[str, ...]
    archive: tuple[Member, ...]
    finished: str | None


class Population(Frozen):
    """``population.json``; ``again`` names the repetition where it is not the first search."""

    scope: str
    mode: str
    backend: str
    prompts: int
    stopped: str
    inconsistent_judgements: float | None
    units: tuple[UnitResult, ...]
    again: str = ""


def population_of(session: SearchSession, result: SearchResult, again: str = "") -> Population:
    """The published form of the search's units."""
    return Population(
        scope=session.config.scope,
        mode=session.config.mode,
        backend=result.backend,
        prompts=len(session.records),
        stopped=result.stopped,
        inconsistent_judgements=result.inconsistent_share,
        units=tuple(
            UnitResult(
                unit_id=unit.unit_id,
                initial=unit.initial,
                best=unit.best.rubric.digest,
                population=tuple(m.rubric.digest for m in unit.members),
                archive=unit.archive,
                finished=unit.finished,
            )
            for unit in result.state.units
        ),
        again=again,
    )


def read_population(path: Path) -> Population:
    """``population.json`` of a search."""
    try:
        return Population.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            "not a population", where=str(path), got=str(error).splitlines()[0]
        ) from error


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for ``records``, more than the search itself looked at: a rubric for each.

    ``evaluator`` has their verdicts, in the same order.
    """

    records: Sequence[RankedPrompt]
    evaluator: Evaluator
    rubrics: Sequence[Rubric]


def output_json(
    session: SearchSession,
    result: SearchResult,
    dataset_path: str,
    seed: int,
    choice: Choice | None = None,
) -> dict[str, Any]:
    """``search_output.json``: for every prompt its best rubric and the scores that it gives.

    ``score`` is the objective on that prompt alone.
    """
    entries = _entries(session, result) if choice is None else _chosen_entries(choice)
    scores = {e["prompt_id"]: e["score"] for e in entries}
    config = session.config.model_dump(mode="json")
    return {
        "best_rubrics": entries,
        "best_objective_scores": scores,
        "best_scores": scores,
        "run_manifest": {
            "run_id": digest_json([session.state.dataset, session.state.config])[:16],
            "dataset": {"path": dataset_path, "dataset_sha256": session.state.dataset},
            "backend": {
                "requested": session.config.backend,
                "resolved": result.backend,
                "api_key_env": session.config.endpoint.api_key_env,
                "api_key_present": result.backend == "openai",
            },
            "seed": seed,
            "config_snapshot": config,
            "config_sha256": digest_json(config),
            "llm_snapshot": _llm_snapshot(session),
        },
        "search_diagnostics": {
            "history": [line.model_dump(mode="json") for line in result.state.history],
            "mutation_statistics": _mutation_statistics(result.state),
            "stopped": result.stopped,
            "inconsistent_judgements": result.inconsistent_share,
        },
    }


def _entries(session: SearchSession, result: SearchResult) -> list[dict[str, Any]]:
    return [
        _entry(session.records[index], session.evaluator, index, unit.best.rubric)
        for unit in result.state.units
        for index in unit.prompts
    ]


def _chosen_entries(choice: Choice) -> list[dict[str, Any]]:
    return [
        _entry(record, choice.evaluator, index, rubric)
        for index, (record, rubric) in enumerate(zip(choice.records, choice.rubrics, strict=True))
    ]


def _entry(
    record: RankedPrompt, evaluator: Evaluator, index: int, rubric: Rubric
) -> dict[str, Any]:
    scores = evaluator.scores(rubric, index)
    by_id = {
        c.candidate_id: None if np.isnan(s) else float(s)
        for c, s in zip(record.candidates, scores, strict=True)
    }
    scored = {name: s for name, s in by_id.items() if s is not None}
    return {
        "prompt_id": record.prompt_id,
        "rubric": rubric.model_dump(mode="json"),
        "score": evaluator.evaluate(rubric, [index]).score,
        "best_candidate_id": max(scored, key=lambda n: scored[n], default=None),
        "candidate_scores": by_id,
    }


def _llm_snapshot(session: SearchSession) -> dict[str, Any] | None:
    """Which models were asked, how, and with which templates; None without a model."""
    if session.roles is None:
        return None
    endpoint = resolve_endpoint(session.config.endpoint)
    return {
        "base_url": endpoint.base_url,
        "models": {role: endpoint.role_models.get(role, endpoint.model) for role in ROLES},
        "temperature": endpoint.temperature,
        "reasoning_effort": endpoint.reasoning_effort,
        "extra_body": endpoint.extra_body,
        "templates": {
            role: {"locale": t.locale, "version": t.version, "digest": t.digest}
            for role, t in session.roles.templates.items()
        },
    }


def _mutation_statistics(state: SearchState) -> dict[str, dict[str, int]]:
    """By mode: rubrics proposed, and how many of the archives' rubrics it made."""
    found: dict[str, dict[str, int]] = {}
    for line in state.history:
        for mode, count in line.modes.items():
            found.setdefault(mode, {"proposed": 0, "archived": 0})["proposed"] += count
    for unit in state.units:
        for member in unit.archive:
            found.setdefault(member.mode, {"proposed": 0, "archived": 0})["archived"] += 1
    return dict(sorted(found.items()))


def write_json(path: Path, value: Any) -> None:
    """Readable JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def by_generation(history: Sequence[Round]) -> list[tuple[int, float, float, float | None]]:
    """(generation, best, mean, agreement of the best), averaged over units."""
    lines: dict[int, list[Round]] = {}
    for line in history:
        lines.setdefault(line.generation, []).append(line)
    found: list[tuple[int, float, float, float | None]] = []
    for generation, rounds in sorted(lines.items()):
        best = [r.best for r in rounds if r.best is not None]
        mean = [r.mean for r in rounds if r.mean is not None]
        agreement = [r.agreement for r in rounds if r.agreement is not None]
        if best and mean:
            agreed = float(np.mean(agreement)) if agreement else None
            found.append((generation, float(np.mean(best)), float(np.mean(mean)), agreed))
    return found
