"""One run of ``harness search``: data in, the search with its checkpoint, output and records out.

What is bound to a time, a machine or a file of this run (run id, command, calls, held-out numbers)
is added here to the output that the search's stage writes too. The command line on top of it only
names flags and shows progress.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
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
    StorageError,
)
from reward_harness.hashing import digest_file
from reward_harness.progress import ProgressSink, quiet
from reward_harness.rubrics.heldout import Heldout
from reward_harness.rubrics.search.conclusion import conclude
from reward_harness.rubrics.search.holdout import Holdout, hold_out
from reward_harness.rubrics.search.opening import (
    Checkpoints,
    SearchRequest,
    open_session,
    require_place,
)
from reward_harness.rubrics.search.output import Choice, output_json, write_json
from reward_harness.rubrics.search.run_records import (
    code_now,
    key_value,
    redacted,
    run_id_of,
    write_records,
)
from reward_harness.rubrics.search.session import SearchResult, SearchSession
from reward_harness.rubrics.search.state import Spent
from reward_harness.rubrics.types import Rubric
from reward_harness.workspace import Workspace


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
        require_place(request)
        holdout = hold_out(
            read_ranked(request.dataset),
            request.holdout_fraction,
            request.config.scope,
            request.seed,
        )
        session = open_session(request, workspace, holdout, progress)
        try:
            opened(session, holdout)
            result = _searched(session, request.checkpoints, checkpoint)
            choice, heldout = conclude(session, holdout, request.seed)
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
