"""``harness search``: flags, files, going on after a stop, errors in one line, and no key anywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import hidden_rubrics
from reward_harness.cli import app, with_command
from reward_harness.data.files import write_records
from reward_harness.data.ranked_files import read_ranked
from reward_harness.data.records import Candidate, Message, RankedPrompt
from reward_harness.errors import DataError, Interrupted, SpecError, StorageError
from reward_harness.rubrics.search import command as search_command
from reward_harness.rubrics.search.flags import FLAGS, config_of, setting_of
from reward_harness.rubrics.search.holdout import hold_out
from reward_harness.rubrics.search.run_records import redacted
from reward_harness.sections import SearchConfig
from tests.llm.simulator import Simulator

REPOSITORY = Path(__file__).parents[2]
KEY = "sk-simulated-key"
SMALL = ("--generations=1", "--population-size=3", "--mutations-per-round=2")
# flags of the specification, with defaults where it states them
SPECIFIED = """
--dataset --output --mode=evolutionary --backend=auto --api-key-env=LLM_API_KEY
--base-url=https://openrouter.ai/api/v1 --model-default=stepfun/step-3.5-flash:free
--model-initializer --model-proposer --model-verifier --model-judge --llm-timeout=30.0
--llm-max-retries=2 --llm-retry-backoff-base=0.5 --llm-retry-backoff-max=8.0
--llm-retry-jitter=0.2 --llm-temperature=0.0 --llm-fail-soft --prompt-language=en
--reasoning-effort --seed=7 --iterations=6 --generations=12 --population-size=8
--mutations-per-round=6 --mutation-parent-count=3 --batch-size=3 --evolution-iteration-scope
--stop-when-distinguished --no-stop-when-distinguished --distinguish-margin --selection-strategy
--tournament-size=3 --tournament-p=0.8 --top-k-ratio=0.3 --diversity-weight=0.3 --adaptive-mutation
--mutation-window-size=10 --min-mutation-weight=0.1 --exploration-phase-ratio=0.3
--diversity-threshold=0.05 --tail-fraction=0.25 --lambda-var=0.2 --mu-diverse=0.25
--pair-confidence-prior=8.0 --initializer-strategy=backend --preset-rubrics --preset-strict --noise
--extract-strategy=identity --extract-tag --extract-pattern --extract-group=0
--extract-join-separator --candidate-extract-strategy=identity --candidate-extract-join-separator
--thinking-type --checkpoint-dir --checkpoint-every-generation --checkpoint-interval-seconds
--resume-from -v --concurrency=64 --max-calls --max-usd --votes=1 --holdout-fraction=0.2
--verdict-store --quiet
"""


def ranked(count: int, labelled: bool = True) -> list[RankedPrompt]:
    texts = ["It depends.", "Because of the tides, for example 3 m at noon.", "Because I say so."]
    return [
        RankedPrompt(
            prompt_id=f"p{n}",
            prompt=[Message(role="user", content=f"Why is number {n} so?")],
            candidates=[
                Candidate(candidate_id=f"c{i}", text=f"{t} ({n})", rank=r if labelled else None)
                for i, (t, r) in enumerate(zip(texts, (3, 1, 2), strict=True))
            ],
        )
        for n in range(count)
    ]


@pytest.fixture
def here(tmp_path, monkeypatch, workspace) -> Path:
    """A folder with a data set of 24 prompts, in a private project."""
    write_records(tmp_path / "data.jsonl", ranked(24))
    for name in ("LLM_API_KEY", "LLM_BASE_URL", "LLM_MODEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HARNESS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def run(here: Path, *arguments: str, dataset: str = "data.jsonl", output: str = "out.json"):
    words = ["search", f"--dataset={here / dataset}", f"--output={here / output}", *arguments]
    return CliRunner().invoke(app, words)


def process(here: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command by bare flags, as a user calls it."""
    return subprocess.run(
        [sys.executable, "-m", "reward_harness.cli", f"--dataset={here / 'data.jsonl'}",
         f"--output={here / 'out.json'}", *SMALL, *arguments],
        cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def output_of(here: Path) -> dict:
    return json.loads((here / "out.json").read_text())


def endpoint(simulator: Simulator, monkeypatch, key: str | None = None) -> list[str]:
    monkeypatch.setenv("LLM_API_KEY", key or simulator.key)
    return [f"--base-url={simulator.url}", "--model-default=m", "--llm-retry-backoff-base=0"]


# --- flags


def test_the_help_lists_every_flag_of_the_specification_with_its_default():
    help_text = CliRunner().invoke(app, ["search", "--help"], env={"COLUMNS": "300"}).output
    lines = help_text.splitlines()
    for flag in SPECIFIED.split():
        name, _, default = flag.partition("=")
        found = [line for line in lines if name in line.replace("/", " ").split()]
        assert found, name
        if default:
            assert f"[default: {default}]" in found[0], name


def test_the_defaults_are_those_of_the_settings():
    defaults = {flag.key: setting_of(flag)[1] for flag in FLAGS}
    assert config_of(defaults) == config_of({}) == SearchConfig()


def test_flags_reach_their_settings():
    config = config_of(
        {
            "backend": "llm",
            "model_judge": "big",
            "thinking_type": "disabled",
            "extract_tag": "answer",
            "candidate_extract_strategy": "tag",
            "preset_rubrics": "r.json",
            "llm_retry_jitter": 0.1,
        }
    )
    assert config.backend == "openai"
    assert config.endpoint.role_models == {"judge": "big"}
    assert config.endpoint.extra_body == {"thinking": {"type": "disabled"}}
    assert (config.candidate_extract.strategy, config.candidate_extract.tag) == ("tag", "answer")
    assert (config.initializer_strategy, config.preset_rubric) == ("preset", "r.json")
    assert config.endpoint.retry_jitter == 0.1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"generations": 0}, "--generations: not a valid value"),
        ({"llm_timeout": -1.0}, "--llm-timeout"),
        ({"extract_strategy": "regex"}, "--extract-strategy.*needs a `pattern`"),
        ({"initializer_strategy": "preset"}, "--preset-rubrics"),
    ],
)
def test_a_bad_value_names_its_flag(values, told):
    with pytest.raises(SpecError, match=told):
        config_of(values)


