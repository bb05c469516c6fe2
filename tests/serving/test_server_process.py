"""Real servers over HTTP: parity, key, pointer following, shutdown, attach and start for a step."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from reward_harness.errors import ArtifactError, LLMError
from reward_harness.integrations.trl import RewardFunction
from reward_harness.rewards.base import Failed, Item, Scored, conversation_of
from reward_harness.rewards.load import load_rm
from reward_harness.rewards.remote import RemoteRM
from reward_harness.rm.deployments import Deployments
from reward_harness.serving.service import serve_for, verify_deployment

REPOSITORY = Path(__file__).resolve().parents[2]


def until(condition, timeout_s: float = 15.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def test_a_step_gets_a_proven_server_that_ends_with_it(deploy_word):
    toy = deploy_word()
    with serve_for(toy.workspace, toy.rm_deployment) as url:
        assert verify_deployment(url, toy.rm_deployment) == []
        rm = RemoteRM(url, expect_digest=toy.rm_artifact.digest)
        local = load_rm(toy.rm_artifact.path)
        chats = [conversation_of("capital?", text) for text in ("Paris", "Rome", "")]
        assert rm.score(chats) == pytest.approx(local.score(chats), abs=1e-6)
        assert rm.artifact_id == local.artifact_id
        assert rm.score(chats[0], return_details=True)[1]["criteria"] == {"has": 1.0}
        results = rm.score_items(
            [Item(chats[0]), Item([]), Item([{"role": "user", "content": "x"}])]
        )
        assert [type(r) for r in results] == [Scored, Failed, Failed]
        assert RewardFunction(url=url)(prompts=["?"] * 2, completions=["Paris", "x"]) == [1.0, 0.0]
        children = [
            child
            for child in psutil.Process().children(recursive=True)
            if child.status() != psutil.STATUS_ZOMBIE
            and "reward_harness.rm.server" in " ".join(child.cmdline())
        ]
        assert children
    until(
        lambda: not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]
    )
    gone = rm.score_batch_results([chats[0]])
    assert isinstance(gone[0], Failed) and gone[0].retriable


def test_a_wrong_artifact_is_a_mismatch_and_never_a_score(deploy_word):
    first, second = deploy_word(), deploy_word("It is Paris")
    with serve_for(first.workspace, first.rm_deployment) as url:
        found = verify_deployment(url, second.rm_deployment)
        assert [m.split(":")[0] for m in found] == [
            "digest"
        ]  # both give these probes the same scores
        rm = RemoteRM(url, expect_digest=second.rm_artifact.digest)
        assert rm.score_batch([conversation_of("?", "Paris")]) == [None]


def test_probes_find_a_server_that_scores_differently(deploy_word):
    toy = deploy_word()
    path = toy.rm_deployment.file("deployment.json")
    with serve_for(toy.workspace, toy.rm_deployment) as url:
        body = json.loads(path.read_bytes())
        body["probes"][0]["score"] += 2e-6
        body["probes"][1]["score"] = None
        changed = json.dumps(body).encode()

        class Edited:
            def file(self, name):
                edited = toy.workspace.root / "edited.json"
                edited.write_bytes(changed)
                return edited

        found = verify_deployment(url, Edited())
        assert [m.split(":")[0] for m in found] == [
            f"probe {p['probe_id']}" for p in body["probes"][:2]
        ]


def test_a_running_server_of_the_same_digest_is_shared(deploy_word, run_server):
    toy = deploy_word()
    record, _ = run_server("--target", "dev", HARNESS_ROOT=str(toy.workspace.root))
    with serve_for(toy.workspace, toy.rm_deployment) as url:
        assert url == record.url
    assert httpx.get(f"{record.url}/healthz").status_code == 200  # it is not ours to stop


def test_a_server_follows_its_target_without_dropping_a_request(deploy_word, run_server):
    first = deploy_word()
    record, _ = run_server("--target", "dev", HARNESS_ROOT=str(first.workspace.root))
    second = deploy_word("It is Paris")
    served = lambda: httpx.get(f"{record.url}/version").json()["digest"]  # noqa: E731
    body = {"prompt": "?", "candidate": {"text": "It is Paris."}}
    statuses = set()

    def until_swapped() -> bool:
        statuses.update(httpx.post(f"{record.url}/score", json=body).status_code for _ in range(3))
        return served() == second.rm_artifact.digest

    until(until_swapped)
    Deployments(first.workspace, "dev").rollback()
    until(lambda: served() == first.rm_artifact.digest)
    assert statuses == {200}


def test_key_refused_bind_and_nothing_deployed(make_artifact, run_server, tmp_path):
    folder = make_artifact("a", shared="Paris")
    record, _ = run_server("--artifact", str(folder), HARNESS_SERVER_KEY="sesame")
    chat = conversation_of("?", "Paris")
    assert RemoteRM(record.url, "sesame").score(chat) == 1.0
    assert RemoteRM(record.url.replace("//", "//any:sesame@")).score(chat) == 1.0
    refused = RemoteRM(record.url, "wrong").score_batch_results([chat])[0]
    assert (refused.retriable, refused.code) == (False, "unauthorized")
    with pytest.raises(LLMError, match="does not answer"):
        RemoteRM(record.url).version()

    def command(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "reward_harness.rm.server", *arguments],
            cwd=REPOSITORY, env={**os.environ, "HARNESS_ROOT": str(tmp_path)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    open_bind = command("--artifact", str(folder), "--host", "0.0.0.0")
    assert open_bind.returncode == 2
    assert "--insecure" in open_bind.stderr and "Traceback" not in open_bind.stderr
    taken = command("--artifact", str(folder), "--port", str(record.port))
    assert "cannot listen there" in taken.stderr
    nothing = command("--target", "dev")
    assert "nothing is deployed" in nothing.stderr and "Traceback" not in nothing.stderr


def test_sigterm_finishes_and_withdraws_and_sixty_four_clients_agree(deploy_word, run_server):
    toy = deploy_word()
    record, process = run_server("--target", "dev", HARNESS_ROOT=str(toy.workspace.root))
    registry = toy.workspace.deployments / "dev" / "server.json"
    until(registry.is_file)

    def score(text: str) -> float:
        with RemoteRM(record.url) as rm:
            return rm.score(conversation_of("?", text))

    with ThreadPoolExecutor(16) as pool:
        texts = ["Paris", "Rome"] * 32
        scores = list(pool.map(score, texts))
    assert scores == [1.0, 0.0] * 32
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM)
    assert not registry.exists()


def test_a_started_server_dies_with_a_starter_that_is_killed(deploy_word):
    toy = deploy_word()
    code = (
        "import sys, time; from pathlib import Path\n"
        "from reward_harness.serving.service import serve_for\n"
        "from reward_harness.store import ArtifactStore\n"
        "from reward_harness.workspace import Workspace\n"
        "w = Workspace(Path(sys.argv[1]))\n"
        "with serve_for(w, ArtifactStore(w.runs).current('toy', 'rm_deployment')) as url:\n"
        "    sys.stdout.write(url + '\\n'); sys.stdout.flush(); time.sleep(60)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, str(toy.workspace.root)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    url = starter.stdout.readline().strip()
    servers = psutil.Process(starter.pid).children(recursive=True)
    assert httpx.get(f"{url}/healthz").status_code == 200
    starter.kill()
    starter.wait()
    starter.stdout.close()
    until(lambda: not [s for s in servers if s.is_running() and s.status() != psutil.STATUS_ZOMBIE])


def test_a_server_that_cannot_start_says_why(deploy_word):
    toy = deploy_word()
    artifact = toy.rm_artifact.path / "artifact.json"
    artifact.write_bytes(artifact.read_bytes().replace(b"Paris", b"Parks"))
    with (
        pytest.raises(ArtifactError, match=r"did not start|does not match"),
        serve_for(toy.workspace, toy.rm_deployment),
    ):
        pass
