"""Searching again for what was searched before: the rubric in force stays unless beaten.

A repetition (``Services.again``, the weekly schedule's date) makes other random choices, has a
model propose anew (grades and preferences stay known) and publishes a population of its own.
``best_rubric`` then compares what it would choose with the *incumbent*: the rubric in force when
that population came, chosen from the same data and settings. Only a rubric that orders the test
pairs better, with the whole paired 95 % interval above 0, replaces it; else the incumbent's files
are published again, so that its digest stays and nothing made from it turns stale. Each round has
that interval's chance, one in forty, to replace a rubric by an equally good one.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from reward_harness.hashing import derive_seed
from reward_harness.llm.event_loop import run_sync
from reward_harness.manifest import Cost, Frozen, Outcome
from reward_harness.rubrics.files import SHARED, read_rubrics
from reward_harness.rubrics.heldout import Agreement, agreement, difference
from reward_harness.rubrics.search.choosing import PAIRS_A_PROMPT
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.types import Rubric
from reward_harness.stages.make import StageRun
from reward_harness.store import Artifact

NOTE = "comparison"
RUBRIC_NAME = "rubric.json"


class Comparison(Frozen):
    """What a re-search found beside the incumbent, on the same test pairs."""

    round: str
    incumbent: str
    replaced: bool
    reason: str
    challenger: Agreement | None = None
    in_force: Agreement | None = None
    difference: Agreement | None = None


def seed_of(run: StageRun) -> int:
    """The search's seed: the experiment's own, or another one for each repetition."""
    again, seed = run.recipe.again, run.experiment.seed
    return derive_seed(seed, "again", again) if again else seed


def draw_of(run: StageRun) -> int:
    """Tells a repetition's proposals apart from those that the verdict store has: 31 bits."""
    again = run.recipe.again
    return derive_seed(0, "draw", again) >> 1 if again else 0


def incumbent_of(run: StageRun, again: str) -> Artifact | None:
    """The rubric in force when population ``again`` came; None for an experiment's own search.

    Rubrics of other settings or other data do not count: their splits may differ.
    """
    if not again:
        return None
    population = run.input("rubric_population").digest
    ranked = run.input("ranked_prompts").digest
    key, stage = run.experiment.key, run.stage.name
    earlier = takewhile(
        lambda p: p.inputs.get("rubric_population") != population,
        run.store.publications(key, stage),
    )
    comparable = [
        p.digest
        for p in earlier
        if p.spec_digest == run.recipe.spec_digest and p.inputs.get("ranked_prompts") == ranked
    ]
    return run.store.load(key, stage, comparable[-1]) if comparable else None


def compare(
    challenger: Rubric,
    incumbent: Artifact,
    again: str,
    evaluator: Evaluator,
    test: Sequence[int],
    seed: int,
) -> Comparison:
    """The paired difference on the test prompts; ``LLMError`` and ``BudgetExceeded`` may end it."""
    in_force = read_rubrics(incumbent.file(RUBRIC_NAME))[SHARED]
    if in_force.digest == challenger.digest:
        return kept(incumbent, again, "the search found the same rubric again")
    run_sync(evaluator.prepare([challenger, in_force], test, pairs=PAIRS_A_PROMPT))
    found, known = (evaluator.outcomes(rubric, test) for rubric in (challenger, in_force))
    gain = difference(found, known, seed)
    replaced = gain is not None and gain.ci_low > 0
    reason = "no test pair could be judged" if gain is None else _reason(gain)
    return Comparison(
        round=again,
        incumbent=incumbent.digest,
        replaced=replaced,
        reason=reason,
        challenger=agreement(found, seed),
        in_force=agreement(known, seed),
        difference=gain,
    )


def _reason(gain: Agreement) -> str:
    verdict = "lies above 0" if gain.ci_low > 0 else "does not lie above 0"
    return (
        f"new minus incumbent {gain.value:+.3f}, 95 % interval {gain.ci_low:+.3f} to "
        f"{gain.ci_high:+.3f} {verdict}"
    )


def kept(incumbent: Artifact, again: str, reason: str) -> Comparison:
    """A comparison that needed no measurement."""
    return Comparison(round=again, incumbent=incumbent.digest, replaced=False, reason=reason)


def publish_again(incumbent: Artifact, comparison: Comparison, cost: Cost, folder: Path) -> Outcome:
    """The incumbent's own files and numbers, with the comparison as a note of this publication."""
    incumbent.verify()
    for output in incumbent.manifest.outputs:
        target = folder / output.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(incumbent.path / output.path, target)
    manifest = incumbent.manifest
    notes = {NOTE: comparison.model_dump(mode="json")}
    return Outcome(metrics=manifest.metrics, gates=manifest.gates, cost=cost, notes=notes)