def test_a_key_given_as_a_variable_name_is_not_repeated():
    with pytest.raises(SpecError) as caught:
        config_of({"api_key_env": "sk-secret-value"})
    assert "sk-secret" not in str(caught.value)


def test_bare_flags_are_a_search():
    assert with_command(["--dataset", "x"]) == ["search", "--dataset", "x"]
    assert with_command(["--help"]) == ["--help"]
    assert with_command(["doctor"]) == ["doctor"]


# --- data


def test_other_formats_are_told_by_their_content(tmp_path):
    path = tmp_path / "d.json"
    rows = [{"prompt": "Q", "candidates": ["a", {"text": "b", "rank": 1}]}]
    for body in ({"prompts": rows}, rows):
        path.write_text(json.dumps(body))
        (record,) = read_ranked(path)
        assert [c.candidate_id for c in record.candidates] == ["c1", "c2"]
        assert record.candidates[1].rank == 1
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "Q", "chosen": "good", "rejected": "bad"}\n')
    (record,) = read_ranked(path)
    assert {c.text: c.rank for c in record.candidates} == {"good": 1, "bad": 2}
    path.write_text("[]")
    with pytest.raises(DataError, match="no records"):
        read_ranked(path)


def test_held_out_prompts_follow_their_text_and_the_seed():
    records = ranked(20)
    holdout = hold_out(records, 0.2, "shared", 7)
    assert [len(holdout.searched), len(holdout.validation), len(holdout.test)] == [16, 2, 2]
    turned = hold_out(records[::-1], 0.2, "shared", 7)
    assert {r.prompt_id for r in turned.test} == {r.prompt_id for r in holdout.test}
    assert hold_out(records, 0.2, "shared", 8).test != holdout.test
    assert "at least 4" in str(hold_out(records[:10], 0.2, "shared", 7).note)
    assert hold_out(records, 0.2, "prompt_local", 7).searched == records


