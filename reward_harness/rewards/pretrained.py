"""Published reward models in this process: from a folder in the transformers layout to a reward.

What a model is follows from the class its ``config.json`` names: a sequence classifier with one
label is an outcome reward, a token classifier or Qwen's process class a process reward; a plain
language model is one only where it is known, or said, to answer steps with + and -. torch is
imported when a model is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from reward_harness.errors import SpecError
from reward_harness.hashing import digest_json
from reward_harness.models.folders import model_digest
from reward_harness.rewards.base import BaseRM
from reward_harness.rewards.classifier import ClassifierRM
from reward_harness.rewards.process import STEP_DELIMITER, Aggregation, ProcessRM

if TYPE_CHECKING:
    from reward_harness.rewards.published_steps import Scheme

ARTIFACT_SETTINGS = "reward_model.json"
PLUS_MINUS_NAMES = re.compile(r"RLHFlow.*PRM", re.IGNORECASE)


def load_pretrained(
    folder: Path,
    *,
    name: str = "",
    device: str | None = None,
    torch_dtype: str | None = None,
    trust_remote_code: bool = False,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    aggregation: Aggregation = "prod",
    step_delimiter: str = STEP_DELIMITER,
    step_scheme: Scheme | None = None,
) -> BaseRM:
    """A reward from a model folder.

    Args:
        folder: weights, configuration and tokenizer.
        name: the repository's name, where that tells the model's kind.
        device: ``cpu``, ``cuda`` …; the GPU if there is one.
        torch_dtype: ``float32``, ``bfloat16`` or ``float16``; bfloat16 on a GPU, else float32.
        trust_remote_code: run the Python files that the model brings.
        max_length: tokens of a conversation that are read.
        batch_tokens: tokens in one batch, padding included.
        aggregation, step_delimiter: of a process reward model.
        step_scheme: how a process reward model marks its steps, where its class does not tell.

    ``SpecError`` for a model that is no reward model, or needs remote code that is not allowed.
    """
    if (folder / ARTIFACT_SETTINGS).is_file():
        return _identified(ClassifierRM.load(folder, device or "cpu"), folder, torch_dtype)
    from reward_harness.models.published import architecture_of, open_published
    from reward_harness.rewards.outcome_model import OutcomeModel
    from reward_harness.rewards.published_steps import PublishedSteps

    scheme = step_scheme or _scheme(architecture_of(folder, trust_remote_code), name or folder.name)
    opened = open_published(
        folder,
        device=device,
        dtype=torch_dtype,
        trust_remote_code=trust_remote_code,
        max_length=max_length,
    )
    budget = {} if batch_tokens is None else {"batch_tokens": batch_tokens}
    dtype = str(next(opened.model.parameters()).dtype)
    if scheme is None:
        rm = ClassifierRM(OutcomeModel(opened, **budget))
        return _identified(rm, folder, dtype, str(opened.max_length))
    identity = _identity(folder, dtype, scheme)
    return ProcessRM(
        PublishedSteps(opened, scheme, identity, **budget), aggregation, step_delimiter
    )


def _scheme(architecture: str, name: str) -> Scheme | None:
    """How the model marks steps; None for an outcome reward."""
    if architecture.endswith("ForProcessRewardModel"):
        return "step_token"
    if architecture.endswith("ForTokenClassification"):
        return "separator"
    if not architecture.endswith("ForCausalLM"):
        return None
    if PLUS_MINUS_NAMES.search(name):
        return "plus_minus"
    raise SpecError(
        "a language model without a reward head is no reward model",
        where=name,
        got=architecture,
        expected="a sequence or token classifier, or step_scheme='plus_minus'",
        fix="Use it as LLMJudge, or two of them as DrSow.",
    )


def _identified(rm: ClassifierRM, folder: Path, *settings: str | None) -> ClassifierRM:
    rm.identify = _identity(folder, *settings)
    return rm


def _identity(folder: Path, *settings: str | None) -> Callable[[], str]:
    """Digest of the weights and of how they are used; hashed when somebody first asks."""
    return cache(lambda: digest_json([model_digest(folder), *settings]))
