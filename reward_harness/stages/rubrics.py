"""The stages that search rubrics and choose one: ``rubric_population`` and ``best_rubric``.

The search sees the train split only, the choice is made on the validation split, the numbers come
from the test split. A search that is killed goes on from its last complete generation
(``data/cache/resume/<recipe>/``), and no answer that was paid for is asked for again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reward_harness.data.files import read_records
from reward_harness.data.records import RankedPrompt, prompt_key
from reward_harness.errors import SpecError
from reward_harness.llm.event_loop import run_sync
from reward_harness.llm.gateway import Caps
from reward_harness.llm.roles import ModelRoles
from reward_harness.manifest import Metric, Outcome
from reward_harness.rewards.base import BaseRM
from reward_harness.rewards.load import load_rm
from reward_harness.rm.artifact import write_artifact
from reward_harness.rm.package import rubric_artifact, rubric_runtime
from reward_harness.rubrics.extraction import GRADED_PARTS_NAME
from reward_harness.rubrics.files import SHARED, preset_for, read_rubrics, write_rubrics
from reward_harness.rubrics.heldout import Agreement, Heldout
from reward_harness.rubrics.plots import plot_choice, plot_costs, plot_history
from reward_harness.rubrics.report import listed_criteria, population_summary, rubric_summary
from reward_harness.rubrics.search.choosing import (
    choose_shared,
    evaluator_of,
    prompts_of,
)
from reward_harness.rubrics.search.evaluation import Evaluator
from reward_harness.rubrics.search.holdout import (
    DEFAULT_HOLDOUT_FRACTION,
    Holdout,
    hold_out,
)
from reward_harness.rubrics.search.output import (
    Population,
    UnitResult,
    output_json,
    population_of,
    read_population,
    write_json,
)
from reward_harness.rubrics.search.own_rubrics import Own, choose_own
from reward_harness.rubrics.search.problem import search_prompts
from reward_harness.rubrics.search.session import SearchResult, SearchSession
from reward_harness.rubrics.search.surroundings import Surroundings, open_search_roles
from reward_harness.rubrics.types import Rubric
from reward_harness.search_sections import GradedParts
from reward_harness.stages.costs import cost_of, cost_of_roles
from reward_harness.stages.make import StageRun
from reward_harness.stages.research import (
    NOTE,
    Comparison,
    compare,
    draw_of,
    incumbent_of,
    kept,
    publish_again,
    seed_of,
)
from reward_harness.store import Artifact

CHECKPOINT_NAME = "search.json"


def rubric_population(run: StageRun, folder: Path) -> Outcome:
    """Search on the train split; ``BudgetExceeded`` where this run's own budget ends it early."""
    records = _train_holdout(run).searched
    checkpoint = run.workspace.cache / "resume" / run.recipe.work_key / CHECKPOINT_NAME
    around = _surroundings(run, checkpoint)
    config, seed = run.experiment.search, seed_of(run)
    if checkpoint.is_file():
        session = SearchSession.resume(records, config, checkpoint, seed=seed, around=around)
    else:
        session = SearchSession.create(records, config, seed=seed, around=around)
    try:
        result = session.run()
        if result.out_of_budget is not None and run.services.search_budget:
            raise result.out_of_budget
        _write_search(run, session, result, folder)
    finally:
        session.close()
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    return Outcome(metrics=_search_metrics(result), cost=cost_of(result.spent))


def best_rubric(run: StageRun, folder: Path) -> Outcome:
    """Choose on the validation split, measure on the test split; a re-search's choice has to beat
    the rubric in force.
    """
    population = read_population(run.input("rubric_population").file("population.json"))
    splits = {name: _records(run, name) for name in ("train", "validation", "test")}
    roles = open_search_roles(run.experiment.search, _surroundings(run, None))
    every = [record for records in splits.values() for record in records]
    evaluator = _evaluator(run, every, roles)
    ends = np.cumsum([len(splits[name]) for name in splits]).tolist()
    ranges = {"train": range(ends[0]), "validation": range(ends[0], ends[1])}
    ranges["test"] = range(ends[1], ends[2])
    incumbent = incumbent_of(run, population.again)
    comparison: Comparison | None = None
    try:
        if population.scope == "shared":
            rubrics, heldout = _choose(run, population, evaluator, ranges)
        else:
            rubrics, heldout = _own_rubrics(run, population, evaluator)
        if incumbent is not None:
            comparison = _against(run, incumbent, population, rubrics, evaluator, ranges["test"])
    finally:
        if roles is not None:
            run_sync(roles.aclose())
    if incumbent is not None and comparison is not None and not comparison.replaced:
        return publish_again(incumbent, comparison, cost_of_roles(roles), folder)
    _write_choice(run, rubrics, heldout, evaluator, ranges, folder)
    notes = {} if comparison is None else {NOTE: comparison.model_dump(mode="json")}
    return Outcome(metrics=_heldout_metrics(heldout), cost=cost_of_roles(roles), notes=notes)