def test_held_out_candidates_are_two_at_least_of_six_at_least():
    data = hidden_rubrics.records(1, 3, 6) + hidden_rubrics.records(1, 2, 5, start=9)
    holdout = hold_out(data, 0.2, "global_batch", 7)
    assert set(holdout.held) == {"p0", "p1", "p2"}
    for full, searched in zip(holdout.every, holdout.searched, strict=True):
        held = holdout.held.get(full.prompt_id)
        hidden = {*held.choosing, *held.measuring} if held else set()
        assert len(hidden) == (2 if held else 0)
        left = [c for i, c in enumerate(full.candidates) if i not in hidden]
        assert searched.candidates == left
    assert hold_out(data, 0.2, "global_batch", 7).held == holdout.held
    (many,) = hold_out(hidden_rubrics.records(1, 1, 16), 0.25, "prompt_local", 7).held.values()
    assert (len(many.choosing), len(many.measuring)) == (2, 2)
    assert "has 6 candidates" in str(hold_out(data[3:], 0.2, "prompt_local", 7).note)
    assert hold_out(data, 0.0, "prompt_local", 7).held == {}


# --- a run


def test_the_output_has_what_the_specification_names(here):
    assert run(here, "--backend=mock", *SMALL).exit_code == 0
    body = output_of(here)
    entries = body["best_rubrics"]
    assert {e["prompt_id"] for e in entries} == {f"p{n}" for n in range(24)}
    for entry in entries:
        scores = entry["candidate_scores"]
        assert scores[entry["best_candidate_id"]] == max(scores.values())
    assert body["best_scores"] == body["best_objective_scores"]
    assert body["best_scores"] == {e["prompt_id"]: e["score"] for e in entries}
    manifest = body["run_manifest"]
    assert manifest["backend"] == {
        "requested": "heuristic", "resolved": "heuristic", "api_key_env": "LLM_API_KEY",
        "api_key_present": False,
    }  # fmt: skip
    assert SearchConfig.model_validate(manifest["config_snapshot"]).generations == 1
    assert len(manifest["dataset"]["dataset_sha256"]) == 64
    assert len(manifest["code_snapshot"]["commit"]) == 40
    assert "--generations=1" in manifest["command"]["normalized_argv"]
    diagnostics = body["search_diagnostics"]
    assert diagnostics["holdout"] == {"searched": 20, "validation": 2, "test": 2, "note": None}
    found = diagnostics["heldout_agreement"]["agreement"]
    assert found["ci_low"] <= found["value"] <= found["ci_high"]
    assert sum(m["proposed"] for m in diagnostics["mutation_statistics"].values()) > 0
    (record,) = (here / "run_records").glob("out_*.manifest.json")
    assert json.loads(record.read_text()) == manifest


def test_each_scope_covers_every_prompt_and_says_that_nothing_was_held_out(here):
    result = run(here, "--backend=mock", "--evolution-iteration-scope=prompt_local", *SMALL)
    assert result.exit_code == 0
    body = output_of(here)
    assert len(body["best_rubrics"]) == 24
    assert "own rubric" in body["search_diagnostics"]["heldout_agreement"]["selected_by"]


