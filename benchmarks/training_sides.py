"""One side of ``benchmarks.training`` in a process of its own: trains a few steps, tells times.

    python -m benchmarks.training_sides CASE SIDE FOLDER

``ours`` runs the project's worker function, ``trl`` the same task with TRL's trainer and TRL's own
data preparation (``ppo``: ``trl.experimental.ppo`` of the TRL that is first on the path). The last
line on standard output is JSON: seconds and real tokens of each step, peak resident bytes.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.training_tasks import (
    LEARNING_RATE,
    LORA,
    PPO,
    RM,
    SFT,
    THREADS,
    TaskFiles,
)

Steps = list[dict[str, float]]
"""Of each step from the second on: ``wall_s``, ``cpu_s`` and real ``tokens``."""


class Stopwatch(TrainerCallback):
    """The clocks at the end of each step."""

    def __init__(self) -> None:
        self.at: list[tuple[float, float]] = []

    def mark(self) -> None:
        self.at.append((time.perf_counter(), time.process_time()))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.mark()

    def steps(self, tokens: list[int] | None = None) -> Steps:
        """From the end of each step to the end of the next, which saw ``tokens[i + 1]``."""
        return [
            {
                "wall_s": self.at[i + 1][0] - self.at[i][0],
                "cpu_s": self.at[i + 1][1] - self.at[i][1],
                "tokens": tokens[i + 1] if tokens else 0,
            }
            for i in range(len(self.at) - 1)
        ]


def ours(case: str, files: TaskFiles) -> Steps:
    """The project's own worker function on the case's job."""
    from reward_harness.training.worker import run_job

    watch, output = Stopwatch(), files.root / f"out-{case}"
    run_job(files.job(case), output, lambda event: watch.mark() if event.numbers else None)
    rows = [json.loads(line) for line in (output / "log/timing.jsonl").read_bytes().splitlines()]
    seen = [0.0, *(row["elapsed_s"] * row["tokens_per_s"] for row in rows)]
    return watch.steps([round(seen[i + 1] - seen[i]) for i in range(len(rows))])


def common(files: TaskFiles, steps: int, batch: int) -> dict[str, Any]:
    """Arguments that make a TRL trainer do what the project's does, no more and no less."""
    return {
        "output_dir": str(files.root / "trl"),
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "learning_rate": LEARNING_RATE,
        "seed": 7,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=LORA.r,
        lora_alpha=LORA.alpha,
        lora_dropout=LORA.dropout,
        target_modules=list(LORA.targets),
        task_type="CAUSAL_LM",
    )


def trl_sft(files: TaskFiles) -> Steps:
    """``SFTTrainer`` on prompts and completions: loss on the completion, batches padded."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = files.policy()
    watch, seen = Stopwatch(), Seen()
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**common(files, SFT.max_steps, SFT.batch_size), max_length=SFT.max_length),
        train_dataset=Dataset.from_list(files.sft_rows()),
        processing_class=tokenizer,
        peft_config=lora(),
        callbacks=[watch],
    )
    trainer.data_collator = seen.of(trainer.data_collator)
    trainer.train()
    return watch.steps(seen.tokens)


def trl_rm(files: TaskFiles) -> Steps:
    """``RewardTrainer`` on a sequence classifier: both sides of a batch padded together."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    _, tokenizer = files.policy()
    model = AutoModelForSequenceClassification.from_pretrained(
        files.model, num_labels=1, dtype=torch.float32
    )
    model.config.pad_token_id = tokenizer.pad_token_id
    watch, seen = Stopwatch(), Seen()
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            **common(files, RM.max_steps or 1, RM.batch_size), max_length=RM.max_length
        ),
        train_dataset=Dataset.from_list(files.pair_rows()),
        processing_class=tokenizer,
        callbacks=[watch],
    )
    trainer.data_collator = seen.of(trainer.data_collator)
    trainer.train()
    return watch.steps(seen.tokens)


class Seen:
    """Counts the real tokens of each batch that a collator makes."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def of(self, collate: Any) -> Any:
        def counted(rows: Any) -> Any:
            batch = collate(rows)
            self.tokens.append(int(batch["attention_mask"].sum()))
            return batch

        return counted


def trl_ppo(files: TaskFiles) -> Steps:
    """``trl.experimental.ppo``: adapters on the policy, a value model and a reward model."""
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    policy, tokenizer = files.policy()
    tokenizer.padding_side = "left"

    def scorer() -> Any:
        torch.manual_seed(7)
        model = AutoModelForSequenceClassification.from_pretrained(
            files.model, num_labels=1, dtype=torch.float32
        )
        model.config.pad_token_id = tokenizer.pad_token_id
        return model

    watch = Stopwatch()
    arguments = PPOConfig(
        **common(files, PPO.max_steps, PPO.batch_size),
        total_episodes=PPO.max_steps * PPO.batch_size,
        num_mini_batches=PPO.batch_size // PPO.minibatch_size,
        num_ppo_epochs=PPO.ppo_epochs,
        response_length=PPO.max_new_tokens,
        temperature=PPO.temperature,
        stop_token="eos",
        num_sample_generations=0,
    )
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=scorer(),
        value_model=scorer(),
        train_dataset=Dataset.from_list(files.prompt_rows(tokenizer)),
        peft_config=lora(),
        callbacks=[watch],
    )
    trainer.train()
    return watch.steps()


TRL = {"sft": trl_sft, "rm": trl_rm, "ppo": trl_ppo}


def main() -> None:
    """Run the named case and side, and tell what was measured."""
    case, side, folder = sys.argv[1:]
    torch.set_num_threads(THREADS)
    files = TaskFiles(Path(folder))
    steps = ours(case, files) if side == "ours" else TRL[case](files)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = {"steps": steps, "peak_bytes": peak}
    sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
