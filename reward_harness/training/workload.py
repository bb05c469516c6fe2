"""The size of a job's training step, read from its model's files without loading it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_harness.errors import TrainingError
from reward_harness.scaling.memory import (
    Dtype,
    MemoryEstimate,
    Workload,
    estimate,
    require_memory,
    resolve_device,
)
from reward_harness.sections import (
    DPOSection,
    IterativeDPOSection,
    LoraSpec,
    RewardOptim,
    RubricModelSection,
    SFTSection,
    WatchedSpec,
)

if TYPE_CHECKING:
    from reward_harness.training.job import AnyJob, ProcessJob

REWARD_PASS_TOKENS = 2048
"""Token budget of one pass in ``reward_loop``; importing that would import torch."""

PPO_PASS_TOKENS = {"cpu": 512, "cuda": 1024}
"""Padded tokens of one pass of PPO. On a CPU 512 (less padding) took a tenth less processor time
than 1024 and less than 384 or 256: SmolLM2-135M, minibatches of 4, two runs. Not yet measured on a
GPU."""

ROLLOUT_BATCH = 64
"""Responses PPO samples at once; a larger rollout takes several batches, by the prompts' length."""

TEMPLATE_TOKENS = 32
"""About what roles and separators add to the text of a solution."""

TOKENISED = 64
"""Solutions with the most steps, and as many with the most steps times text, whose tokens are
counted: of 5,000 solutions, all took 24 s, these with reading the file 1 s."""

SIZES = ("num_hidden_layers", "hidden_size", "vocab_size")


@dataclass(frozen=True)
class JobFacts:
    """What the files of a job say, read once: its model's tensors and sizes, its solutions."""

    job: AnyJob

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        return tensor_shapes(Path(self.job.model.path))

    @cached_property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def sizes(self) -> dict[str, int]:
        """``SIZES`` of the model."""
        return model_sizes(Path(self.job.model.path))

    @cached_property
    def solutions(self) -> Solutions:
        assert self.job.method == "process"
        return Solutions.of(self.job)


@dataclass(frozen=True, slots=True)
class Solutions:
    """Steps and tokens of the largest solutions of a process model's job, and how its backbone
    reads.
    """

    steps_and_tokens: list[tuple[int, int]]
    causal: bool

    @classmethod
    def of(cls, job: ProcessJob) -> Solutions:
        """Read the job's training file and tokenise the solutions that may be the widest."""
        from reward_harness.data.files import read_records
        from reward_harness.data.records import StepwiseExample
        from reward_harness.models.chat import encode_text
        from reward_harness.models.embedded import load_tokenizer
        from reward_harness.models.silence import quiet_libraries

        quiet_libraries()
        tokenizer = load_tokenizer(Path(job.model.path))
        examples = read_records(Path(job.train.path), StepwiseExample)
        whole = [
            (len(e.steps), "\n".join([*(m.content for m in e.prompt), *e.steps])) for e in examples
        ]
        by_steps = sorted(whole, key=lambda one: one[0], reverse=True)[:TOKENISED]
        by_text = sorted(whole, key=lambda one: one[0] * len(one[1]), reverse=True)[:TOKENISED]
        counted = [
            (steps, len(encode_text(tokenizer, text)) + TEMPLATE_TOKENS)
            for steps, text in by_steps + by_text
        ]
        return cls(counted, tokenizer.cls_token_id is None)

    def widest(self, max_length: int) -> tuple[int, int]:
        """Inputs and tokens of the solution that is most to compute, which is always one pass.

        An encoder, and a solution too long for one causal input, is read once for each step.
        """
        found = [(1, 1)]
        for steps, tokens in self.steps_and_tokens:
            whole = self.causal and tokens <= max_length
            found.append((1 if whole else steps, min(tokens, max_length)))
        return max(found, key=math.prod)


def require_job_memory(job: AnyJob, available: int, device: str) -> MemoryEstimate:
    """The job's estimate; ``TrainingError`` if it is more than ``available`` bytes."""
    from reward_harness.training.fitting import what_would_fit

    facts = JobFacts(job)
    needed = estimate(workload_of(job, facts))
    require_memory(
        needed,
        available,
        device=device,
        where=f"{job.experiment}/{job.method}",
        options=partial(what_would_fit, job, facts, available),
    )
    return needed


def workload_of(job: AnyJob, facts: JobFacts | None = None) -> Workload:
    """Parameters, trained parameters and the shape of one pass of one process.

    ``facts`` may be those of a job with other settings and the same files.
    """
    facts = facts or JobFacts(job)
    sizes, lora = facts.sizes, lora_of(job)
    device = resolve_device(job.device)
    batch, tokens = _pass(job, facts, device)
    reward = isinstance(job.settings, RewardOptim)
    trained = lora_parameters(facts.shapes, lora) if lora else facts.parameters
    return Workload(
        parameters=facts.parameters,
        trained=0 if job.settings.max_steps == 0 else trained,
        layers=sizes["num_hidden_layers"],
        hidden=sizes["hidden_size"],
        vocabulary=0 if reward else sizes["vocab_size"],
        batch=batch,
        tokens=tokens,
        dtype=job.train_dtype,
        frozen=frozen_dtype(job),
        reference=_reference_bytes(job, facts),
        cache=_cache_bytes(job, facts),
        finished=4 * facts.parameters * _members_before(job) * (2 if device == "cpu" else 1),
        quantized=_matrix_parameters(facts.shapes) if lora and lora.quantize else 0,
        processes=job.processes,
        sharding=job.sharding,
        one_device=device == "cpu",
    )