def _against(
    run: StageRun,
    incumbent: Artifact,
    population: Population,
    rubrics: dict[str, Rubric],
    evaluator: Evaluator,
    test: range,
) -> Comparison:
    """A re-search's choice beside the rubric in force."""
    if SHARED not in rubrics:
        return kept(incumbent, population.again, "rubrics of single prompts are not compared")
    seed = run.experiment.seed
    return compare(rubrics[SHARED], incumbent, population.again, evaluator, test, seed)


def _records(run: StageRun, split: str) -> list[RankedPrompt]:
    return read_records(run.input("ranked_prompts").file(f"{split}.jsonl"), RankedPrompt)


def _surroundings(run: StageRun, checkpoint: Path | None) -> Surroundings:
    budget = run.services.search_budget
    calls, tokens = budget.get("max_calls"), budget.get("max_tokens")
    return Surroundings(
        cache=run.workspace.cache,
        prompts=run.workspace.prompts,
        presets=_presets(run),
        checkpoint=checkpoint,
        draw=draw_of(run),
        caps=Caps(
            max_calls=None if calls is None else int(calls),
            max_usd=budget.get("max_usd"),
            max_tokens=None if tokens is None else int(tokens),
        ),
        progress=run.services.progress,
        stage=run.stage.name,
    )


def _presets(run: StageRun) -> dict[str, Rubric]:
    """The rubrics that the search starts from, where the experiment names a file of them."""
    search = run.experiment.search
    if search.preset_rubric is None:
        return {}
    path = run.workspace.root / search.preset_rubric
    found = preset_for(path, search_prompts(_records(run, "train"), "model"), search.preset_strict)
    if search.scope != "shared":
        return found
    if SHARED not in found:
        raise SpecError(
            "scope shared needs a shared preset", where=str(path), got=sorted(found)[:6]
        )
    return {SHARED: found[SHARED]}


def _write_search(
    run: StageRun, session: SearchSession, result: SearchResult, folder: Path
) -> None:
    population = population_of(session, result, run.recipe.again)
    history = result.state.history
    write_json(folder / "population.json", population.model_dump(mode="json"))
    write_json(folder / "history.json", [line.model_dump(mode="json") for line in history])
    named = f"ranked_prompts/{run.input('ranked_prompts').digest}/train.jsonl"
    output = output_json(session, result, named, seed_of(run))
    write_json(folder / "search_output.json", output)
    summary = population_summary(population, history)
    (folder / "summary.md").write_text(summary, encoding="utf-8")
    plot_history(history, folder / "plot.png")
    ledger = result.state.ledger
    if session.roles is not None:
        (folder / "log").mkdir()
        write_json(folder / "log/ledger.json", [line.model_dump(mode="json") for line in ledger])
        plot_costs(ledger, folder / "log/costs.png")


def _search_metrics(result: SearchResult) -> dict[str, Metric]:
    members = list(result.best_members.values())
    scores = [m.score for m in members if m.score is not None]
    agreements = [m.agreement for m in members if m.agreement is not None]
    metrics = {"generations": Metric(value=result.state.generation - 1)}
    if scores:
        metrics["objective"] = Metric(value=float(np.mean(scores)), direction="max")
    if agreements:
        value = float(np.mean(agreements))
        metrics["in_sample_agreement"] = Metric(value=value, direction="max")
    return metrics


def _evaluator(
    run: StageRun, records: Sequence[RankedPrompt], roles: ModelRoles | None
) -> Evaluator:
    """Grades and true labels: ``noise`` is for the search to cope with, not to measure by."""
    search, seed = run.experiment.search.model_copy(update={"noise": 0.0}), run.experiment.seed
    return evaluator_of(prompts_of(records, search, roles, seed=seed), search, roles, seed=seed)


