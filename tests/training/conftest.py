"""Small jobs on tiny models for every training method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reward_harness.data.files import write_records
from reward_harness.data.records import Message, PreferencePair, RLPrompt, SFTExample
from reward_harness.hashing import digest_file
from reward_harness.models.folders import model_digest, model_folder
from reward_harness.progress import Progress
from reward_harness.sections import (
    BTSection,
    DPOSection,
    GRPOSection,
    IterativeDPOSection,
    LoraSpec,
    ModelSpec,
    PPOSection,
    SFTSection,
)
from reward_harness.training.context import StopRequest
from reward_harness.training.job import (
    BTJob,
    DataFile,
    DPOJob,
    GRPOJob,
    IterativeDPOJob,
    ModelRef,
    PPOJob,
    RewardRef,
    SFTJob,
)

CAUSAL = ModelSpec(source="random", name="tiny-causal")
ENCODER = ModelSpec(source="random", name="tiny-encoder")
TOPICS = ("water", "people", "words", "time", "way", "question", "answer", "user")


class Jobs:
    """Builds jobs whose data and models lie below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _model(self, spec: ModelSpec) -> ModelRef:
        folder = model_folder(spec, self.root / "cache")
        return ModelRef(name=spec.name, path=str(folder), digest=model_digest(folder))

    def _data(self, name: str, records) -> DataFile:
        path = self.root / f"{name}.jsonl"
        write_records(path, records)
        return DataFile(path=str(path), sha256=digest_file(path))

    def _common(self) -> dict:
        return {
            "experiment": "toy",
            "seed": 3,
            "device": "cpu",
            "resume_root": str(self.root / "resume"),
        }

    def sft(self, lora: LoraSpec | None = None, **settings) -> SFTJob:
        examples = [
            SFTExample(example_id=str(i), prompt=[user(i)], response=f"{topic} is very long")
            for i, topic in enumerate(TOPICS)
        ]
        return SFTJob(
            **self._common(),
            model=self._model(CAUSAL),
            train=self._data("sft", examples),
            lora=lora,
            settings=SFTSection(
                **{"max_steps": 6, "batch_size": 4, "max_length": 64, "save_every": 2, **settings}
            ),
        )

    def dpo(self, lora: LoraSpec | None = None, **settings) -> DPOJob:
        return DPOJob(
            **self._common(),
            model=self._model(CAUSAL),
            train=self._data("pairs", pairs()),
            lora=lora,
            settings=DPOSection(
                **{"max_steps": 6, "batch_size": 2, "max_length": 64, "save_every": 2, **settings}
            ),
        )

    def bt(self, **settings) -> BTJob:
        files = {name: self._data(name, pairs()) for name in ("train", "validation", "test")}
        return BTJob(
            **self._common(),
            model=self._model(ENCODER),
            settings=BTSection(
                backbone=ENCODER,
                **{"max_steps": 6, "batch_size": 4, "max_length": 64, **settings},
            ),
            **files,
        )

    def grpo(self, lora: LoraSpec | None = None, **settings) -> GRPOJob:
        return GRPOJob(
            **self._common(),
            model=self._model(CAUSAL),
            train=self._data("prompts", prompts()),
            lora=lora,
            reward=RewardRef(kind="served", digest="0" * 64, url="http://127.0.0.1:9"),
            settings=GRPOSection(
                **{
                    "max_steps": 3,
                    "batch_size": 4,
                    "group_size": 2,
                    "max_prompt_tokens": 32,
                    "max_new_tokens": 6,
                    "save_every": 1,
                    **settings,
                }
            ),
        )

    def ppo(self, lora: LoraSpec | None = None, **settings) -> PPOJob:
        return PPOJob(
            **self._common(),
            model=self._model(CAUSAL),
            train=self._data("prompts", prompts()),
            lora=lora,
            reward=RewardRef(kind="served", digest="0" * 64, url="http://127.0.0.1:9"),
            settings=PPOSection(
                **{
                    "max_steps": 3,
                    "batch_size": 4,
                    "minibatch_size": 2,
                    "ppo_epochs": 2,
                    "max_prompt_tokens": 32,
                    "max_new_tokens": 6,
                    "save_every": 1,
                    **settings,
                }
            ),
        )

    def iterative_dpo(self, lora: LoraSpec | None = None, **settings) -> IterativeDPOJob:
        return IterativeDPOJob(
            **self._common(),
            model=self._model(CAUSAL),
            train=self._data("prompts", prompts()),
            test=self._data("held", prompts()[:4]),
            lora=lora,
            reward=RewardRef(kind="served", digest="0" * 64, url="http://127.0.0.1:9"),
            settings=IterativeDPOSection(
                **{
                    "max_steps": 2,
                    "batch_size": 2,
                    "rounds": 2,
                    "prompts": 8,
                    "judged_prompts": 4,
                    "max_prompt_tokens": 32,
                    "max_new_tokens": 6,
                    "max_length": 64,
                    "temperature": 1.0,
                    **settings,
                }
            ),
        )


def user(index: int) -> Message:
    return Message(role="user", content=f"please explain {TOPICS[index % len(TOPICS)]} {index}")


def pairs() -> list[PreferencePair]:
    return [
        PreferencePair(
            pair_id=str(i),
            prompt=[user(i)],
            chosen=f"{topic} is very long and people use it",
            rejected=f"no {topic}",
            source="toy",
        )
        for i, topic in enumerate(TOPICS)
    ]


def prompts() -> list[RLPrompt]:
    return [RLPrompt(prompt_id=str(i), prompt=[user(i)]) for i in range(len(TOPICS))]


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("training"))


def stop_at(step: int) -> tuple[Callable[[Progress], None], StopRequest]:
    """A listener to progress that asks the job to stop at ``step``, and the request it makes."""
    stop = StopRequest()

    def press(event: Progress) -> None:
        stop.requested = stop.requested or event.step == step

    return press, stop
