"""``RemoteRM`` in every protocol it speaks, against a real server process."""

from pathlib import Path

import pytest

from reward_harness import AutoRM, RemoteRM
from reward_harness.errors import LLMError, ScoringError, SpecError
from reward_harness.rewards.base import Failed, conversation_of
from reward_harness.rewards.remote import PROTOCOLS
from tests.serving.conftest import server_process, write_word_artifact

TEXTS = ["It is Paris.", "No idea.", "Perhaps Paris — 巴黎?", ""]
CHATS = [conversation_of("The capital of France?", text) for text in TEXTS]


def test_every_protocol_gives_the_artifacts_scores(tmp_path: Path):
    write_word_artifact(tmp_path / "words", shared="Paris")
    with server_process(tmp_path, "--artifact", str(tmp_path / "words")) as (record, _):
        for protocol in PROTOCOLS:
            with RemoteRM(record.url, protocol=protocol, model="any") as rm:
                assert rm.score_batch(CHATS) == [1.0, 0.0, 1.0, 0.0], protocol
                mixed = rm.score_batch_results([CHATS[0], []])
                assert mixed[0].value == 1.0
                assert isinstance(mixed[1], Failed)
        found = AutoRM.load("custom-rm", load_method="api", api_base=f"{record.url}/v1")
        assert found.protocol == "native"
        assert found.score(CHATS) == [1.0, 0.0, 1.0, 0.0]
        found.close()
        vllm = AutoRM.load("any-rm", load_method="vllm", api_base=f"{record.url}/v1")
        assert vllm.score(CHATS[0]) == 1.0
        vllm.close()
    away = RemoteRM(record.url, protocol="tei", retries=0)
    with pytest.raises(ScoringError, match=record.url):
        away.score(CHATS[0])


def test_a_server_that_is_away_or_an_unknown_protocol_is_told():
    with pytest.raises(LLMError, match="no reward server answers"):
        AutoRM.load("http://127.0.0.1:9")
    with pytest.raises(SpecError, match="native, vllm, vllm-score, tei, openrlhf"):
        RemoteRM("http://127.0.0.1:9", protocol="smtp")
