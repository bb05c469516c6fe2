"""The size of a job's training step, read from its model's files without loading it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_harness.errors import TrainingError
from reward_harness.scaling.memory import (
    MemoryEstimate,
    Workload,
    require_memory,
    resolve_device,
)
from reward_harness.sections import (
    DPOSection,
    IterativeDPOSection,
    LoraSpec,
    RewardOptim,
    SFTSection,
)

if TYPE_CHECKING:
    from reward_harness.training.job import AnyJob

REWARD_PASS_TOKENS = 2048
"""Token budget of one pass in ``reward_loop``; importing that would import torch."""

PPO_PASS_TOKENS = {"cpu": 512, "cuda": 1024}
"""Padded tokens of one pass of PPO. On a CPU 512 (less padding) took a tenth less processor time
than 1024 and less than 384 or 256: SmolLM2-135M, minibatches of 4, two runs. Not yet measured on a
GPU."""


def require_job_memory(job: AnyJob, available: int, device: str) -> MemoryEstimate:
    """The job's estimate; ``TrainingError`` if it is more than ``available`` bytes."""
    shapes = tensor_shapes(Path(job.model.path))
    adapter = lora_parameters(shapes, _lora(job) or LoraSpec())
    return require_memory(
        workload_of(job),
        available,
        device=device,
        where=f"{job.experiment}/{job.method}",
        lora_parameters=adapter,
    )


def workload_of(job: AnyJob) -> Workload:
    """Parameters, trained parameters and the shape of one pass."""
    folder = Path(job.model.path)
    shapes = tensor_shapes(folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    parameters = sum(math.prod(shape) for shape in shapes.values())
    lora = _lora(job)
    batch, tokens = _pass(job)
    return Workload(
        parameters=parameters,
        trained=lora_parameters(shapes, lora) if lora else parameters,
        layers=int(config["num_hidden_layers"]),
        hidden=int(config["hidden_size"]),
        vocabulary=0 if isinstance(job.settings, RewardOptim) else int(config["vocab_size"]),
        batch=batch,
        tokens=tokens,
        dtype=job.train_dtype,
        quantized=_matrix_parameters(shapes) if lora and lora.quantize else 0,
        reference=lora is None and job.method in ("dpo", "grpo", "ppo", "iterative_dpo"),
    )


def checkpoint_bytes(job: AnyJob) -> int:
    """About what one resumable checkpoint takes: trained weights and Adam's two moments in float32;
    a reward model's whole state beside its moments.
    """
    load = workload_of(job)
    weights = load.parameters if isinstance(job.settings, RewardOptim) else load.trained
    return 4 * weights + 8 * load.trained


def model_bytes(job: AnyJob) -> int:
    """About what the published model takes in float32."""
    return 4 * workload_of(job).parameters


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Names and shapes of all tensors in the folder's safetensors files."""
    from safetensors import safe_open

    found: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            found |= {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if not found:
        raise TrainingError("no safetensors in the model's folder", where=str(folder))
    return found


def lora_parameters(shapes: dict[str, list[int]], lora: LoraSpec) -> int:
    """Parameters of the adapters: r·(in + out) for each targeted matrix (arXiv 2106.09685)."""
    targeted = (
        shape
        for name, shape in shapes.items()
        if len(shape) == 2 and name.removesuffix(".weight").rpartition(".")[2] in lora.targets
    )
    return sum(lora.r * sum(shape) for shape in targeted)


def _matrix_parameters(shapes: dict[str, list[int]]) -> int:
    """Parameters of the layers' matrices: those that quantisation takes."""
    return sum(math.prod(s) for name, s in shapes.items() if len(s) == 2 and ".layers." in name)


def _lora(job: AnyJob) -> LoraSpec | None:
    """The job's adapters; a reward model's are in its settings."""
    return getattr(job, "lora", None) or getattr(job.settings, "lora", None)


def _pass(job: AnyJob) -> tuple[int, int]:
    """Sequences and tokens of the largest single pass."""
    if isinstance(job.settings, RewardOptim):
        length = job.settings.max_length
        return max(1, REWARD_PASS_TOKENS // length), length
    if isinstance(job.settings, SFTSection):
        return job.settings.batch_size, job.settings.max_length
    if isinstance(job.settings, DPOSection | IterativeDPOSection):
        return 2 * job.settings.batch_size, job.settings.max_length
    tokens = job.settings.max_prompt_tokens + job.settings.max_new_tokens
    if job.method == "ppo":
        budget = PPO_PASS_TOKENS[resolve_device(job.device)]
        return min(job.settings.batch_size, max(1, budget // tokens)), tokens
    return job.settings.batch_size, tokens
