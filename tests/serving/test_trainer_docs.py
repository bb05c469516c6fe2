"""Every command and snippet of docs/trainers.md runs, and answers what the page says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from reward_harness.integrations.verl import compute_score
from reward_harness.serving.pointers import pointers
from tests.serving.conftest import server_process, write_word_artifact
from tests.serving.trainer_wheels import find

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "trainers.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = BLOCK.findall(PAGE)
ANSWERED = [
    (text, BLOCKS[number + 1][1])
    for number, (language, text) in enumerate(BLOCKS)
    if language == "bash" and "curl" in text
]
VARIES = ("id", "created", "model")


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    root = tmp_path_factory.mktemp("docs")
    write_word_artifact(root / "rm", shared="Paris")
    with server_process(root, "--artifact", str(root / "rm")) as (record, _):
        yield record.url


def here(text: str, url: str) -> str:
    """The page's text with its address replaced by the test's."""
    return text.replace("http://127.0.0.1:8100", url).replace(
        "localhost:8100", url.removeprefix("http://")
    )


def python_blocks(url: str) -> list[str]:
    return [here(text, url) for language, text in BLOCKS if language == "python"]


def stable(answer):
    if not isinstance(answer, dict):
        return answer
    return {name: value for name, value in answer.items() if name not in VARIES}


@pytest.mark.parametrize(
    ("command", "answer"), ANSWERED, ids=[re.search(r":8100(\S+)", c)[1] for c, _ in ANSWERED]
)
def test_a_curl_command_gets_the_answer_that_is_shown(url, command, answer):
    done = subprocess.run(
        ["bash", "-c", here(command, url)], capture_output=True, text=True, check=True
    )
    got, shown = json.loads(done.stdout), json.loads(answer)
    assert stable(got) == stable(shown)
    assert type(got) is type(shown)
    if isinstance(got, dict):
        assert set(got) == set(shown)


def test_the_page_has_a_command_for_every_route():
    asked = {re.search(r":8100(\S+)", command)[1] for command, _ in ANSWERED}
    assert asked == {
        "/get_reward",
        "/classify",
        "/score",
        "/rerank",
        "/predict",
        "/v1/score/evaluation",
    }


def test_the_trl_snippet(url):
    names: dict = {}
    exec(python_blocks(url)[0], names)
    assert names["reward"](prompts=["?"], completions=["Paris"]) == [1.0]


def test_the_verl_snippet_makes_rows_that_compute_score_can_read(url):
    from datasets import Dataset

    turns = [{"role": "user", "content": "capital?"}]
    rows = [{"prompt": turns, "extra_info": {"index": 0, "split": "train"}}]
    names: dict = {"dataset": Dataset.from_list(rows)}
    exec(python_blocks(url)[1], names)
    info = names["dataset"][0]["extra_info"]
    assert info == {"index": 0, "split": "train", "prompt": turns}
    assert compute_score("d", "Paris", "", info, url=url) == {"score": 1.0}


def test_the_inference_client_snippet(url, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    source = python_blocks(url)[2].replace("client.text", "found = client.text")
    names: dict = {}
    exec(source, names)
    assert names["found"] == pytest.approx(0.7310585786300049)


def test_serve_prints_lines_that_work(tmp_path):
    """The printed Python runs; the printed addresses answer, with the key from its variable."""
    write_word_artifact(tmp_path / "rm", shared="Paris")
    arguments = ("--artifact", str(tmp_path / "rm"))
    with server_process(tmp_path, *arguments, HARNESS_SERVER_KEY="sesame") as (record, _):
        printed = (tmp_path / "server.out").read_text()
        lines = printed.splitlines()
        assert lines[0] == f"serving {record.digest[:12]} on {record.url}"
        assert lines[1:] == pointers(record.url, "HARNESS_SERVER_KEY")
        assert "sesame" not in printed
        environment = {**os.environ, "HARNESS_SERVER_KEY": "sesame"}
        call = next(line for line in lines if "RewardFunction(url" in line)
        function = re.search(r"RewardFunction\(url=[^)]*\)", call)[0]
        code = (
            f"import os\n{lines[2].strip()}\n"
            f"print({function}(prompts=['?'], completions=['Paris']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        assert done.stdout == "[1.0]\n", done.stderr
        remote = next(line for line in lines if "--reward.remote_url" in line)
        address = remote.split(maxsplit=1)[1]
        curl = (
            f"curl -s {address} -H 'content-type: application/json' -d '{{\"query\": [\"Paris\"]}}'"
        )
        done = subprocess.run(
            ["bash", "-c", curl], env=environment, capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout)["rewards"] == [1.0]


@pytest.mark.slow
@pytest.mark.xdist_group("trainer_clients")
def test_the_flags_and_fields_are_those_of_the_trainers(wheels):
    """OpenRLHF's parser has the flag, verl's config the keys, LLaMA-Factory's arguments the fields."""
    assert '"--reward.remote_url"' in find(wheels, "openrlhf/cli/train_ppo_ray.py").read_text()
    config = yaml.safe_load(find(wheels, "config/_generated_ppo_trainer.yaml").read_text())
    function = config["reward"]["custom_reward_function"]
    (command,) = [text for language, text in BLOCKS if language == "sh" and "verl" in text]
    for added, key in re.findall(r"(\+?)reward\.custom_reward_function\.([\w.]+)=", command):
        assert (key in function) != bool(added), key
    fields = find(wheels, "llamafactory/hparams/finetuning_args.py").read_text()
    (settings,) = [yaml.safe_load(text) for language, text in BLOCKS if language == "yaml"]
    assert all(re.search(rf"^    {name}: ", fields, re.MULTILINE) for name in settings)
    assert 'Literal["lora", "full", "api"]' in fields
