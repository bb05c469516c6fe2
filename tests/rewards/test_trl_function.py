import pickle
from pathlib import Path

import pytest

from reward_harness.errors import SpecError
from reward_harness.integrations.trl import RewardFunction


def test_plain_and_conversational_completions_score_alike(city_artifact):
    folder, _ = city_artifact
    reward = RewardFunction(folder)
    chat = [{"role": "user", "content": "capital?"}]
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "Paris"}]}]
    assert reward(
        prompts=["capital?", chat, chat],
        completions=["Paris", [{"role": "assistant", "content": "Paris"}], parts],
        completion_ids=[[1], [1], [1]],
        trainer_state=None,
    ) == [1.0, 1.0, 1.0]
    assert reward.__name__ == "reward"


def test_what_has_no_score_is_none_and_counted(city_artifact):
    folder, _ = city_artifact
    reward = RewardFunction(folder)
    prompts = ["capital?", [{"role": "robot", "content": "x"}]]
    assert reward(prompts=prompts, completions=["Paris", "Rome"]) == [1.0, None]
    assert (reward.scored, reward.unscored, reward.unscored_share) == (1, 1, 0.5)
    assert "message 0" in reward.reasons[0]


def test_it_pickles_before_and_after_use(city_artifact):
    folder, _ = city_artifact
    reward = RewardFunction(folder, name="city")
    reward(prompts=["capital?"], completions=["Paris"])
    copy = pickle.loads(pickle.dumps(reward))
    assert copy(prompts=["capital?"], completions=["Oslo"]) == [1.0]
    assert (copy.__name__, copy.scored) == ("city", 2)


def test_an_unreachable_server_gives_none(unused_tcp_port: int):
    reward = RewardFunction(url=f"http://127.0.0.1:{unused_tcp_port}")
    assert reward(prompts=["?"], completions=["x"]) == [None]
    assert "ConnectError" in reward.reasons[0]


def test_one_source_is_needed_and_the_digest_is_held_to(city_artifact, tmp_path: Path):
    folder, _ = city_artifact
    with pytest.raises(SpecError, match="one source"):
        RewardFunction(folder, url="http://127.0.0.1:1")
    with pytest.raises(SpecError, match="not the artifact"):
        RewardFunction(folder, expect_digest="0" * 64)(prompts=["?"], completions=["x"])
