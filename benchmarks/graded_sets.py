"""A rubric searched without a model on responses that GPT-4 graded: does it hold up?

Prometheus' two graded sets (arXiv 2310.08491; 80 prompts × 4 responses, three grades each; equal
mean grades are no pair). Five folds by prompt: on four the search runs and chooses, the fifth is
measured, so that every prompt is held out once. In MT-Bench each model answers a second turn after
a first answer of its own: there the two turns of the user are the prompt. Chosen rubric, initial
rubric and the two length rules meet the same pairs; intervals resample prompts. Needs
``HARNESS_DATA_MIRROR``, the folder with the files.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from typing import Any

from benchmarks.recording import mirrored
from reward_harness.data.readers import READERS
from reward_harness.data.records import RankedPrompt, prompt_key
from reward_harness.hashing import unit_interval
from reward_harness.rubrics.heldout import (
    Agreement,
    Outcomes,
    agreement,
    difference,
    length_outcomes,
)
from reward_harness.rubrics.search.choosing import choose_shared, evaluator_of, prompts_of
from reward_harness.rubrics.search.session import SearchSession
from reward_harness.sections import SearchConfig

SETS = ("vicuna", "mt_bench")
FOLDS, SEED, VALIDATION = 5, 7, 0.25
OWN_TURN = re.compile(
    r"\n+Assistant:.*\n+(?=User: .*?\n+Assistant:\s*\n+###Response to evaluate:)", re.DOTALL
)


def graded_prompts(name: str) -> tuple[list[RankedPrompt], int]:
    """(records, rows left out) of one set; ``DataError`` without the mirror or its file."""
    path = mirrored(f"rubrics/prometheus_{name}_eval.jsonl.gz", "the graded sets")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = [(number, _user_turns(json.loads(line))) for number, line in enumerate(stream, 1)]
    found = [value for _, value in READERS["prometheus"].read(rows, name)]
    records = [value for value in found if isinstance(value, RankedPrompt)]
    return records, len(found) - len(records)


def _user_turns(row: dict[str, Any]) -> dict[str, Any]:
    """The row without what the graded model itself had said before, where it is a dialogue."""
    return row | {"instruction": OWN_TURN.sub(r"\n\n", row["instruction"], count=1)}


def measure(name: str) -> dict[str, Any]:
    """Held-out agreement over all folds of one set."""
    records, left_out = graded_prompts(name)
    outcomes: dict[str, dict[int, Any]] = {n: {} for n in ("found", "initial", "longer", "shorter")}
    chosen: Counter[str] = Counter()
    for fold in range(FOLDS):
        made, mode = _fold(records, fold)
        chosen[mode] += 1
        for rule, values in made.items():
            outcomes[rule].update(values)
    row: dict[str, Any] = {"set": name, "prompts": len(records), "left_out": left_out}
    row |= {rule: _shown(agreement(values, SEED)) for rule, values in outcomes.items()}
    for rule in ("initial", "longer", "shorter"):
        gain = difference(outcomes["found"], outcomes[rule], SEED)
        row[f"found minus {rule}"] = _shown(gain)
    pairs = agreement(outcomes["found"], SEED)
    row["pairs"] = pairs.pairs if pairs else 0
    return row | {"chosen_from": dict(chosen)}


def _fold(records: list[RankedPrompt], fold: int) -> tuple[dict[str, Outcomes], str]:
    """Outcomes by rule and prompt of the fold's own prompts, and the chosen rubric's mode."""
    places = [unit_interval("fold", SEED, prompt_key(r.prompt)) for r in records]
    test = [i for i, place in enumerate(places) if int(place * FOLDS) == fold]
    rest = [i for i in range(len(records)) if i not in set(test)]
    kept = [unit_interval("choose", SEED, prompt_key(records[i].prompt)) for i in rest]
    validation = [i for i, place in zip(rest, kept, strict=True) if place < VALIDATION]
    searched = [records[i] for i in rest if i not in set(validation)]
    config = SearchConfig(backend="heuristic")
    session = SearchSession.create(searched, config, seed=SEED)
    unit = session.run().state.units[0]
    evaluator = evaluator_of(prompts_of(records, config, None, seed=SEED), config, None, seed=SEED)
    rubric, _ = choose_shared(unit.archive, unit.initial, evaluator, validation, test, SEED)
    initial = next(m.rubric for m in unit.archive if m.rubric.digest == unit.initial)
    mode = next(m.mode for m in unit.archive if m.rubric.digest == rubric.digest)
    return {
        "found": evaluator.outcomes(rubric, test),
        "initial": evaluator.outcomes(initial, test),
        "longer": length_outcomes(evaluator, test, +1),
        "shorter": length_outcomes(evaluator, test, -1),
    }, mode


def _shown(found: Agreement | None) -> list[float] | None:
    return found and [round(x, 3) for x in (found.value, found.ci_low, found.ci_high)]
