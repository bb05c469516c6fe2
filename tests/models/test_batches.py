from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_harness.models.batches import CPU_PADDING, length_batches, padding_on

LENGTHS = st.lists(st.integers(1, 600), max_size=40)


@given(LENGTHS, st.sampled_from([100, 4096]), st.sampled_from([None, 0.0, 0.1]))
def test_each_sequence_is_in_one_batch_within_budget_and_padding(
    lengths: list[int], budget: int, padding: float | None
) -> None:
    batches = list(length_batches(lengths, budget, padding))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        found = [lengths[index] for index in batch]
        padded = len(found) * max(found)
        assert len(found) == 1 or padded <= budget
        assert padding is None or padded <= (1 + padding) * sum(found)


def test_only_a_cpu_counts_padding_as_work() -> None:
    assert padding_on(torch.device("cpu")) == CPU_PADDING
    assert padding_on(torch.device("cuda")) is None
