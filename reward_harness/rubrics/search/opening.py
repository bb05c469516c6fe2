"""What a search is asked to do, and the session that does it: new, or from a checkpoint.

Everything that can be wrong with a request is found here, before anything is paid for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reward_harness.errors import SpecError
from reward_harness.llm.verdicts import STORE_NAME
from reward_harness.progress import ProgressSink
from reward_harness.rubrics.files import SHARED, preset_for
from reward_harness.rubrics.search.holdout import DEFAULT_HOLDOUT_FRACTION, Holdout
from reward_harness.rubrics.search.problem import search_prompts
from reward_harness.rubrics.search.run_records import Invocation
from reward_harness.rubrics.search.session import SearchSession
from reward_harness.rubrics.search.state import SearchState, read_checkpoint
from reward_harness.rubrics.search.surroundings import Surroundings, identity
from reward_harness.rubrics.types import Rubric
from reward_harness.sections import SearchConfig
from reward_harness.workspace import Workspace

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


def require_place(request: SearchRequest) -> None:
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


def open_session(
    request: SearchRequest, workspace: Workspace, holdout: Holdout, progress: ProgressSink
) -> SearchSession:
    """The session that a request asks for, on what is not held out."""
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
