"""One run of ``harness search``: data in, the search with its checkpoint, output and records out.

What is bound to a time, a machine or a file of this run (run id, command, calls, held-out numbers)
is added here to the output that the search's stage writes too. The command line on top of it only
names flags and shows progress.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reward_harness.data.ranked_files import read_ranked
from reward_harness.errors import (
    BudgetExceeded,
    DataError,
    HarnessError,
    Interrupted,
    SpecError,
    StorageError,
)
from reward_harness.hashing import digest_file
from reward_harness.llm.event_loop import run_sync
from reward_harness.llm.verdicts import STORE_NAME
from reward_harness.progress import ProgressSink, quiet
from reward_harness.rubrics.files import SHARED, preset_for
from reward_harness.rubrics.heldout import Heldout
from reward_harness.rubrics.search.choosing import (
    IN_SAMPLE,
    choose_shared,
    evaluator_of,
    no_holdout,
    prompts_of,
)
from reward_harness.rubrics.search.holdout import Holdout, hold_out
from reward_harness.rubrics.search.output import Choice, output_json, write_json
from reward_harness.rubrics.search.problem import search_prompts
from reward_harness.rubrics.search.run_records import (
    Invocation,
    code_now,
    key_value,
    redacted,
    run_id_of,
    write_records,
)
from reward_harness.rubrics.search.session import SearchResult, SearchSession
from reward_harness.rubrics.search.state import SearchState, Spent, read_checkpoint
from reward_harness.rubrics.search.surroundings import Surroundings, identity
from reward_harness.rubrics.types import Rubric
from reward_harness.sections import SearchConfig
from reward_harness.workspace import Workspace

DEFAULT_HOLDOUT_FRACTION = 0.2
DEFAULT_SEED = 7


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where a search is saved, and how often: after every generation, or at most so often."""

    folder: Path | None = None
    every_generation: bool = True
    interval_s: float = 0.0
    resume_from: Path | None = None
    resume_anyway: bool = False

    def file(self, output: Path) -> Path:
        """The checkpoint of the search that writes ``output``."""
        return (self.folder or output.parent / "checkpoints") / f"{output.stem}.search.json"


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """All that the command line says."""

    dataset: Path
    output: Path
    config: SearchConfig
    invocation: Invocation
    seed: int = DEFAULT_SEED
    holdout_fraction: float = DEFAULT_HOLDOUT_FRACTION
    verdict_store: Path | None = None
    checkpoints: Checkpoints = Checkpoints()


@dataclass(frozen=True, slots=True)
class SearchReport:
    """What a run ended with, for the one who asked."""

    output: Path
    script: Path
    heldout: Heldout
    note: str | None
    stopped: str
    spent: Spent


Opened = Callable[[SearchSession, Holdout], None]


def run_search(
    request: SearchRequest,
    workspace: Workspace,
    progress: ProgressSink = quiet,
    opened: Opened = lambda session, holdout: None,
) -> SearchReport:
    """Search, choose, write. Every error a user can cause is a ``HarnessError``; what was paid for
    is kept, and a checkpoint too once there is a first population.
    """
    created = datetime.now(UTC)
    checkpoint = request.checkpoints.file(request.output)
    with _storage_errors(request.output):
        _require_place(request)
        holdout = hold_out(
            read_ranked(request.dataset),
            request.holdout_fraction,
            request.config.scope,
            request.seed,
        )
        session = _session(request, workspace, holdout, progress)
        try:
            opened(session, holdout)
            result = _searched(session, request.checkpoints, checkpoint)
            choice, heldout = _chosen(request, session, result, holdout)
            return _write(request, workspace, created, session, result, holdout, choice, heldout)
        except KeyboardInterrupt as error:
            raise _interrupted(request, checkpoint, bool(session.state.units)) from error
        finally:
            session.close()


def different_rubrics(first: Path, second: Path) -> list[str]:
    """Ids of the prompts whose best rubrics differ in content between two outputs."""
    one, other = _rubrics(first), _rubrics(second)
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _rubrics(path: Path) -> dict[str, str]:
    import json

    try:
        entries = json.loads(path.read_bytes())["best_rubrics"]
        return {str(e["prompt_id"]): Rubric.model_validate(e["rubric"]).digest for e in entries}
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        problem = str(error).splitlines()[0]
        raise DataError("not a search output", where=str(path), got=problem) from error


