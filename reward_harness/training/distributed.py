"""One job on several processes of one machine: replicated (DDP) or fully sharded (FSDP2).

The processes are told apart by the environment that ``torch.distributed.run`` sets. Every process
reads the same job and takes its share of each batch; the first one alone writes what is published.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from reward_harness.errors import SpecError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from reward_harness.sections import OptimSpec
    from reward_harness.training.job import AnyJob

T = TypeVar("T")
MULTI_PROCESS = frozenset({"sft", "dpo"})
"""Methods that train on several processes; the others take one."""


def rank() -> int:
    """This process's number, 0 where there is one process only."""
    return int(os.environ.get("RANK", "0"))


def processes() -> int:
    """How many processes work on the job."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def batch_arguments(job: AnyJob, settings: OptimSpec) -> dict[str, Any]:
    """Trainer arguments that divide the job's batch among its processes and shard its model.

    ``SpecError`` if the batch cannot be divided or another number of processes was started.
    """
    if processes() != job.processes:
        raise SpecError(
            "the job is for another number of processes",
            got=processes(),
            expected=str(job.processes),
            fix="Start it with `python -m torch.distributed.run --nproc-per-node N -m "
            "reward_harness.training.worker …`.",
        )
    share, rest = divmod(settings.batch_size, job.processes)
    if rest:
        raise SpecError(
            "batch_size cannot be divided among the processes",
            where=f"{job.experiment}: policy.{job.method}",
            got=settings.batch_size,
            expected=f"a multiple of {job.processes}",
        )
    arguments: dict[str, Any] = {"per_device_train_batch_size": share}
    if job.processes > 1:
        arguments["ddp_find_unused_parameters"] = False
    if job.processes > 1 and job.sharding == "full_shard":
        sharding = {
            "version": 2,
            "reshard_after_forward": True,
            "state_dict_type": "FULL_STATE_DICT",
        }
        arguments |= {"fsdp": True, "fsdp_config": sharding}
    return arguments


def shard_here(job: AnyJob, arguments: Any) -> None:
    """Make a trainer with these ``TrainingArguments`` shard on the CPU, too.

    accelerate takes FSDP for accelerators only and would silently replicate on the CPU, so its
    state is told before the trainer makes it.
    """
    if job.processes == 1 or job.sharding != "full_shard" or arguments.device.type != "cpu":
        return
    from accelerate import Accelerator, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    mixed = "bf16" if arguments.bf16 else "no"
    state: Any = Accelerator(mixed_precision=mixed, cpu=True).state  # shared with the trainer's own
    plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
    if mixed != "no":
        plugin.set_mixed_precision(mixed)
    state.fsdp_plugin = plugin
    for known in (PartialState(), state):
        known.distributed_type = DistributedType.FSDP


def anyone(flag: bool) -> bool:
    """Whether ``flag`` holds in any process; every process must ask at the same point."""
    if processes() == 1:
        return flag
    import torch

    told = torch.tensor([int(flag)], device=_device())
    torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
    return bool(told.item())


def first_decides(decide: Callable[[], T]) -> T:
    """What the first process finds, told to all."""
    if processes() == 1:
        return decide()
    import torch

    found: list[Any] = [decide() if rank() == 0 else None]
    torch.distributed.broadcast_object_list(found, src=0)
    return found[0]


def wait_for_all() -> None:
    """Return once every process has come here."""
    if processes() > 1:
        import torch

        torch.distributed.barrier()


def sharded_tensors(model: Any) -> int:
    """How many of the model's parameters are spread over the processes (``DTensor``)."""
    from torch.distributed.tensor import DTensor

    return sum(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole_model(trainer: Any, fresh: Callable[[], Any]) -> PreTrainedModel | None:
    """The trained model in one piece, in the first process; None in the others.

    ``fresh`` makes an untrained model of the same shape, which takes the gathered weights where the
    trainer's own are in shards.
    """
    if not sharded_tensors(trainer.model):
        return trainer.accelerator.unwrap_model(trainer.model) if rank() == 0 else None
    state = trainer.accelerator.get_state_dict(trainer.model)  # every process takes part
    if rank() != 0:
        return None
    model = fresh()
    model.load_state_dict(state)
    return model


def _device() -> int | str:
    """Where this process's collectives take their tensors."""
    import torch

    on_gpu = torch.distributed.get_backend() == "nccl"
    return torch.cuda.current_device() if on_gpu else "cpu"
