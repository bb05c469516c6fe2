"""The scorers of a report, loaded from the artifacts of an experiment."""

from __future__ import annotations

from reward_harness.evaluation.scoring import Scorer
from reward_harness.rewards.classifier import ClassifierRM
from reward_harness.rewards.load import load_rm
from reward_harness.rewards.programmatic import ProgrammaticRM
from reward_harness.rewards.rubric import RubricRM
from reward_harness.rubrics.extraction import GRADED_PARTS_NAME
from reward_harness.rubrics.files import read_rubrics
from reward_harness.search_sections import GradedParts
from reward_harness.store import Artifact

LABELS = {
    "rubric": "Searched rubric",
    "classifier": "Bradley–Terry classifier",
    "rubric_model": "Model of the rubric",
    "ensemble": "Ensemble",
    "process": "Process reward model",
    "distilled": "Distilled classifier",
    "composite": "Classifier with rules",
    "answers": "Exact answer",
}


def served_scorer(artifact: Artifact, device: str) -> Scorer:
    """The reward of an ``rm_artifact``, graded exactly as it is served."""
    artifact.verify()
    kind = str(artifact.manifest.notes.get("kind", "classifier"))
    return Scorer(kind, LABELS.get(kind, kind), load_rm(artifact.path, device), artifact.digest)


def classifier_scorer(artifact: Artifact, device: str) -> Scorer:
    """The model of a ``bt_reward_model``, not yet packaged."""
    rm = ClassifierRM.load(artifact.folder("model"), device)
    return Scorer("classifier", LABELS["classifier"], rm, artifact.digest)


def rubric_scorer(artifact: Artifact) -> Scorer | None:
    """The rubric of a ``best_rubric``; None if it needs a judge, which only a packaged one has."""
    rubrics = read_rubrics(artifact.file("rubric.json"))
    if any(rubric.needs_llm for rubric in rubrics.values()):
        return None
    graded = GradedParts.model_validate_json(artifact.file(GRADED_PARTS_NAME).read_bytes())
    rm = RubricRM(rubrics, graded=graded)
    return Scorer("rubric", LABELS["rubric"], rm, artifact.digest)


def second_opinions(
    served: Scorer,
    classifier: Artifact | None,
    rubric: Artifact | None,
    device: str,
) -> list[Scorer]:
    """The other trained reward of the experiment, where it has one; never the served one again."""
    if served.name != "classifier" and classifier is not None:
        return [classifier_scorer(classifier, device)]
    if served.name != "rubric" and rubric is not None:
        found = rubric_scorer(rubric)
        return [found] if found else []
    return []


def brevity_scorer() -> Scorer:
    """A fixed rule (short and direct): the second opinion of last resort, trained on nothing."""
    return Scorer("brevity", "Short-and-direct rule", ProgrammaticRM("continuous"), "")
