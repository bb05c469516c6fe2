"""The handshake of a trainer with a reward server: is it up, and is it the declared reward?"""

from __future__ import annotations

from typing import Any

from reward_harness.errors import ArtifactError, LLMError
from reward_harness.rm.artifact import RM_API_VERSION, SCHEMA_VERSION

ANSWER_TIMEOUT_S = 10.0


def health_of(endpoint: str) -> dict[str, Any]:
    """What ``GET /healthz`` says; ``LLMError`` if there is no answer or no healthy server."""
    import httpx

    url = f"{endpoint.rstrip('/')}/healthz"
    try:
        answer = httpx.get(url, timeout=ANSWER_TIMEOUT_S, trust_env=False)
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise LLMError("the reward server does not answer", where=url, got=str(error)) from error
    if told.get("status") != "ok":
        raise LLMError("the reward server is not healthy", where=url, got=str(told.get("status")))
    return told


def require_reward(
    endpoint: str, rm_artifact_id: str | None, search_session_id: str | None = None
) -> dict[str, Any]:
    """What the server serves; ``ArtifactError`` unless it is the declared reward in a known schema.

    What is None was not declared and is not compared.
    """
    told = health_of(endpoint)
    expected = {
        "schema_version": SCHEMA_VERSION,
        "rm_api_version": RM_API_VERSION,
        "artifact_id": rm_artifact_id,
        "source_session_id": search_session_id,
    }
    for name, value in expected.items():
        if value is not None and told.get(name) != value:
            raise ArtifactError(
                f"the server has another {name}",
                where=endpoint,
                got=str(told.get(name)),
                expected=value,
                fix="Start the server of the declared reward, or declare the one that is served.",
            )
    return told
