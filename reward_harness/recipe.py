"""What decides an artifact, and the line that records each making of it.

A recipe is compared by its digest; a publication is one line of ``publications.jsonl``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from reward_harness.hashing import digest_json
from reward_harness.manifest import Frozen


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what a stage makes; equal recipes make one artifact.

    ``again`` names a deliberate repetition: it is made once beside what is published, and whoever
    asks for the recipe without a name is given the newest.
    """

    experiment: str
    stage: str
    code_version: str
    sections: Mapping[str, str]
    inputs: Mapping[str, str]
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    again: str = ""

    @property
    def work_key(self) -> str:
        """Names what an unfinished build leaves behind, apart for each repetition."""
        return digest_json([self.digest, self.again]) if self.again else self.digest

    @property
    def digest(self) -> str:
        return digest_json(
            {
                "stage": self.stage,
                "code_version": self.code_version,
                "sections": dict(self.sections),
                "inputs": dict(self.inputs),
                "extra": dict(self.extra),
            }
        )

    @property
    def spec_digest(self) -> str:
        """Digest of the spec sections alone; names the snapshot under ``<experiment>/specs``."""
        return digest_json(dict(self.sections))


class Publication(Frozen):
    """One line of ``publications.jsonl``: when and from what an artifact was made or made again.

    ``notes`` are of this making; the manifest keeps those of the first.
    """

    digest: str
    recipe: str
    inputs: dict[str, str]
    spec_digest: str
    run_id: str
    published_at: str
    again: str = ""
    notes: dict[str, Any] = Field(default_factory=dict)


def reproduce_argv(recipe: Recipe) -> list[str]:
    """The command that makes the recipe's artifact again, outside the store."""
    inputs = [
        part
        for name, digest in sorted(recipe.inputs.items())
        for part in ("--input", f"{name}={digest}")
    ]
    spec = ["--spec-digest", recipe.spec_digest]
    again = ["--again", recipe.again] if recipe.again else []
    return ["harness", "stage", recipe.experiment, recipe.stage, *spec, *inputs, *again]