def _require_place(request: SearchRequest) -> None:
    """Fail before anything is paid for if the output cannot be written."""
    if request.output.is_dir():
        raise SpecError("this is a folder", where=f"--output {request.output}", expected="a file")
    if not 0 <= request.holdout_fraction < 1:
        raise SpecError(
            "not a valid value",
            where="--holdout-fraction",
            got=request.holdout_fraction,
            expected="a number from 0 to below 1",
        )
    request.output.parent.mkdir(parents=True, exist_ok=True)
    probe = request.output.parent / f".{request.output.name}.probe"
    probe.write_bytes(b"")
    probe.unlink()


def _session(
    request: SearchRequest, workspace: Workspace, holdout: Holdout, progress: ProgressSink
) -> SearchSession:
    config, seed = request.config, request.seed
    if config.locale != "en" and not (workspace.prompts / config.locale).is_dir():
        raise SpecError(
            "no prompt templates in this language",
            where="--prompt-language",
            got=config.locale,
            expected=f"a folder below {workspace.prompts}",
        )
    store = request.verdict_store or workspace.cache / STORE_NAME
    store.parent.mkdir(parents=True, exist_ok=True)
    presets = _presets(config, holdout)
    around = Surroundings(
        verdict_store=store,
        prompts=workspace.prompts,
        preset=presets.get(SHARED),
        presets={name: rubric for name, rubric in presets.items() if name != SHARED},
        progress=progress,
        stage="search",
    )
    path = request.checkpoints.resume_from
    if path is None:
        return SearchSession.create(holdout.searched, config, seed=seed, around=around)
    if path.is_dir():
        path = path / f"{request.output.stem}.search.json"
    wanted = identity(holdout.searched, config, seed, around)
    state = read_checkpoint(path, *wanted, force=request.checkpoints.resume_anyway)
    _require_fit(state, holdout, path)
    return SearchSession(holdout.searched, config, seed, around, state)


def _presets(config: SearchConfig, holdout: Holdout) -> dict[str, Rubric]:
    if config.preset_rubric is None:
        return {}
    prompts = search_prompts(holdout.searched, "model", extract=config.extract)
    presets = preset_for(Path(config.preset_rubric), prompts, config.preset_strict)
    if config.scope == "shared" and SHARED not in presets:
        raise SpecError(
            "a search for one shared rubric cannot start from rubrics of single prompts",
            where=f"--preset-rubrics {config.preset_rubric}",
            fix="Give one rubric, or use --evolution-iteration-scope prompt_local.",
        )
    return presets


def _require_fit(state: SearchState, holdout: Holdout, path: Path) -> None:
    """Even --resume-anyway cannot go on with populations of prompts that are not there."""
    for unit in state.units:
        beyond = max(unit.prompts, default=0) >= len(holdout.searched)
        own = unit.unit_id == SHARED or beyond
        if beyond or not (own or holdout.searched[unit.prompts[0]].prompt_id == unit.unit_id):
            raise SpecError(
                "the checkpoint has prompts that the data set lacks",
                where=str(path),
                got=unit.unit_id,
                fix="Resume with the data set it was made from.",
            )


def _searched(session: SearchSession, policy: Checkpoints, path: Path) -> SearchResult:
    """Step to the end; whatever ends it, the last complete generation is in the checkpoint."""
    written = time.monotonic()
    try:
        while session.step():
            if policy.every_generation or time.monotonic() - written >= policy.interval_s > 0:
                session.checkpoint(path)
                written = time.monotonic()
    except BudgetExceeded as error:
        session.out_of_budget = error
        if not session.state.units:
            raise
    finally:
        if session.state.units:
            session.checkpoint(path)
    return session.result()


def _chosen(
    request: SearchRequest, session: SearchSession, result: SearchResult, holdout: Holdout
) -> tuple[Choice | None, Heldout]:
    """The rubric that held-out prompts prefer, ready to score every prompt."""
    config, scope = session.config, session.config.scope
    own = IN_SAMPLE if holdout.note is None else f"{IN_SAMPLE} ({holdout.note})"
    if scope == "shared" and not result.out_of_budget and holdout.test:
        try:
            return _choice(request, session, result, holdout)
        except BudgetExceeded as error:
            session.out_of_budget = error
    if result.out_of_budget or session.out_of_budget:
        own = f"{IN_SAMPLE} (the budget ended before the held-out prompts)"
    for unit in result.state.units:
        if session.out_of_budget is None:
            run_sync(session.evaluator.prepare([unit.best.rubric], unit.prompts))
    selected = result.state.units[0].best.rubric.digest if scope == "shared" else ""
    if scope == "shared" and holdout.test:
        rubric = result.state.units[0].best.rubric
        known = prompts_of(holdout.every, config, session.roles, seed=request.seed)
        evaluator = evaluator_of(known, config, session.roles, seed=request.seed)
        with suppress(BudgetExceeded):
            run_sync(evaluator.prepare([rubric], range(len(holdout.searched))))
        return Choice(holdout.every, evaluator, rubric), no_holdout(scope, selected, own)
    return None, no_holdout(scope, selected, own)