def _choose(
    run: StageRun, population: Population, evaluator: Evaluator, ranges: dict[str, range]
) -> tuple[dict[str, Rubric], Heldout]:
    """The shared rubric: chosen on validation, measured beside the initial one on test."""
    unit: UnitResult = population.units[0]
    chosen, heldout = choose_shared(
        unit.archive,
        unit.initial,
        evaluator,
        ranges["validation"],
        ranges["test"],
        run.experiment.seed,
    )
    return {SHARED: chosen}, heldout


def _train_holdout(run: StageRun) -> Holdout:
    """What of the train split is searched: without held-out candidates in own rubrics' scopes."""
    records, scope = _records(run, "train"), run.experiment.search.scope
    if scope == "shared":
        return Holdout(records, [], [])
    return hold_out(records, DEFAULT_HOLDOUT_FRACTION, scope, run.experiment.seed)


def _own_rubrics(
    run: StageRun, population: Population, evaluator: Evaluator
) -> tuple[dict[str, Rubric], Heldout]:
    """Each prompt's own rubric, chosen on its held-out candidates; train prompts come first."""
    held = _train_holdout(run).held
    owns = [
        Own(position, unit.archive, unit.initial, held.get(unit.unit_id))
        for position, unit in enumerate(population.units)
    ]
    chosen, heldout = choose_own(population.scope, owns, evaluator, run.experiment.seed)
    return {population.units[i].unit_id: rubric for i, rubric in chosen.items()}, heldout


def searched_rubric(run: StageRun, folder: Path) -> BaseRM:
    """The experiment's best rubric, graded as the search graded it; written to ``folder``."""
    rubrics = read_rubrics(run.input("best_rubric").file("rubric.json"))
    prompt_ids: dict[str, str] = {}
    ranked = run.inputs.get("ranked_prompts")
    if set(rubrics) != {SHARED} and ranked is not None:
        prompts = [
            prompt
            for split in ("train", "validation", "test")
            for prompt in read_records(ranked.file(f"{split}.jsonl"), RankedPrompt)
        ]
        prompt_ids = {prompt_key(prompt.prompt): prompt.prompt_id for prompt in prompts}
    runtime = rubric_runtime(run.experiment.search, run.experiment.seed, run.workspace.prompts)
    write_artifact(rubric_artifact(rubrics, runtime, prompt_ids), folder)
    return load_rm(folder, cache=run.workspace.cache)


def _write_choice(
    run: StageRun,
    rubrics: dict[str, Rubric],
    heldout: Heldout,
    evaluator: Evaluator,
    ranges: dict[str, range],
    folder: Path,
) -> None:
    write_rubrics(folder / "rubric.json", rubrics)
    search = run.experiment.search
    graded = GradedParts(prompt=search.extract, response=search.candidate_extract)
    write_json(folder / GRADED_PARTS_NAME, graded.model_dump(mode="json"))
    write_json(folder / "heldout.json", heldout.model_dump(mode="json"))
    if SHARED in rubrics:
        criteria = listed_criteria(rubrics[SHARED], evaluator, ranges["test"])
        write_json(folder / "criteria.json", [line.model_dump(mode="json") for line in criteria])
        shown = rubric_summary("Best rubric", heldout, criteria)
        plot_choice(rubrics[SHARED], heldout, folder / "plot.png")
    else:
        shown = f"# Rubrics of {len(rubrics)} prompts\n\nChosen {heldout.selected_by}.\n"
    (folder / "summary.md").write_text(shown, encoding="utf-8")


def _heldout_metrics(heldout: Heldout) -> dict[str, Metric]:
    named = {
        "heldout_agreement": heldout.agreement,
        "initial_agreement": heldout.initial,
        "agreement_gain": heldout.difference,
        "longer_wins": heldout.longer_wins,
    }
    return {name: _metric(name, found) for name, found in named.items() if found is not None}


def _metric(name: str, found: Agreement) -> Metric:
    return Metric(
        value=found.value,
        ci_low=found.ci_low,
        ci_high=found.ci_high,
        n=found.prompts,
        direction="none" if name == "longer_wins" else "max",
    )
