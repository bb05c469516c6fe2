"""TRL's own trainer with our reward function: a real GRPO run against a real server."""

import copy
import pickle
from collections import Counter

import pytest

from reward_harness.integrations.trl import RewardFunction
from reward_harness.models.folders import model_folder
from reward_harness.sections import ModelSpec
from tests.serving.conftest import server_process, write_word_artifact

pytestmark = pytest.mark.slow
KEY = "sesame"


@pytest.fixture
def url(tmp_path):
    """A server that scores prompt p1 (1.0 for a w in the response) and no other prompt."""
    write_word_artifact(tmp_path / "rm", p1="w")
    arguments = ("--artifact", str(tmp_path / "rm"))
    with server_process(tmp_path, *arguments, HARNESS_SERVER_KEY=KEY) as (record, _):
        yield record.url


class Expected:
    """What the server should give, computed here; and what it was asked about."""

    __name__ = "expected"

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def __call__(self, prompts, completions, prompt_id, **_) -> list[float | None]:
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        self.seen += zip(prompt_id, texts, strict=True)
        return [
            float("w" in text) if known == "p1" else None
            for known, text in zip(prompt_id, texts, strict=True)
        ]


@pytest.mark.parametrize("conversational", [True, False])
def test_grpo_trains_on_the_served_reward_and_leaves_unscored_samples_out(
    url, tmp_path, conversational
):
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    folder = model_folder(ModelSpec(source="random", name="tiny-causal"), tmp_path / "cache")
    ask = lambda text: [{"role": "user", "content": text}] if conversational else text  # noqa: E731
    rows = [{"prompt": ask(f"question {n}"), "prompt_id": f"p{n % 2 + 1}"} for n in range(4)]
    reward = RewardFunction(url=url, key=KEY, name="served")
    travelled = pickle.loads(pickle.dumps(reward))
    expected = Expected()
    trainer = GRPOTrainer(
        model=str(folder),
        reward_funcs=[travelled, expected],
        args=GRPOConfig(
            output_dir=str(tmp_path / "out"),
            per_device_train_batch_size=8,
            num_generations=4,
            max_completion_length=12,
            max_steps=3,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            seed=3,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "rewards/served/mean" in log]
    assert len(logs) == 3
    assert [log["rewards/served/mean"] for log in logs] == pytest.approx(
        [log["rewards/expected/mean"] for log in logs], nan_ok=True
    )
    asked = Counter(prompt_id for prompt_id, _ in expected.seen)
    assert asked["p1"] > 0 and asked["p2"] > 0
    assert (travelled.scored, travelled.unscored) == (asked["p1"], asked["p2"])
    assert {float("w" in text) for name, text in expected.seen if name == "p1"} == {0.0, 1.0}
    again = pickle.loads(pickle.dumps(copy.copy(travelled)))
    assert (again.scored, again.unscored) == (travelled.scored, travelled.unscored)
    assert again(prompts=["?"], completions=["w"], prompt_id=["p1"]) == [1.0]
