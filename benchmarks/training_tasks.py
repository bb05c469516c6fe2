"""What ``benchmarks.training`` trains on: the same records, model and settings for both sides.

Records are the project's own ranked responses (``data/tour``): every response is an SFT example
(81 to 322 tokens, 166 on average), every better and worse response to a prompt a pair, every prompt
one to roll out on. The model is SmolLM2-135M in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from reward_harness.data.files import read_records, write_records
from reward_harness.data.records import PreferencePair, RankedPrompt, RLPrompt, SFTExample
from reward_harness.hashing import digest_file
from reward_harness.models.folders import model_digest, model_folder
from reward_harness.sections import (
    BTSection,
    HackingSpec,
    LoraSpec,
    ModelSpec,
    PPOSection,
    SFTSection,
)
from reward_harness.training.job import (
    AnyJob,
    BTJob,
    DataFile,
    ModelRef,
    PPOJob,
    RewardRef,
    SFTJob,
)

ROOT = Path(__file__).resolve().parents[1]
RANKED = ROOT / "data/tour/ranked_prompts.jsonl"
POLICY = ModelSpec(source="package", name="smollm2-135m-instruct")
THREADS = 1
PAIR_STRIDE = 60
LEARNING_RATE = 1e-4
LORA = LoraSpec()
SFT = SFTSection(max_steps=4, batch_size=8, max_length=512, learning_rate=LEARNING_RATE)
RM = BTSection(
    backbone=POLICY, max_steps=3, batch_size=4, max_length=512, learning_rate=LEARNING_RATE
)
PPO = PPOSection(
    max_steps=2,
    batch_size=4,
    minibatch_size=2,
    ppo_epochs=2,
    max_prompt_tokens=128,
    max_new_tokens=24,
    temperature=1.0,
    learning_rate=LEARNING_RATE,
    reward="in_process",
    hacking=HackingSpec(on_hack="record"),
)


def chat(prompt: RankedPrompt) -> list[dict[str, str]]:
    """The prompt as plain messages."""
    return [message.model_dump() for message in prompt.prompt]


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """The benchmark's folder: records, the reward of PPO, what the sides write."""

    root: Path

    @property
    def model(self) -> Path:
        return model_folder(POLICY, ROOT / "data/cache")

    @property
    def reward(self) -> Path:
        return self.root / "reward"

    def make(self) -> None:
        """Write the records of every case and a reward model with a seeded random head."""
        import torch

        from reward_harness.models.reward_head import RewardModel

        ranked = read_records(RANKED, RankedPrompt)
        write_records(
            self.root / "sft.jsonl",
            [
                SFTExample(example_id=c.candidate_id, prompt=p.prompt, response=c.text)
                for p in ranked
                for c in p.candidates
            ],
        )
        write_records(self.root / "rm.jsonl", all_pairs(ranked))
        write_records(
            self.root / "ppo.jsonl",
            [RLPrompt(prompt_id=p.prompt_id, prompt=p.prompt) for p in ranked],
        )
        write_records(self.root / "none.jsonl", [])
        torch.manual_seed(7)
        model = RewardModel.from_backbone(self.model, max_length=512)
        torch.nn.init.normal_(model.head.weight, std=0.02)
        model.save(self.reward)

    def job(self, case: str) -> AnyJob:
        """The case's job for the project's worker."""
        common: dict[str, Any] = {
            "experiment": "benchmark",
            "model": ModelRef(
                name=POLICY.name, path=str(self.model), digest=model_digest(self.model)
            ),
            "train": self._file(case),
            "seed": 7,
            "device": "cpu",
            "threads": THREADS,
        }
        if case == "sft":
            return SFTJob(**common, settings=SFT, lora=LORA)
        if case == "rm":
            none = self._file("none")
            return BTJob(**common, settings=RM, validation=none, test=none)
        reward = RewardRef(
            kind="classifier", digest=model_digest(self.reward), path=str(self.reward)
        )
        return PPOJob(**common, settings=PPO, lora=LORA, reward=reward)

    def _file(self, name: str) -> DataFile:
        path = self.root / f"{name}.jsonl"
        return DataFile(path=str(path), sha256=digest_file(path))

    def policy(self) -> tuple[Any, Any]:
        """SmolLM2 in float32 and its tokenizer."""
        from reward_harness.models.embedded import load_policy_folder

        return load_policy_folder(self.model, dtype="float32")

    def sft_rows(self) -> list[dict[str, Any]]:
        """TRL's conversational prompt and completion."""
        return [
            {"prompt": chat(p), "completion": [{"role": "assistant", "content": c.text}]}
            for p in read_records(RANKED, RankedPrompt)
            for c in p.candidates
        ]

    def pair_rows(self) -> list[dict[str, Any]]:
        """TRL's conversational preference pairs."""
        return [
            {
                "prompt": [m.model_dump() for m in pair.prompt],
                "chosen": [{"role": "assistant", "content": pair.chosen}],
                "rejected": [{"role": "assistant", "content": pair.rejected}],
            }
            for pair in all_pairs(read_records(RANKED, RankedPrompt))
        ]

    def shared_tokens(self) -> float:
        """Share of the pairs' tokens that the rejected side has from the chosen one."""
        from reward_harness.models.reward_head import RewardModel
        from reward_harness.training.reward_model import encode_pair

        model = RewardModel.load(self.reward)
        pairs = [
            encode_pair(model, pair, share=True)
            for pair in all_pairs(read_records(RANKED, RankedPrompt))
        ]
        return sum(pair.shared for pair in pairs) / sum(pair.tokens for pair in pairs)

    def prompt_rows(self, tokenizer: Any) -> list[dict[str, Any]]:
        """Tokenised prompts, cut on the left as in the project's trainer."""
        from reward_harness.models.chat import encode_prompt

        return [
            {"input_ids": encode_prompt(tokenizer, chat(p))[-PPO.max_prompt_tokens :]}
            for p in read_records(RANKED, RankedPrompt)
        ]


def all_pairs(ranked: list[RankedPrompt]) -> list[PreferencePair]:
    """One pair in ``PAIR_STRIDE``: the project's trainer solves its head on all before step 1."""
    return [pair for prompt in ranked for pair in pairs_of(prompt)][::PAIR_STRIDE]


def pairs_of(prompt: RankedPrompt) -> list[PreferencePair]:
    """Every two responses of different rank, the better one chosen."""
    ranked = [c for c in prompt.candidates if c.rank is not None]
    ordered = sorted(ranked, key=lambda c: c.rank or 0)
    return [
        PreferencePair(
            pair_id=f"{better.candidate_id}-{worse.candidate_id}",
            prompt=prompt.prompt,
            chosen=better.text,
            rejected=worse.text,
            source="tour",
        )
        for better, worse in combinations(ordered, 2)
        if better.rank != worse.rank
    ]
