"""Finding an experiment by its key: a file of its own, or a member of a study."""

from __future__ import annotations

from dataclasses import dataclass

from reward_harness.errors import SpecError
from reward_harness.spec import ExperimentSpec, experiment_keys, read_experiment
from reward_harness.studies import (
    MEMBER_KEY,
    Member,
    StudySpec,
    expand,
    member_spec,
    read_study,
    study_names,
)
from reward_harness.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Experiments:
    """Every experiment that reads well, members of registered studies last, and what is wrong with
    the others.
    """

    specs: tuple[ExperimentSpec, ...]
    studies: tuple[StudySpec, ...]
    problems: tuple[str, ...]


def find_experiment(workspace: Workspace, key: str) -> ExperimentSpec:
    """The experiment ``key``: from its file, else from the study that it is a member of;
    ``SpecError`` where neither is.
    """
    study = study_of(workspace, key)
    if study is None:
        return read_experiment(workspace.experiments, key)
    members = {member.key: member for member in expand(study)}
    if key not in members:
        raise SpecError(
            f"study {study.name!r} has no such member",
            where=str(workspace.studies / f"{study.name}.yaml"),
            got=key,
            expected=f"one of: {', '.join(members)}",
        )
    return member_spec(read_experiment(workspace.experiments, study.base), study, members[key])


def study_of(workspace: Workspace, key: str) -> StudySpec | None:
    """The study that ``key`` is a member of; None for a key with a file of its own, or of no
    study.
    """
    if (workspace.experiments / f"{key}.yaml").is_file():
        return None
    named = MEMBER_KEY.match(key)
    if named is None or named["study"] not in study_names(workspace.studies):
        return None
    return read_study(workspace.studies, named["study"])


def members_of(workspace: Workspace, study: StudySpec) -> list[tuple[Member, ExperimentSpec]]:
    """Every member with its experiment; ``SpecError`` where an override does not fit the base."""
    base = read_experiment(workspace.experiments, study.base)
    return [(member, member_spec(base, study, member)) for member in expand(study)]


def read_experiments(workspace: Workspace) -> Experiments:
    """All experiments: every file, and the members of every active study; a bad file never hides
    the others.
    """
    specs: list[ExperimentSpec] = []
    studies: list[StudySpec] = []
    problems: list[str] = []
    for key in experiment_keys(workspace.experiments):
        try:
            specs.append(read_experiment(workspace.experiments, key))
        except SpecError as error:
            problems.append(str(error))
    for name in study_names(workspace.studies):
        try:
            study = read_study(workspace.studies, name)
            if study.status == "active":
                specs += [spec for _, spec in members_of(workspace, study)]
                studies.append(study)
        except SpecError as error:
            problems.append(str(error))
    return Experiments(tuple(specs), tuple(studies), tuple(problems))
