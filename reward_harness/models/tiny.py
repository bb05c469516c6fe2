"""Tiny random models that behave like the real ones: ``tiny-causal`` and ``tiny-encoder``.

Llama and BERT with some ten thousand seeded weights and a byte-level tokenizer built in code, so
that every trainer, the reward model and the server run in seconds, on any text, without a download.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import BertConfig, BertModel, GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

from reward_harness.models.silence import quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

COMMON_WORDS = """
the of and to in a is that it for you was with on as have but be they are this from I not by he
she or an what all were when we there can your which their said if do will each about how up out
them then many some so these would other into has more her two like him see time could no make
than first been its who now people my made over did down only way find use may water long little
very after words called just where most know user assistant system answer question please explain
write because should
"""


def _merges(alphabet: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """BPE merges that spell each common word from the left, and the vocabulary they need."""
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in COMMON_WORDS.split():
        for spelled in (f"Ġ{word}", word):
            left = spelled[0]
            for symbol in spelled[1:]:
                if left + symbol not in vocabulary:
                    vocabulary[left + symbol] = len(vocabulary)
                    merges.append((left, symbol))
                left += symbol
    return vocabulary, merges


def _byte_level(special: list[str]) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary, merges = _merges([*special, *alphabet])
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def causal_tokenizer() -> PreTrainedTokenizerFast:
    """ChatML over bytes and common words; pad is id 0 and not the end token."""
    return FastTokenizer(
        tokenizer_object=_byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
        pad_token="<|endoftext|>",
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        model_max_length=2048,
        chat_template=CHAT_TEMPLATE,
    )


def encoder_tokenizer() -> PreTrainedTokenizerFast:
    """BERT's ``[CLS] … [SEP]`` around bytes and common words."""
    tokenizer = _byte_level(["[PAD]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return FastTokenizer(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    )


def _build_causal(folder: Path, seed: int) -> None:
    quiet_libraries()
    tokenizer = causal_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _build_encoder(folder: Path, seed: int) -> None:
    quiet_libraries()
    tokenizer = encoder_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config, add_pooling_layer=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


TINY_MODELS: dict[str, Callable[[Path, int], None]] = {
    "tiny-causal": _build_causal,
    "tiny-encoder": _build_encoder,
}
