"""What SFT does otherwise than TRL: batches of like length, logits for response tokens only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from reward_harness.models.embedded import load_policy_folder
from reward_harness.training.sft import LengthOrder, ResponseSFTTrainer

LENGTHS = [30, 5, 7, 31, 6, 29, 8, 32, 9]


def batches_of(order: LengthOrder) -> list[list[int]]:
    flat = list(order)
    return [flat[i : i + order.size] for i in range(0, len(flat), order.size)]


def test_batches_hold_whole_batches_of_like_length() -> None:
    order = LengthOrder(LENGTHS, size=2, total=9, seed=3)
    found = batches_of(order)
    assert len(order) == 18 and [len(batch) for batch in found] == [2] * 9
    assert all(abs(LENGTHS[a] - LENGTHS[b]) <= 2 or 8 in (a, b) for a, b in found)
    for epoch in (found[:4], found[4:8]):  # one example in turn is left out of an epoch
        assert len({index for batch in epoch for index in batch}) == 8
    assert found == batches_of(LengthOrder(LENGTHS, 2, 9, seed=3))
    assert found != batches_of(LengthOrder(LENGTHS, 2, 9, seed=4))


def test_too_few_examples_fill_a_batch_by_repeating() -> None:
    assert [sorted(batch) for batch in batches_of(LengthOrder([4, 5], 4, 2, seed=0))] == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
    ]


@pytest.mark.parametrize("items", [None, 7])
def test_loss_and_measures_are_those_of_trl(jobs, tmp_path: Path, items: int | None) -> None:
    folder = Path(jobs.sft().model.path)
    rows = [
        {"input_ids": [5, 6, 7, 8, 9, 2], "labels": [-100, -100, 7, 8, 9, 2]},
        {"input_ids": [11, 12, 13], "labels": [-100, 12, 13]},
    ]
    found = []
    for kind in (SFTTrainer, ResponseSFTTrainer):
        model, tokenizer = load_policy_folder(folder)
        arguments = SFTConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, max_steps=1, report_to="none"
        )
        trainer = kind(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        model.train()
        loss = trainer.compute_loss(model, trainer.data_collator(rows), num_items_in_batch=items)
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((loss.item(), trainer._metrics["train"], gradients))
    (theirs, their_measures, theirs_g), (own, own_measures, own_g) = found
    assert own == pytest.approx(theirs, rel=1e-5)
    assert own_measures.keys() == their_measures.keys()
    for name, values in their_measures.items():
        assert own_measures[name] == pytest.approx(values, rel=1e-5), name
    assert own_g.keys() == theirs_g.keys()
    for name in own_g:
        torch.testing.assert_close(own_g[name], theirs_g[name], rtol=1e-4, atol=1e-6)
    assert json.dumps(own_measures)  # plain numbers: they go into trainer_state.json
