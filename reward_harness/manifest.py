"""What a stage made, from what, how well and at what cost: the record beside every artifact.

A manifest is written last, so a folder without one does not exist for readers. Its ``digest``
covers the outputs only (paths outside ``log/``, their sha256 and sizes), never time or inputs: the
same content made again is the same artifact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reward_harness.errors import GateRejected
from reward_harness.hashing import digest_json

SCHEMA_VERSION = "1.0"
MANIFEST_NAME = "manifest.json"
LOG_PREFIX = "log/"
TAKEN_FROM = "taken_from"
"""Among ``notes``: the artifact id under which another experiment made this content."""

Fraction = Annotated[float, Field(ge=0, le=1)]
"""A share of something; a field may narrow it."""


class Frozen(BaseModel):
    """Base of all file formats: immutable, and an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Metric(Frozen):
    """A number with its interval, sample size and the direction in which it is better."""

    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    direction: Literal["max", "min", "none"] = "none"


class Gate(Frozen):
    """Whether the artifact may be consumed, and by how much it passed or failed.

    A gate that the experiment does not enforce is recorded all the same, and only a consumer that
    asks strictly (target prod) minds its failure.
    """

    passed: bool
    value: float | None
    threshold: float | None
    detail: str = ""
    enforced: bool = True


class Output(Frozen):
    """One file of the artifact, by its path relative to the artifact's folder."""

    path: str
    sha256: str
    bytes: int


class Cost(Frozen):
    """What making the artifact took; tokens and dollars only where an endpoint was paid."""

    llm_calls: int = 0
    llm_cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = None
    seconds: float = 0.0
    peak_memory_bytes: int = 0


class Code(Frozen):
    """``version`` is bumped by hand when a stage's meaning changes; the commit is only recorded."""

    version: str
    commit: str | None = None
    dirty: bool | None = None


class Environment(Frozen):
    """The interpreter, the packages that matter and the device a stage ran on."""

    python: str
    packages: dict[str, str]
    device: str


class Reproduce(Frozen):
    """The exact command that makes the artifact again."""

    argv: list[str]


class Manifest(Frozen):
    """The record of one artifact; see architecture, "Artifacts, manifests, data versions"."""

    schema_version: str = SCHEMA_VERSION
    stage: str
    experiment: str
    digest: str
    created_at: str
    inputs: dict[str, str]
    spec_digest: str
    code: Code
    environment: Environment
    outputs: list[Output]
    metrics: dict[str, Metric] = Field(default_factory=dict)
    gates: dict[str, Gate] = Field(default_factory=dict)
    cost: Cost = Cost()
    reproduce: Reproduce
    notes: dict[str, Any] = Field(default_factory=dict)

    @property
    def artifact_id(self) -> str:
        """``experiment/stage/digest``: how commands and other manifests name this artifact."""
        return f"{self.experiment}/{self.stage}/{self.digest}"

    def require_gates(self, *, strict: bool = False) -> None:
        """Raise ``GateRejected`` for the first failed gate; consumers call this before use.

        ``strict`` also minds the gates that the experiment does not enforce.
        """
        for name, gate in self.gates.items():
            if not gate.passed and (gate.enforced or strict):
                raise GateRejected(
                    name, value=gate.value, threshold=gate.threshold, artifact=self.artifact_id
                )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage function reports about the files it wrote."""

    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric])
    gates: Mapping[str, Gate] = field(default_factory=dict[str, Gate])
    cost: Cost = field(default_factory=Cost)
    notes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    device: str = "cpu"


def outputs_digest(outputs: Sequence[Output]) -> str:
    """Digest of the outputs; files under ``log/`` (timings, traces) are listed but not covered."""
    covered = [o for o in outputs if not o.path.startswith(LOG_PREFIX)]
    return digest_json([[o.path, o.sha256, o.bytes] for o in sorted(covered, key=lambda o: o.path)])
