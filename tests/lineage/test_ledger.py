"""The ledger says what the files say, after every change to them, and can always be made again."""

from __future__ import annotations

import json
import multiprocessing
import shutil

from reward_harness.lineage.ledger import ledger_path, open_ledger
from tests.lineage.conftest import number

CURRENT = "SELECT experiment, stage, digest FROM publications WHERE current ORDER BY ALL"


def test_it_holds_publications_metrics_and_inputs(publish, ledger):
    data = publish("exp", "rl_prompts")
    made = publish("exp", "ppo_checkpoint", {"rl_prompts": data}, metrics={"m": number(0.5)})
    with ledger() as found:
        assert found.rows(CURRENT) == [
            ("exp", "ppo_checkpoint", made.digest),
            ("exp", "rl_prompts", data.digest),
        ]
        assert found.rows("SELECT name, value, ci_low, n, direction FROM metrics") == [
            ("m", 0.5, 0.49, 100, "max")
        ]
        assert found.rows("SELECT stage, input_stage, input_digest FROM inputs") == [
            ("ppo_checkpoint", "rl_prompts", data.digest)
        ]


def test_what_was_measured_on_the_same_data_has_the_same_benchmark(publish, ledger):
    data = publish("exp", "rl_prompts")
    for name in ("sft_checkpoint", "rm_deployment"):
        publish("exp", name, {"rl_prompts": data} if name == "sft_checkpoint" else {})
    with ledger() as found:
        rows = dict(found.rows("SELECT stage, benchmark FROM publications"))
    assert rows["sft_checkpoint"] == f"sft_checkpoint rl_prompts={data.digest}"
    assert rows["rm_deployment"] is None


def test_a_new_publication_is_there_at_the_next_question(publish, ledger, project):
    first = publish("exp", "rl_prompts")
    ledger().__exit__()
    before = ledger_path(project).stat().st_ino
    ledger().__exit__()
    assert ledger_path(project).stat().st_ino == before, "an up-to-date ledger is not written again"
    second = publish("exp", "rl_prompts", content="y")
    other = publish("other", "rl_prompts")
    with ledger() as found:
        assert found.rows("SELECT digest, current FROM publications WHERE experiment = 'exp'") == [
            (first.digest, False),
            (second.digest, True),
        ]
        assert ("other", "rl_prompts", other.digest) in found.rows(CURRENT)


def test_the_one_before_is_current_once_an_artifact_is_deleted(publish, ledger):
    first = publish("exp", "rl_prompts")
    second = publish("exp", "rl_prompts", content="y")
    ledger().__exit__()
    shutil.rmtree(second.path)
    with ledger() as found:
        assert found.rows(CURRENT) == [("exp", "rl_prompts", first.digest)]


def test_a_deleted_experiment_leaves_the_ledger(publish, ledger, store):
    publish("exp", "rl_prompts")
    publish("other", "rl_prompts")
    ledger().__exit__()
    shutil.rmtree(store.root / "exp")
    with ledger() as found:
        assert [row[0] for row in found.rows(CURRENT)] == ["other"]


def test_a_broken_ledger_and_a_torn_line_do_no_harm(publish, ledger, project, store):
    made = publish("exp", "rl_prompts")
    ledger().__exit__()
    ledger_path(project).write_bytes(b"not a database")
    with (store.root / "exp/rl_prompts/publications.jsonl").open("a") as stream:
        stream.write('{"digest": "tor')
    with ledger() as found:
        assert found.rows(CURRENT) == [("exp", "rl_prompts", made.digest)]


def test_a_rebuilt_ledger_is_equal_to_the_refreshed_one(publish, ledger, project):
    dump = "SELECT * FROM {} ORDER BY ALL"
    for content in ("x", "y"):
        data = publish("exp", "rl_prompts", content=content)
        publish("exp", "ppo_checkpoint", {"rl_prompts": data}, metrics={"m": number(0.5)})
        with ledger() as found:
            tables = {t: found.rows(dump.format(t)) for t in ("publications", "metrics", "inputs")}
    with open_ledger(project, rebuild=True) as found:
        assert {t: found.rows(dump.format(t)) for t in tables} == tables
    assert len(tables["publications"]) == 4


def _count(project, results) -> None:
    with open_ledger(project) as found:
        results.put(found.rows("SELECT count(*) FROM publications")[0][0])


def test_processes_that_ask_at_once_all_get_the_answer(publish, project):
    for index in range(5):
        publish(f"exp{index}", "rl_prompts")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_count, args=(project, results)) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=60) for _ in workers] == [5, 5]
    for worker in workers:
        worker.join(30)
    assert [p.name for p in ledger_path(project).parent.iterdir() if ".duckdb." in p.name] == []


def test_manifests_of_newer_versions_with_more_fields_are_read(publish, ledger):
    made = publish("exp", "rl_prompts", metrics={"m": number(0.5)})
    path = made.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"later": 1}))
    with ledger() as found:
        assert found.rows("SELECT count(*) FROM metrics") == [(1,)]