def test_own_rubrics_are_chosen_and_measured_on_candidates_they_never_saw(here, monkeypatch):
    write_records(here / "data.jsonl", hidden_rubrics.records(1, 4, 6))
    with hidden_rubrics.HiddenRubric(seed=1) as world:
        flags = endpoint(world, monkeypatch)
        result = run(here, *flags, "--evolution-iteration-scope=prompt_local", *SMALL)
        assert result.exit_code == 0, result.exception
        assert world.repeated() == []
        asked = world.received
        capped = [f"--verdict-store={here / 'new.sqlite'}", f"--max-calls={asked - 10}"]
        body = output_of(here)
        assert run(here, *flags, "--evolution-iteration-scope=prompt_local", *SMALL, *capped)
    assert "the budget ended" in str(output_of(here)["search_diagnostics"]["heldout_agreement"])
    heldout = body["search_diagnostics"]["heldout_agreement"]
    assert "on held-out candidates of 4 of 4 prompts" in heldout["selected_by"]
    assert heldout["agreement"]["prompts"] == 4
    assert 0 < heldout["agreement"]["pairs"] <= 4 * 5
    assert heldout["initial"]["pairs"] == heldout["longer_wins"]["pairs"]
    for entry in body["best_rubrics"]:
        assert None not in entry["candidate_scores"].values()
        assert len(entry["candidate_scores"]) == 6


