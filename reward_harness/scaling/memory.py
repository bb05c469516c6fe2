"""How much memory a training job will need, before it starts.

Weights and optimiser: with bf16 mixed precision and Adam 18 bytes a trained parameter (2 weights +
4 master + 4 gradient + 4 + 4 moments), in float32 16 (4 + 4 + 4 + 4); a frozen parameter costs its
weight only, a frozen reference its weights again (none with LoRA: the adapter is off).
Activations in bf16: 12·B·S·H bytes a layer, 2·B·S·H with checkpointing; logits 4·B·S·V (ZeRO,
arXiv 1910.02054; Korthikanti et al., arXiv 2205.05198). In float32 every intermediate is kept:
96·B·S·H a layer and four copies of the logits (values, log-softmax, entropy, gradient). Against the
measured peak on a CPU: SmolLM2-135M with LoRA, 8×160 tokens: 4.1 GiB estimated, 4.5 (DPO, GRPO) to
5.1 (SFT) used; MiniLM reward model: 1.4 estimated, 2.0 used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from reward_harness.errors import TrainingError

GIB = 1 << 30
NF4_BYTES = 0.516
"""Four bits and twice quantised scales: .127 bits a parameter (QLoRA, arXiv 2305.14314)."""

RUNTIME_BYTES = 700 * 1024**2
"""torch, transformers and TRL imported, before any model."""


@dataclass(frozen=True, slots=True)
class Workload:
    """The shape of one training step: ``batch`` sequences of ``tokens`` in one pass."""

    parameters: int
    trained: int
    layers: int
    hidden: int
    vocabulary: int
    batch: int
    tokens: int
    dtype: Literal["float32", "bfloat16"] = "float32"
    reference: bool = False
    checkpointing: bool = False
    quantized: int = 0


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by what they are for."""

    weights: int
    optimizer: int
    reference: int
    activations: int
    logits: int
    runtime: int = RUNTIME_BYTES

    @property
    def total(self) -> int:
        return sum(
            (
                self.weights,
                self.optimizer,
                self.reference,
                self.activations,
                self.logits,
                self.runtime,
            )
        )


def estimate(load: Workload) -> MemoryEstimate:
    """Peak bytes of one training step on one device."""
    mixed = load.dtype == "bfloat16"
    weight_bytes, trained_bytes = (2, 18) if mixed else (4, 16)
    positions = load.batch * load.tokens
    per_layer, per_logit = (12, 4) if mixed else (96, 16)
    return MemoryEstimate(
        weights=weight_bytes * (load.parameters - load.quantized)
        + round(NF4_BYTES * load.quantized),
        optimizer=(trained_bytes - weight_bytes) * load.trained,
        reference=weight_bytes * load.parameters if load.reference else 0,
        activations=(2 if load.checkpointing else per_layer)
        * positions
        * load.hidden
        * load.layers,
        logits=per_logit * positions * load.vocabulary,
    )


def what_would_fit(load: Workload, available: int, lora_parameters: int) -> list[str]:
    """Changes, each alone, that bring the estimate under ``available`` bytes."""
    options: list[str] = []
    if load.trained == load.parameters:
        adapter = replace(load, trained=lora_parameters, reference=False)
        if estimate(adapter).total <= available:
            options.append("LoRA (policy.lora)")
    if not load.checkpointing:
        checkpointed = replace(load, checkpointing=True)
        if estimate(checkpointed).total <= available:
            options.append("gradient checkpointing")
    sizes = (size for size in range(load.batch - 1, 0, -1))
    smaller = (size for size in sizes if estimate(replace(load, batch=size)).total <= available)
    fitting = next(smaller, None)
    if fitting is not None:
        options.append(f"batch_size {fitting}")
    return options


def require_memory(
    load: Workload, available: int, *, device: str, where: str, lora_parameters: int
) -> MemoryEstimate:
    """The estimate; ``TrainingError`` says what would fit if it exceeds ``available`` bytes."""
    needed = estimate(load)
    if needed.total <= available:
        return needed
    options = what_would_fit(load, available, lora_parameters)
    raise TrainingError(
        "not enough memory for this job",
        where=where,
        got=f"an estimate of {needed.total / GIB:.2f} GiB (weights {needed.weights / GIB:.2f}, "
        f"optimiser {needed.optimizer / GIB:.2f}, reference {needed.reference / GIB:.2f}, "
        f"activations {needed.activations / GIB:.2f}, logits {needed.logits / GIB:.2f})",
        expected=f"at most {available / GIB:.2f} GiB on {device}",
        fix=f"Would fit: {' or '.join(options)}."
        if options
        else "Nothing smaller fits: take a smaller model or a larger device.",
    )


def resolve_device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """``cpu`` or ``cuda``; asks torch only where there is a driver, because its import is slow."""
    if wanted != "auto":
        return wanted
    if not Path("/dev/nvidiactl").exists():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def available_bytes(device: str) -> int:
    """Free memory of the device; for the CPU also within the container's limit."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    import psutil

    free = psutil.virtual_memory().available
    limit = _cgroup_free()
    return free if limit is None else min(free, limit)


def _cgroup_free() -> int | None:
    """What this control group may still take (cgroup v2), or None without a limit."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(int(limit) - used, 0)
