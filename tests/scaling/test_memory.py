import pytest

from reward_harness.errors import TrainingError
from reward_harness.scaling.memory import (
    GIB,
    RUNTIME_BYTES,
    MemoryEstimate,
    Workload,
    estimate,
    require_memory,
)
from reward_harness.sections import LoraSpec
from reward_harness.training.workload import lora_parameters


def load(**changes) -> Workload:
    base = {
        "parameters": 1_000_000,
        "trained": 1_000_000,
        "layers": 10,
        "hidden": 100,
        "vocabulary": 1000,
        "batch": 4,
        "tokens": 50,
    }
    return Workload(**{**base, **changes})


def test_adam_in_mixed_precision_takes_18_bytes_a_parameter():
    found = estimate(load(dtype="bfloat16"))
    assert found.weights + found.optimizer == 18_000_000
    full = estimate(load())
    assert full.weights + full.optimizer == 16_000_000


def test_an_adapter_comes_on_top_of_its_frozen_base():
    found = estimate(load(trained=1000, dtype="bfloat16"))
    assert (found.weights, found.optimizer) == (2_000_000 + 2000, 16_000)
    full = estimate(load(trained=1000))
    assert (full.weights, full.optimizer) == (4_000_000 + 4000, 12_000)
    # float32 weights, of which the graph keeps autocast's bf16 copies
    kept = estimate(load(trained=1000, dtype="bfloat16", frozen="float32"))
    assert kept.weights == 6_000_000 + 2000


def test_a_reference_and_finished_models_are_added():
    found = estimate(load(reference=2_000_000, finished=8_000_000))
    assert found.total - estimate(load()).total == 10_000_000


@pytest.mark.parametrize(
    ("sharding", "weights", "learning"),
    [
        ("replicated", 2_000_000, 16_000_000),
        ("shard_grad_op", 2_000_000, 4_000_000),
        ("full_shard", 500_000, 4_000_000),
    ],
)
def test_four_processes_shard_as_told(sharding, weights, learning):
    """18P, 2P + 16P/N and 18P/N bytes a process."""
    spread = {"dtype": "bfloat16", "processes": 4, "sharding": sharding}
    found = estimate(load(**spread))
    assert (found.weights, found.optimizer) == (weights, learning)
    assert found.logits == 4 * 4 * 50 * 1000  # its own share of the batch
    together = estimate(load(**spread, one_device=True))
    assert together.total == 4 * found.total and together.runtime == 4 * RUNTIME_BYTES


def test_only_a_full_shard_divides_the_reference():
    spread = {"processes": 4, "reference": 2_000_000}
    assert estimate(load(**spread, sharding="full_shard")).reference == 500_000
    assert estimate(load(**spread, sharding="shard_grad_op")).reference == 2_000_000


def test_activations_and_logits_follow_their_formulas():
    found = estimate(load(dtype="bfloat16"))
    assert found.activations == 12 * 4 * 50 * 100 * 10
    assert found.logits == 4 * 4 * 50 * 1000
    assert estimate(load(dtype="bfloat16", checkpointing=True)).activations == 2 * 4 * 50 * 100 * 10
    full = estimate(load())
    assert (full.activations, full.logits) == (96 * 4 * 50 * 100 * 10, 16 * 4 * 50 * 1000)
    parts = (found.weights, found.optimizer, found.activations, found.logits)
    assert found.total == sum(parts) + RUNTIME_BYTES


def test_a_rollouts_cache_takes_the_place_of_activations():
    step = estimate(load())
    alive = step.activations + step.logits
    assert estimate(load(cache=alive)) == step
    assert estimate(load(cache=alive + 1000)).total == step.total + 1000


@pytest.mark.parametrize(
    ("shapes", "lora", "expected"),
    [
        (
            {f"h.{i}.attn.c_attn.weight": [1024, 3072] for i in range(24)},
            LoraSpec(r=16, targets=["c_attn"]),
            1_572_864,
        ),
        (
            {f"h.{i}.attn.c_attn.weight": [1024, 3072] for i in range(24)},
            LoraSpec(r=8, targets=["c_attn"]),
            786_432,
        ),
        (
            {
                f"model.layers.{i}.self_attn.{name}.weight": [4096, 4096]
                for i in range(32)
                for name in ("q_proj", "k_proj", "v_proj", "o_proj")
            },
            LoraSpec(r=16),
            16_777_216,
        ),
    ],
)
def test_adapter_sizes_of_known_models(shapes, lora, expected):
    other = {"model.norm.weight": [4096], "model.layers.0.mlp.up_proj.weight": [11008, 4096]}
    assert lora_parameters(shapes | other, lora) == expected


def test_too_little_memory_says_what_would_fit():
    needed = MemoryEstimate(4 * GIB, 2 * GIB, 0, GIB, GIB // 2, 0, runtime=GIB // 2)
    found = ["policy.lora", "policy.sft.batch_size: 2"]
    where = {"device": "cpu", "where": "toy/sft"}
    with pytest.raises(TrainingError, match="not enough memory") as raised:
        require_memory(needed, 4 * GIB, **where, options=lambda: found)
    text = str(raised.value)
    assert "estimate of 8.00 GiB (weights 4.00, optimiser 2.00" in text
    assert "finished models 1.00" in text and "4.00 GiB on cpu" in text
    assert "Would fit: policy.lora or policy.sft.batch_size: 2." in text
    with pytest.raises(TrainingError, match="Nothing smaller fits"):
        require_memory(needed, 8 * GIB - 1, **where, options=list)
    require_memory(needed, 8 * GIB, **where, options=lambda: pytest.fail("it fits"))