def test_the_reproduce_script_repeats_the_search_or_refuses(here):
    assert run(here, "--backend=mock", *SMALL).exit_code == 0
    (script,) = (here / "run_records").glob("*.reproduce.sh")
    assert os.access(script, os.X_OK)
    # commits made beside this test are no reason to fail it; a changed data set still is
    again = {**os.environ, "ANYWAY": "1"}
    done = subprocess.run([script], env=again, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "equal: the best rubrics" in done.stdout
    with (here / "data.jsonl").open("a") as stream:
        stream.write("\n")
    refused = subprocess.run([script], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: dataset")
    text = script.read_text()
    commit = output_of(here)["run_manifest"]["code_snapshot"]["commit"]
    script.write_text(text.replace(commit, "0" * 40))
    write_records(here / "data.jsonl", ranked(24))
    refused = subprocess.run([script], capture_output=True, text=True, timeout=60)
    assert (refused.returncode, "error: code: commit" in refused.stderr) == (2, True)


def test_other_rubrics_are_told_apart(here):
    assert run(here, "--backend=mock", *SMALL).exit_code == 0
    body = output_of(here)
    body["best_rubrics"][0]["rubric"]["criteria"][0]["weight"] += 1
    other = here / "other.json"
    other.write_text(json.dumps(body))
    prompt_id = body["best_rubrics"][0]["prompt_id"]
    assert search_command.different_rubrics(here / "out.json", other) == [prompt_id]


# --- going on


def test_a_search_goes_on_from_its_checkpoint_to_the_same_result(here, monkeypatch):
    assert run(here, "--backend=mock", *SMALL).exit_code == 0
    whole = output_of(here)["best_rubrics"]
    step = search_command.SearchSession.step

    def interrupted(session):
        if session.state.generation == 1:
            raise KeyboardInterrupt
        return step(session)

    monkeypatch.setattr(search_command.SearchSession, "step", interrupted)
    result = run(here, "--backend=mock", *SMALL)
    assert isinstance(result.exception, Interrupted)
    assert result.exception.exit_code == 130
    checkpoint = here / "checkpoints" / "out.search.json"
    assert f"--resume-from {checkpoint}" in str(result.exception)
    monkeypatch.setattr(search_command.SearchSession, "step", step)
    assert run(here, "--backend=mock", *SMALL, f"--resume-from={checkpoint}").exit_code == 0
    assert output_of(here)["best_rubrics"] == whole


def test_another_search_is_resumed_only_on_demand(here):
    assert run(here, "--backend=mock", *SMALL).exit_code == 0
    other = ["--backend=mock", *SMALL, "--lambda-var=0.9", f"--resume-from={here / 'checkpoints'}"]
    refused = run(here, *other).exception
    assert isinstance(refused, SpecError)
    assert "another configuration" in str(refused)
    assert run(here, *other, "--resume-anyway").exit_code == 0
    write_records(here / "data.jsonl", ranked(4))
    assert "prompts that the data set lacks" in str(run(here, *other, "--resume-anyway").exception)


def test_a_spend_cap_leaves_an_output_and_a_checkpoint(here, monkeypatch):
    write_records(here / "data.jsonl", ranked(5))
    with Simulator() as simulator:
        flags = endpoint(simulator, monkeypatch)
        assert run(here, *flags, *SMALL).exit_code == 0
        calls = output_of(here)["search_diagnostics"]["calls"]
        assert sum(calls["by_role"].values()) == simulator.answered
        assert set(calls["by_role"]) >= {"initializer", "verifier", "proposer"}
        first_round = simulator.answered - 2
        again = [f"--verdict-store={here / 'new.sqlite'}", f"--max-calls={first_round}"]
        assert run(here, *flags, *again, *SMALL).exit_code == 0
    assert output_of(here)["search_diagnostics"]["stopped"].startswith("call budget used up")
    assert (here / "checkpoints" / "out.search.json").is_file()


# --- errors


def test_a_malformed_data_set_is_one_line_and_exit_2(here):
    text = (here / "data.jsonl").read_text().splitlines()
    text[1] = text[1].replace('"text":"It depends. (1)"', '"text":3')
    (here / "data.jsonl").write_text("\n".join(text))
    done = process(here, "--backend=mock")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "data.jsonl:2: field 'candidates.0.text' is not valid; got '3'" in line


def test_an_unknown_value_is_one_line_and_exit_2(here):
    done = process(here, "--mode=sideways")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "'--mode'" in line and "sideways" in line and "'iterative'" in line


def test_a_wrong_key_is_one_line_exit_3_and_never_written(here, monkeypatch):
    with Simulator() as simulator:
        flags = endpoint(simulator, monkeypatch)
        wrong = "sk-wrong-key-0123456789"
        done = process(here, *flags, f"--reasoning-effort={wrong}", LLM_API_KEY=wrong)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert "HTTP 401" in line and "LLM_API_KEY" in line
    assert wrong not in line
    for path in here.rglob("*"):
        assert not path.is_file() or wrong.encode() not in path.read_bytes()


def test_no_file_holds_the_key(here, monkeypatch):
    write_records(here / "data.jsonl", ranked(3))
    with Simulator() as simulator:
        flags = endpoint(simulator, monkeypatch)
        monkeypatch.setattr(sys, "argv", ["harness", "search", f"--model-judge={simulator.key}"])
        result = run(here, *flags, *SMALL, f"--model-judge={simulator.key}")
    assert result.exit_code == 0
    assert output_of(here)["run_manifest"]["command"]["raw_argv"] == [
        "search",
        "--model-judge=<key>",
    ]
    for path in here.rglob("*"):
        if path.is_file() and not path.name.startswith("verdicts.sqlite"):
            assert KEY.encode() not in path.read_bytes(), path


def test_credentials_in_urls_are_redacted():
    found = redacted({"a": ["http://me:pass@host/v1?api_key=abc&x=1"]}, "")
    assert found == {"a": ["http://<key>@host/v1?api_key=<key>&x=1"]}


def test_an_unreachable_endpoint_is_exit_3(here, monkeypatch):
    monkeypatch.setenv("LLM_API_KEY", KEY)
    flags = ["--base-url=http://127.0.0.1:9/v1", "--llm-max-retries=0"]
    error = run(here, *flags, *SMALL).exception
    assert error.exit_code == 3
    assert "127.0.0.1:9" in str(error)


def test_a_full_disk_is_one_line(here, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(search_command, "write_json", full)
    error = run(here, "--backend=mock", *SMALL).exception
    assert isinstance(error, StorageError)
    assert (error.exit_code, "No space left" in str(error)) == (2, True)
    assert (here / "checkpoints" / "out.search.json").is_file()
    blocked = run(here, "--backend=mock", output="data.jsonl/out.json").exception
    assert isinstance(blocked, StorageError)
