"""Which backend a search uses, and the endpoint it talks to: cheap decisions, no connection made.

``openai``: any OpenAI-compatible endpoint; ``heuristic``: no model at all; ``local``: a language
model in this process. ``auto`` is openai where the key's environment variable is set, else
heuristic. What a search's settings name counts; ``LLM_BASE_URL`` and ``LLM_MODEL`` fill in what
they leave to the default.
"""

from __future__ import annotations

import os
from typing import Literal

from reward_harness.errors import EndpointRefused
from reward_harness.model_spec import ModelSpec
from reward_harness.sections import Endpoint, SearchConfig

Backend = Literal["openai", "local", "heuristic"]


def resolve_backend(search: SearchConfig) -> Backend:
    """The backend that this search would use now."""
    if search.backend != "auto":
        return search.backend
    return "openai" if os.environ.get(search.endpoint.api_key_env) else "heuristic"


def backend_identity(search: SearchConfig) -> str:
    """What of the backend decides results: its kind and, with an endpoint, the resolved models."""
    backend = resolve_backend(search)
    if backend == "local":
        spec = resolve_local_model(search)
        return ":".join([backend, spec.source, spec.name, spec.revision or "", spec.dtype])
    if backend != "openai":
        return backend
    endpoint = resolve_endpoint(search.endpoint)
    roles = [f"{role}={model}" for role, model in sorted(endpoint.role_models.items())]
    return ":".join([backend, endpoint.model, *roles])


def resolve_local_model(search: SearchConfig) -> ModelSpec:
    """The model that backend ``local`` runs."""
    return search.local_model or ModelSpec(source="package", name="smollm2-135m-instruct")


def resolve_endpoint(endpoint: Endpoint) -> Endpoint:
    """The endpoint; what its settings do not name is as the environment says."""
    variables = {"base_url": "LLM_BASE_URL", "model": "LLM_MODEL"}
    open_to_change = variables.keys() - endpoint.model_fields_set
    told = {name: os.environ.get(variables[name]) for name in open_to_change}
    return endpoint.model_copy(update={name: value for name, value in told.items() if value})


def read_key(endpoint: Endpoint) -> str:
    """The API key; ``EndpointRefused`` naming the variable, never a value, where it is not set."""
    key = os.environ.get(endpoint.api_key_env, "").strip()
    if not key:
        raise EndpointRefused(
            "no API key",
            where=f"environment variable {endpoint.api_key_env}",
            fix=f"Set {endpoint.api_key_env}, or choose backend: heuristic.",
        )
    return key
