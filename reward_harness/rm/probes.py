"""Probe items: held-out responses whose scores prove that a server serves the deployed artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reward_harness.data.files import json_lines, validated, write_lines
from reward_harness.data.records import RankedPrompt
from reward_harness.errors import ArtifactError
from reward_harness.hashing import canonical_json, unit_interval
from reward_harness.manifest import Frozen
from reward_harness.rewards.base import BaseRM, Item, Scored, conversation_of, reason_of

PROBES = 16
TOLERANCE = 1e-6
DEPLOYMENT_NAME = "deployment.json"


class Probe(Frozen):
    """One held-out response."""

    probe_id: str
    prompt_id: str
    prompt: list[dict[str, str]]
    response: str


class ProbeScore(Probe):
    """A probe with the artifact's score, or the reason why there is none."""

    score: float | None
    reason: str | None = None


class Deployment(Frozen):
    """``deployment.json``: what is deployed where, and how to recognise it."""

    target: str
    artifact_id: str
    artifact_digest: str
    artifact_experiment: str
    artifact_stage: str
    probes: list[ProbeScore]


def choose_probes(prompts: Sequence[RankedPrompt], limit: int = PROBES) -> list[Probe]:
    """At most ``limit`` responses, one a prompt as long as there are enough prompts."""
    found: list[tuple[int, float, Probe]] = []
    for prompt in prompts:
        order = sorted(
            prompt.candidates,
            key=lambda c: unit_interval("probe", prompt.prompt_id, c.candidate_id),
        )
        for place, candidate in enumerate(order):
            probe = Probe(
                probe_id=f"{prompt.prompt_id}/{candidate.candidate_id}",
                prompt_id=prompt.prompt_id,
                prompt=[{"role": m.role, "content": m.content} for m in prompt.prompt],
                response=candidate.text,
            )
            found.append((place, unit_interval("probe", probe.probe_id), probe))
    found.sort(key=lambda entry: entry[:2])
    return [probe for _, _, probe in found[:limit]]


def write_probes(path: Path, probes: Sequence[Probe]) -> None:
    """One canonical JSON line each."""
    write_lines(path, (canonical_json(p.model_dump(mode="json")) + b"\n" for p in probes))


def read_probes(path: Path) -> list[Probe]:
    """The probes of an artifact."""
    return [validated(Probe, value, f"{path}:{line}") for line, value in json_lines(path)]


def score_probes(rm: BaseRM, probes: Sequence[Probe]) -> list[ProbeScore]:
    """The artifact's own score of each probe."""
    results = rm.score_items(
        [Item(conversation_of(p.prompt, p.response), p.prompt_id) for p in probes]
    )
    return [
        ProbeScore(
            **probe.model_dump(),
            score=result.value if isinstance(result, Scored) else None,
            reason=None if isinstance(result, Scored) else reason_of(result),
        )
        for probe, result in zip(probes, results, strict=True)
    ]


def read_deployment(path: Path) -> Deployment:
    """Read ``deployment.json``."""
    try:
        return Deployment.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(
            "deployment cannot be read", where=str(path), got=str(error).splitlines()[0]
        ) from error
