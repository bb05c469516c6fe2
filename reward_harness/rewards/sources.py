"""What a model's name means: a package model, a random one, a local folder or a hub repository."""

from __future__ import annotations

import re
from pathlib import Path

from reward_harness.errors import SpecError
from reward_harness.model_spec import ModelSpec
from reward_harness.models.folders import RANDOM_MODELS, WHEELS

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
PUBLISHED = (
    "internlm/internlm2-7b-reward",
    "Qwen/Qwen2.5-Math-RM-72B",
    "sfairXC/FsfairX-LLaMA3-RM-v0.1",
    "Qwen/Qwen2.5-Math-PRM-7B",
    "RLHFlow/Llama3.1-8B-PRM-Deepseek-Data",
)
"""Reward models on the hub whose reading is known here; any other of a known class loads too."""


def model_spec(name: str | Path, revision: str | None = None) -> ModelSpec:
    """The model that ``name`` means; ``SpecError`` (a ``ValueError``) lists what there is.

    A hub repository without ``revision`` is taken at its main branch.
    """
    text = str(name)
    if (Path(text).expanduser() / "config.json").is_file():
        return ModelSpec(source="path", name=text)
    if text in WHEELS:
        return ModelSpec(source="package", name=text)
    if text in RANDOM_MODELS:
        return ModelSpec(source="random", name=text, revision=revision)
    if HUB_NAME.fullmatch(text) and not Path(text).exists():
        return ModelSpec(source="hub", name=text, revision=revision or "main")
    raise SpecError(
        "no such model",
        got=text,
        expected=f"a model folder, a hub name such as {', '.join(PUBLISHED)}, or one of: "
        + ", ".join([*WHEELS, *RANDOM_MODELS]),
    )
