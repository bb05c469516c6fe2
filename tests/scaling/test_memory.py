import pytest

from reward_harness.errors import TrainingError
from reward_harness.scaling.memory import (
    RUNTIME_BYTES,
    Workload,
    estimate,
    require_memory,
    what_would_fit,
)
from reward_harness.sections import LoraSpec
from reward_harness.training.workload import lora_parameters

GIB = 1 << 30


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


def test_lora_pays_for_its_adapter_only_and_needs_no_reference():
    found = estimate(load(trained=1000, dtype="bfloat16"))
    assert (found.weights, found.optimizer, found.reference) == (2_000_000, 16_000, 0)
    assert estimate(load(reference=True, dtype="bfloat16")).reference == 2_000_000


def test_activations_and_logits_follow_their_formulas():
    found = estimate(load(dtype="bfloat16"))
    assert found.activations == 12 * 4 * 50 * 100 * 10
    assert found.logits == 4 * 4 * 50 * 1000
    assert estimate(load(dtype="bfloat16", checkpointing=True)).activations == 2 * 4 * 50 * 100 * 10
    full = estimate(load())
    assert (full.activations, full.logits) == (96 * 4 * 50 * 100 * 10, 16 * 4 * 50 * 1000)
    parts = (found.weights, found.optimizer, found.reference, found.activations, found.logits)
    assert found.total == sum(parts) + RUNTIME_BYTES


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
    workload = load(parameters=500_000_000, trained=500_000_000)
    with pytest.raises(TrainingError, match="not enough memory") as raised:
        require_memory(workload, 4 * GIB, device="cpu", where="toy/sft", lora_parameters=1_000_000)
    text = str(raised.value)
    assert "estimate of 8.1" in text and "4.00 GiB on cpu" in text and "LoRA" in text


def test_a_smaller_batch_is_offered_where_it_helps():
    workload = load(trained=1000, batch=64, tokens=1000, vocabulary=50_000)
    need = estimate(load(trained=1000, batch=7, tokens=1000, vocabulary=50_000)).total
    options = what_would_fit(workload, need, 1000)
    assert "batch_size 7" in options and not any("LoRA" in option for option in options)
    assert what_would_fit(workload, 1000, 1000) == []


def test_what_fits_passes():
    found = require_memory(load(), GIB, device="cpu", where="toy", lora_parameters=1)
    assert found == estimate(load())
