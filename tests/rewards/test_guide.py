"""Every code block of docs/rewards.md runs, in order, on tiny models and a local endpoint."""

import json
import re
from pathlib import Path

import pytest

from reward_harness.model_spec import ModelSpec
from reward_harness.models.folders import model_folder
from tests.rewards import published_models as tiny
from tests.rewards.test_kinds import JudgeEndpoint

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "rewards.md"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_the_guide_runs(workspace, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.llama_classifier(tmp_path / "my-reward-model")
    tiny.qwen_reward(tmp_path / "my-process-model", "Qwen2ForProcessRewardModel")
    for name, seed in (("strong", "1"), ("weak", "2")):
        spec = ModelSpec(source="random", name="tiny-causal", revision=seed)
        model_folder(spec, tmp_path / "models").rename(tmp_path / name)
    found: dict = {}
    with JudgeEndpoint() as endpoint:
        for number, block in enumerate(BLOCK.findall(GUIDE.read_text())):
            code = block.replace("https://api.openai.com/v1", endpoint.url)
            code = code.replace("sk-...", endpoint.key)
            if "preferences.jsonl" in code:
                write_preferences(tmp_path)
            exec(compile(code, f"docs/rewards.md block {number}", "exec"), found)
        found["judge"].close()
    assert found["same"] == found["score"] == found["details"]["raw_logits"][0]
    assert found["scores"] == pytest.approx([found["score"]] * 2)
    assert len(found["steps"]) == 2
    assert (found["value"], found["best"]) == (4.0, [1])
    assert found["fit"].agreement > 0.5
    assert found["cached"].misses == 1


def write_preferences(folder: Path) -> None:
    """Preferences that the strong model alone can tell apart."""
    from reward_harness import DrSow

    texts = ["four", "five", "the sum", "nobody knows"]
    rm = DrSow(base_model=str(folder / "strong"))
    texts.sort(key=lambda text: -rm.score(prompt="2+2?", response=text))
    rows = [{"prompt": "2+2?", "chosen": a, "rejected": texts[-1]} for a in texts[:-1]]
    (folder / "preferences.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
