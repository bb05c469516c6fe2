"""How much memory a training job will need, before it starts.

Weights and optimiser: with bf16 mixed precision and Adam 18 bytes a trained parameter (2 weights +
4 master + 4 gradient + 4 + 4 moments), in float32 16 (4 + 4 + 4 + 4); a frozen parameter costs its
weight only, an adapter comes on top. N processes: replicated ones hold all of it each;
SHARD_GRAD_OP 2P + 16P/N and FULL_SHARD 18P/N a process (ZeRO, arXiv 1910.02054). Activations in
bf16: 12·B·S·H bytes a layer, 2·B·S·H with checkpointing; logits 4·B·S·V (Korthikanti et al., arXiv
2205.05198). In float32 every intermediate is kept: 96·B·S·H a layer and four copies of the logits
(values, log-softmax, entropy, gradient). Against the measured peak on a CPU: SmolLM2-135M with
LoRA, 8×160 tokens: 4.1 GiB estimated, 4.5 (DPO, GRPO) to 5.1 (SFT) used; MiniLM reward model: 1.4
estimated, 2.0 used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

from reward_harness.errors import TrainingError

GIB = 1 << 30
NF4_BYTES = 0.516
"""Four bits and twice quantised scales: .127 bits a parameter (QLoRA, arXiv 2305.14314)."""

RUNTIME_BYTES = 700 * 1024**2
"""torch, transformers and TRL imported, before any model."""

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Workload:
    """One training step as one process sees it: ``batch`` sequences of ``tokens`` in one pass.

    ``trained`` equal to ``parameters``: all of them learn; else they are frozen, and ``trained``
    counts the adapters beside them. ``frozen`` is the dtype that frozen weights are held in under
    mixed precision: float32 ones leave the bf16 copies of autocast in the graph. ``reference`` and
    ``finished`` are bytes of a frozen reference and of models that are kept from before.
    ``cache`` is what a rollout keeps of the tokens it has read; no activation is alive then.
    ``one_device``: the processes share a device, as on a CPU.
    """

    parameters: int
    trained: int
    layers: int
    hidden: int
    vocabulary: int
    batch: int
    tokens: int
    dtype: Dtype = "float32"
    frozen: Dtype = "bfloat16"
    reference: int = 0
    finished: int = 0
    cache: int = 0
    checkpointing: bool = False
    quantized: int = 0
    processes: int = 1
    sharding: Literal["replicated", "shard_grad_op", "full_shard"] = "replicated"
    one_device: bool = False


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by what they are for."""

    weights: int
    optimizer: int
    reference: int
    finished: int
    activations: int
    logits: int
    rollout: int = 0
    """What a rollout's cache takes beyond the activations and logits whose place it has."""
    runtime: int = RUNTIME_BYTES

    @property
    def total(self) -> int:
        return sum(astuple(self))

    def times(self, processes: int) -> MemoryEstimate:
        """What so many processes take together."""
        return MemoryEstimate(*(processes * part for part in astuple(self)))

    def __str__(self) -> str:
        parts = (
            f"{name} {value / GIB:.2f}"
            for name, value in (
                ("weights", self.weights),
                ("optimiser", self.optimizer),
                ("reference", self.reference),
                ("finished models", self.finished),
                ("activations", self.activations),
                ("logits", self.logits),
                ("more in rollouts", self.rollout),
            )
        )
        return f"{self.total / GIB:.2f} GiB ({', '.join(parts)})"


def estimate(load: Workload) -> MemoryEstimate:
    """Peak bytes of one training step on one device."""
    mixed = load.dtype == "bfloat16"
    weight_bytes, learning_bytes = (2, 16) if mixed else (4, 12)
    frozen_bytes = 2 + 4 if mixed and load.frozen == "float32" else weight_bytes
    frozen = 0 if load.trained == load.parameters else load.parameters - load.quantized
    weights = weight_bytes * load.trained + frozen_bytes * frozen
    weights += round(NF4_BYTES * load.quantized)
    weight_parts = load.processes if load.sharding == "full_shard" else 1
    learning_parts = 1 if load.sharding == "replicated" else load.processes
    positions = load.batch * load.tokens
    per_layer, per_logit = (12, 4) if mixed else (96, 16)
    per_layer = 2 if load.checkpointing else per_layer
    activations = per_layer * positions * load.hidden * load.layers
    logits = per_logit * positions * load.vocabulary
    one = MemoryEstimate(
        weights=weights // weight_parts,
        optimizer=learning_bytes * load.trained // learning_parts,
        reference=load.reference // weight_parts,
        finished=load.finished,
        activations=activations,
        logits=logits,
        rollout=max(0, load.cache - activations - logits),
    )
    return one.times(load.processes) if load.one_device else one


def require_memory(
    needed: MemoryEstimate,
    available: int,
    *,
    device: str,
    where: str,
    options: Callable[[], Sequence[str]],
) -> None:
    """``TrainingError`` if ``needed`` exceeds ``available`` bytes; it says which of the ``options``
    (settings that would fit, each alone) there are.
    """
    if needed.total <= available:
        return
    found = options()
    raise TrainingError(
        "not enough memory for this job",
        where=where,
        got=f"an estimate of {needed}",
        expected=f"at most {available / GIB:.2f} GiB on {device}",
        fix=f"Would fit: {' or '.join(found)}."
        if found
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


def total_bytes(device: str) -> int:
    """The GPU's memory; 0 on a CPU, where no share of it is set aside."""
    if device != "cuda":
        return 0
    import torch

    return torch.cuda.mem_get_info()[1]


def _cgroup_free() -> int | None:
    """What this control group may still take (cgroup v2), or None without a limit."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(int(limit) - used, 0)
