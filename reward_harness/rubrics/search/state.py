"""The state of a search as a file: everything that decides how it goes on, nothing that can be
computed again.

Random choices derive from (seed, unit, generation, child), so no generator state is kept; grades
and verdicts lie in the verdict store or are computed by code. A state therefore resumes exactly,
at any concurrency.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from reward_harness.durable import write_atomically
from reward_harness.errors import SpecError
from reward_harness.manifest import Frozen
from reward_harness.rubrics.search.schedules import MutationStats
from reward_harness.rubrics.types import Criterion, Rubric

FORMAT = 2
ARCHIVE_SIZE = 8


class Member(Frozen):
    """A rubric of the population with what is known of it on the search's own prompts."""

    rubric: Rubric
    score: float | None
    agreement: float | None
    tail_acc: float
    diverse_tail_acc: float
    tail_var: float
    unscored: int
    safe: bool = Field(default=True, description="no attack that the search tries gains on average")
    mode: str
    parent: str | None = None
    born: int

    @property
    def rank_key(self) -> tuple[bool, float, float, int, str]:
        """Sorts better members first, safe ones before all; content breaks ties, never arrival."""
        worst = float("-inf")
        return (
            not self.safe,
            -(worst if self.score is None else self.score),
            -(worst if self.agreement is None else self.agreement),
            len(self.rubric.criteria),
            self.rubric.digest,
        )


class Round(Frozen):
    """One generation (or iteration) of one unit, for the history."""

    unit: str
    generation: int
    best: float | None
    mean: float | None
    agreement: float | None
    best_rubric: str
    children: int
    duplicates: int
    failed: int
    accepted: int
    modes: dict[str, int] = Field(default_factory=dict)


class Unit(Frozen):
    """One population: all prompts in scope ``shared``, one prompt in the other scopes."""

    unit_id: str
    prompts: tuple[int, ...]
    generation: int = 0
    members: tuple[Member, ...] = ()
    archive: tuple[Member, ...] = ()
    initial: str = ""
    stagnation: int = 0
    pool: tuple[Criterion, ...] = Field(default=(), description="criteria graded on the anchors")
    stats: MutationStats = MutationStats()
    finished: str | None = None
    used: tuple[tuple[int, int], ...] = Field(
        default=(), description="(prompt, response) that iterative refinement has looked at"
    )

    @property
    def best(self) -> Member:
        """The best member by the search's own objective."""
        return min(self.members, key=lambda m: m.rank_key)


class Spent(Frozen):
    """Calls of the sessions before this one."""

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = None


class SearchState(Frozen):
    """A checkpoint."""

    format: int = FORMAT
    dataset: str
    config: str
    generation: int = 0
    units: tuple[Unit, ...] = ()
    history: tuple[Round, ...] = ()
    verdicts: tuple[tuple[int, int, int, int], ...] = Field(
        default=(), description="(prompt, response, response, preference) that a model judged"
    )
    compared: int = 0
    inconsistent: int = 0
    spent: Spent = Spent()
    ledger: tuple[Spent, ...] = Field(default=(), description="spent at the end of each generation")


def archived(
    archive: tuple[Member, ...], new: tuple[Member, ...], initial: str
) -> tuple[Member, ...]:
    """The best members ever by objective and by agreement, and the initial one."""
    every = {m.rubric.digest: m for m in (*archive, *new)}
    ranked = sorted((m for m in every.values() if m.score is not None), key=lambda m: m.rank_key)
    agreeing = sorted(ranked, key=lambda m: (not m.safe, -(m.agreement or 0.0), *m.rank_key))
    kept = {m.rubric.digest for m in (*ranked[:ARCHIVE_SIZE], *agreeing[:ARCHIVE_SIZE])} | {initial}
    return tuple(sorted((m for d, m in every.items() if d in kept), key=lambda m: m.rank_key))


def write_checkpoint(path: Path, state: SearchState) -> None:
    """Replace the checkpoint atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, state.model_dump_json().encode())


def read_checkpoint(path: Path, dataset: str, config: str, *, force: bool = False) -> SearchState:
    """The checkpoint at ``path``; ``SpecError`` if it is of another data set or configuration.

    ``force`` goes on with what is asked for now; verdicts on other data are not taken over.
    """
    try:
        state = SearchState.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise SpecError(
            "the checkpoint cannot be read",
            where=str(path),
            got=str(error).splitlines()[0],
            fix="Delete it to start the search anew; answers that were paid for are kept.",
        ) from error
    for name, found, expected in (
        ("data set", state.dataset, dataset),
        ("configuration", state.config, config),
    ):
        if found != expected and not force:
            raise SpecError(
                f"the checkpoint belongs to another {name}",
                where=str(path),
                got=found[:16],
                expected=expected[:16],
                fix="Delete it, or search with what it was made from.",
            )
    if state.dataset != dataset:
        state = state.model_copy(update={"verdicts": ()})
    return state.model_copy(update={"dataset": dataset, "config": config})