def _choice(
    request: SearchRequest, session: SearchSession, result: SearchResult, holdout: Holdout
) -> tuple[Choice, Heldout]:
    config, roles, seed = session.config, session.roles, request.seed
    seen = [*holdout.searched, *holdout.validation]
    prompts = prompts_of(seen, config, roles, seed=seed)
    true_labels = config.model_copy(update={"noise": 0.0})
    prompts += prompts_of(holdout.test, true_labels, roles, seed=seed)
    evaluator = evaluator_of(prompts, config, roles, seed=seed)
    unit = result.state.units[0]
    first, last = len(holdout.searched), len(seen)
    rubric, heldout = choose_shared(
        unit.archive,
        unit.initial,
        evaluator,
        range(first, last),
        range(last, len(prompts)),
        seed,
    )
    run_sync(evaluator.prepare([rubric], range(len(prompts))))
    return Choice(holdout.every, evaluator, rubric), heldout


def _write(
    request: SearchRequest,
    workspace: Workspace,
    created: datetime,
    session: SearchSession,
    result: SearchResult,
    holdout: Holdout,
    choice: Choice | None,
    heldout: Heldout,
) -> SearchReport:
    key = key_value(request.config.endpoint.api_key_env)
    body = output_json(session, session.result(), str(request.dataset), request.seed, choice)
    body["run_manifest"] |= _manifest(request, created, session, holdout, key)
    body["search_diagnostics"] |= _diagnostics(session, holdout, heldout)
    body = redacted(body, key)
    write_json(request.output, body)
    stopped = session.out_of_budget
    note = "" if stopped is None else "a budget ended the recorded search: this one may go further"
    script = write_records(request.output, body["run_manifest"], note, workspace.root)
    spent = session.result().spent
    return SearchReport(
        request.output, script, heldout, holdout.note, str(stopped or result.stopped), spent
    )


def _manifest(
    request: SearchRequest, created: datetime, session: SearchSession, holdout: Holdout, key: str
) -> dict[str, Any]:
    dataset = digest_file(request.dataset)
    return {
        "run_id": run_id_of(created, [session.state.dataset, session.state.config]),
        "created_at_utc": created.isoformat(timespec="seconds"),
        "dataset": {
            "path": str(request.dataset),
            "dataset_sha256": dataset,
            "records_sha256": session.state.dataset,
            "prompts": len(holdout.every),
        },
        "backend": {
            "requested": session.config.backend,
            "resolved": session.backend,
            "api_key_env": session.config.endpoint.api_key_env,
            "api_key_present": bool(key),
        },
        "code_snapshot": code_now().model_dump(mode="json"),
        "command": {
            "raw_argv": list(request.invocation.raw),
            "normalized_argv": list(request.invocation.normalized),
        },
    }


def _diagnostics(session: SearchSession, holdout: Holdout, heldout: Heldout) -> dict[str, Any]:
    usage = session.roles.gateway.usage if session.roles else None
    return {
        "calls": {
            "by_role": dict(usage.calls_by_role) if usage else {},
            "cached_by_role": dict(usage.cached_by_role) if usage else {},
            "retries": usage.retries if usage else 0,
            "all_sessions": session.result().spent.model_dump(mode="json"),
        },
        "holdout": {
            "searched": len(holdout.searched),
            "validation": len(holdout.validation),
            "test": len(holdout.test),
            "note": holdout.note,
        },
        "heldout_agreement": heldout.model_dump(mode="json"),
    }


def _interrupted(request: SearchRequest, checkpoint: Path, saved: bool) -> Interrupted:
    words = ["harness", *request.invocation.raw]
    if saved and "--resume-from" not in words:
        words += ["--resume-from", str(checkpoint)]
    command = redacted(shlex.join(words), key_value(request.config.endpoint.api_key_env))
    kept = f"checkpoint {checkpoint} and" if saved else "no generation was complete;"
    return Interrupted(
        f"interrupted: {kept} all answers that were paid for are kept", fix=f"Go on with: {command}"
    )


@contextmanager
def _storage_errors(output: Path) -> Generator[None]:
    """A failed write becomes one ``StorageError`` that says where."""
    try:
        yield
    except HarnessError:
        raise
    except OSError as error:
        raise StorageError(
            error.strerror or str(error),
            where=str(error.filename or output),
            fix="Free space or choose another place, and run the same command again: answers that "
            "were paid for are kept.",
        ) from error
