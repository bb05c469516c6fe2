"""Loading models: a folder in the transformers layout becomes a model and its tokenizer.

SmolLM2's GGUF names the end token as the padding token. Padding is set to id 0 here, or to another
special token where id 0 ends a text (Pythia): with pad = eos the end token is masked out of losses,
and a decoder reward model reads the wrong position.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
)
from transformers.models.llama import LlamaConfig, LlamaForCausalLM

from reward_harness.errors import SpecError
from reward_harness.models.folders import existing_folder, model_folder
from reward_harness.models.silence import quiet_libraries
from reward_harness.sections import ModelSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PAD_ID = 0
PER_LAYER = ("layer_types", "mlp_layer_types")
"""Settings that list something for each layer."""


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
    existing_folder(folder)
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
    """The same from a folder in the transformers layout, without language-model head and pooler.

    BERT's pooler reads position 0 and is nobody's input here; weights files often lack it, so that
    it would be random.
    """
    quiet_libraries()
    existing_folder(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch_dtype(dtype))
    if hasattr(model, "pooler"):
        model.pooler = None
    return _placed(model, device), load_tokenizer(folder)


def keep_layers(source: Path, folder: Path, layers: int) -> None:
    """Write the backbone in ``source`` with its first ``layers`` layers, and its tokenizer.

    ``SpecError`` if it has fewer.
    """
    settings: Any = AutoConfig.from_pretrained(source)
    if settings.num_hidden_layers < layers:
        raise SpecError(
            "the model has fewer layers than are to be kept",
            where=str(source),
            got=layers,
            expected=f"at most {settings.num_hidden_layers}",
        )
    quiet_libraries()
    settings.num_hidden_layers = layers
    for name in PER_LAYER:
        if (of_layers := getattr(settings, name, None)) is not None:
            setattr(settings, name, of_layers[:layers])
    # a decoder keeps its language-model head, so that a policy can be cut too
    decoder = any(name.endswith("ForCausalLM") for name in settings.architectures or ())
    kind = AutoModelForCausalLM if decoder else AutoModel
    model: Any = kind.from_pretrained(source, config=settings)
    if hasattr(model, "pooler"):
        model.pooler = None
    model.save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)


def _placed(model: PreTrainedModel, device: str) -> PreTrainedModel:
    torch.nn.Module.to(model, torch.device(device))
    return model.eval()


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, never with the end token as padding; ``SpecError`` where it has no
    other token to pad with.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(_padding(tokenizer, folder))
    return tokenizer


def _padding(tokenizer: PreTrainedTokenizerBase, folder: Path) -> int:
    """Id 0; where that ends a text, the unknown token's or the last special token's."""
    end = tokenizer.eos_token_id
    unknown: Any = tokenizer.unk_token_id
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special]
    candidates: list[int | None] = [PAD_ID, unknown, *sorted(special, reverse=True)]
    found = next((i for i in candidates if i is not None and i != end), None)
    if found is None:
        raise SpecError(
            "the tokenizer has no token to pad with",
            where=str(folder),
            got=f"the end token {tokenizer.eos_token!r} (id {end}) as its only special token",
            expected="a padding token that is not the end token",
            fix="Name another token of its vocabulary as `pad_token` in tokenizer_config.json.",
        )
    return found


def torch_dtype(name: str) -> torch.dtype:
    """``float32`` or ``bfloat16`` as torch knows it."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def convert_gguf(source: Path, folder: Path) -> None:
    """Write the Llama model in the GGUF file ``source`` to ``folder``: bf16, with tokenizer."""
    quiet_libraries()
    with _gguf_read_once():
        with redirect_stderr(io.StringIO()):  # its progress bar has no other switch
            loaded = AutoModelForCausalLM.from_pretrained(
                source.parent, gguf_file=source.name, dtype=torch.float32
            )
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
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
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(PAD_ID)
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(folder)


@contextmanager
def _gguf_read_once() -> Generator[None]:
    """transformers parses the file for configuration, weights and tokenizer anew, and makes the map
    of tensor names once for each of 397 modules: kept, the conversion takes half the time.
    """
    import gguf

    known = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, function in known.items():
            setattr(gguf, name, functools.cache(function))
        yield
    finally:
        for name, function in known.items():
            setattr(gguf, name, function)