def frozen_dtype(job: AnyJob) -> Dtype:
    """What weights that only adapters move are loaded in; a reward model's backbone stays whole."""
    return "float32" if isinstance(job.settings, RewardOptim) else job.train_dtype


def lora_of(job: AnyJob) -> LoraSpec | None:
    """The job's adapters; a reward model's are in its settings."""
    return getattr(job, "lora", None) or getattr(job.settings, "lora", None)


def checkpoint_bytes(job: AnyJob) -> int:
    """About what one resumable checkpoint takes: trained weights and Adam's two moments in float32;
    a reward model's whole state beside its moments.
    """
    load = workload_of(job)
    weights = load.parameters if isinstance(job.settings, RewardOptim) else load.trained
    return 4 * weights + 8 * load.trained


def model_bytes(job: AnyJob) -> int:
    """About what the published model takes in float32."""
    return 4 * JobFacts(job).parameters


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


def model_sizes(folder: Path) -> dict[str, int]:
    """``SIZES`` as ``config.json`` has them, by transformers where the family names them otherwise
    (GPT-2's ``n_layer``) or nests them; ``TrainingError`` if there are none.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    if not config.keys() >= set(SIZES):
        from transformers import AutoConfig

        try:
            known: Any = AutoConfig.from_pretrained(folder).get_text_config()
            config = {name: getattr(known, name) for name in SIZES}
        except (AttributeError, ValueError) as error:
            raise TrainingError(
                "the model's sizes are not in its configuration",
                where=str(folder / "config.json"),
                got=str(error).splitlines()[0],
                expected=", ".join(SIZES),
            ) from error
    return {name: int(config[name]) for name in SIZES}


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


def _reference_bytes(job: AnyJob, facts: JobFacts) -> int:
    """A frozen reference beside the policy; with LoRA that is the policy with its adapter off.

    In mixed precision its matrices are in bf16, its embeddings in float32 (``frozen_copy``); GRPO's
    is TRL's, in float32.
    """
    settings: Any = job.settings
    asked = job.method in ("ppo", "iterative_dpo")
    asked |= job.method == "dpo" and settings.reference == "model"
    asked |= job.method == "grpo" and settings.beta > 0
    if job.method == "process" or lora_of(job) is not None or not asked:
        return 0
    if job.train_dtype == "float32" or job.method == "grpo":
        return 4 * facts.parameters
    embeddings = facts.sizes["vocab_size"] * facts.sizes["hidden_size"]
    return 2 * facts.parameters + 2 * embeddings


def _members_before(job: AnyJob) -> int:
    """Finished models that ``reward_loop`` keeps, with a copy on the CPU, while the last trains."""
    if job.method == "ensemble":
        return job.settings.members - 1
    if job.method == "process":
        return int(job.settings.outcome_twin)
    if job.method == "bt" and job.settings.flywheel is not None:
        return job.settings.flywheel.cycles
    return 0


def _cache_bytes(job: AnyJob, facts: JobFacts) -> int:
    """Keys and values of a rollout's tokens, beside the model in training: PPO's and GRPO's.
    Iterative DPO rolls out before anything else is loaded.
    """
    settings = job.settings
    if not isinstance(settings, WatchedSpec) or settings.rollouts == "vllm":
        return 0
    rows = min(settings.batch_size, ROLLOUT_BATCH) if job.method == "ppo" else settings.batch_size
    numbers = (
        sum(
            shape[0]
            for name, shape in facts.shapes.items()
            if name.endswith((".k_proj.weight", ".v_proj.weight"))
        )
        or 2 * facts.sizes["num_hidden_layers"] * facts.sizes["hidden_size"]
    )
    tokens = rows * (settings.max_prompt_tokens + settings.max_new_tokens)
    return (2 if job.train_dtype == "bfloat16" else 4) * numbers * tokens


def _pass(job: AnyJob, facts: JobFacts, device: str) -> tuple[int, int]:
    """Sequences and tokens of the largest single pass of one process."""
    settings = job.settings
    if isinstance(settings, RewardOptim):
        return _reward_pass(job, facts)
    share = math.ceil(settings.batch_size / job.processes)
    if isinstance(settings, SFTSection):
        return share, settings.max_length
    if isinstance(settings, DPOSection | IterativeDPOSection):
        return 2 * share, settings.max_length
    tokens = settings.max_prompt_tokens + settings.max_new_tokens
    if job.method == "ppo":
        return min(share, max(1, PPO_PASS_TOKENS[device] // tokens)), tokens
    return share, tokens


def _reward_pass(job: AnyJob, facts: JobFacts) -> tuple[int, int]:
    """Whole samples of one batch within the budget, at least one: a pair is two sequences, a
    solution as many as it has inputs.
    """
    settings = job.settings
    assert isinstance(settings, RewardOptim)
    sequences, tokens = 2, settings.max_length
    if isinstance(settings, RubricModelSection):
        sequences = 1
    if job.method == "process":
        sequences, tokens = facts.solutions.widest(settings.max_length)
    samples = min(settings.batch_size, max(1, REWARD_PASS_TOKENS // (sequences * tokens)))
    return samples * sequences, tokens
