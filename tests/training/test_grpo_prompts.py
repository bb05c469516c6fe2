"""GRPO rolls out on the very tokens that every other method makes of a prompt."""

from __future__ import annotations

import shutil

import pytest
from tokenizers import processors
from transformers import AutoTokenizer
from trl.trainer.grpo_trainer import GRPOTrainer

from reward_harness.data.files import write_records
from reward_harness.data.records import Message, RLPrompt
from reward_harness.hashing import digest_file
from reward_harness.models.chat import encode_prompt
from reward_harness.models.folders import model_digest
from reward_harness.progress import quiet
from reward_harness.rewards.base import BaseRM, Scored
from reward_harness.training.job import DataFile, ModelRef
from reward_harness.training.worker import run_job
from tests.training.conftest import TOPICS

LIMIT = 25
CHATS = [f"{topic} " + sign * 7 for topic, sign in zip(TOPICS, "水人語時道問答者", strict=True)]


class Lengths(BaseRM):
    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [Scored(float(len(chat[-1]["content"]))) for chat in batch]


@pytest.fixture
def beginning(jobs, tmp_path) -> ModelRef:
    """The tiny model with a tokenizer that adds a token of beginning, as Llama's and Mistral's."""
    folder = tmp_path / "beginning"
    shutil.copytree(jobs.grpo().model.path, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.save_pretrained(folder)
    return ModelRef(name="beginning", path=str(folder), digest=model_digest(folder))


def test_prompts_are_rolled_out_on_as_they_were_encoded(jobs, tmp_path, monkeypatch, beginning):
    tokenizer = AutoTokenizer.from_pretrained(beginning.path)
    assert tokenizer("a")["input_ids"][0] == 1, "it adds a token of beginning by itself"
    whole = [encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in CHATS]
    cut = {tuple(ids[-LIMIT:]) for ids in whole}
    again = [tuple(tokenizer(tokenizer.decode(ids))["input_ids"]) for ids in cut]
    assert not cut & set(again) and any(len(ids) > LIMIT + 1 for ids in again)
    records = [
        RLPrompt(prompt_id=str(i), prompt=[Message(role="user", content=text)])
        for i, text in enumerate(CHATS)
    ]
    path = tmp_path / "prompts.jsonl"
    write_records(path, records)
    job = jobs.grpo(max_steps=4, max_prompt_tokens=LIMIT).model_copy(
        update={
            "model": beginning,
            "train": DataFile(path=str(path), sha256=digest_file(path)),
            "resume_root": None,
        }
    )
    seen: set[tuple[int, ...]] = set()
    original = GRPOTrainer._generate_and_score_completions

    def spy(self, inputs):
        found = original(self, inputs)
        rows = zip(found["prompt_ids"], found["prompt_mask"], strict=True)
        seen.update(tuple(ids[mask.bool()].tolist()) for ids, mask in rows)
        return found

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", spy)
    result = run_job(job, tmp_path / "out", quiet, reward=Lengths())
    assert seen == cut
    assert result.counts["prompts_cut"] == sum(len(ids) > LIMIT for ids in whole) > 0
