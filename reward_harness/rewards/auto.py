"""``AutoRM.load``: any reward by its name or path.

    auto          an artifact, a model folder, a URL, or a model's name: whichever it is
    transformers  a published reward model in this process (also called hf)
    vllm          a reward model behind ``vllm serve`` (http://127.0.0.1:8000 unless ``api_base``)
    api           a served reward at ``api_base``: this project's server, or one in its protocols
    openai        a language model behind an OpenAI-compatible endpoint, as ``LLMJudge``
    rubric        a rubric file or artifact

Each method takes its own keyword arguments; an unknown one, an unknown method and an unknown model
are a ``ValueError`` that lists what there is.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reward_harness.errors import LLMError, SpecError
from reward_harness.llm.budget import Caps
from reward_harness.models.folders import model_folder
from reward_harness.rewards.base import BaseRM, Failed
from reward_harness.rewards.http_caller import HTTPCaller
from reward_harness.rewards.judge import LLMJudge
from reward_harness.rewards.load import load_rm
from reward_harness.rewards.pretrained import load_pretrained
from reward_harness.rewards.process import STEP_DELIMITER, Aggregation, ProcessRM
from reward_harness.rewards.remote import NATIVE, PROTOCOLS, RemoteRM, RemoteSteps
from reward_harness.rewards.rubric import RubricRM
from reward_harness.rewards.sources import HUB_NAME, PUBLISHED, model_spec
from reward_harness.rm.artifact import ARTIFACT_NAME
from reward_harness.rubrics.files import read_rubrics
from reward_harness.workspace import Workspace

URL = re.compile(r"https?://")
VLLM_ADDRESS = "http://127.0.0.1:8000"
PROCESS_NAME = re.compile(r"PRM", re.IGNORECASE)


class AutoRM:
    """Not made, only asked: ``AutoRM.load(name_or_path, load_method="auto", **kwargs)``."""

    @staticmethod
    def load(name_or_path: str | Path, load_method: str = "auto", **kwargs: Any) -> BaseRM:
        """The reward that ``name_or_path`` means; see the module's docstring for the methods.

        ``SpecError`` (a ``ValueError``) for a model, method or argument that does not exist,
        ``ArtifactError`` for a broken artifact, ``LLMError`` for a server that does not answer.
        """
        if load_method not in METHODS:
            raise SpecError(
                "no such load_method", got=load_method, expected=f"one of: {', '.join(METHODS)}"
            )
        if load_method == "auto":
            load_method = guess_method(str(name_or_path), kwargs)
        method = METHODS[load_method]
        allowed = [
            name
            for name, parameter in inspect.signature(method).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        ]
        open_ended = load_method == "openai"
        if unknown := [name for name in kwargs if name not in allowed and not open_ended]:
            raise SpecError(
                f"load_method {load_method!r} takes no {', '.join(unknown)}",
                where=str(name_or_path),
                expected=f"some of: {', '.join(allowed)}",
            )
        return method(str(name_or_path), **kwargs)


def guess_method(name: str, kwargs: dict[str, Any]) -> str:
    """The method for ``auto``; ``SpecError`` lists what there is where nothing fits."""
    path = Path(name).expanduser()
    if URL.match(name):
        return "api"
    if path.suffix == ".json" or (path / ARTIFACT_NAME).is_file():
        return "artifact"
    if "api_base" in kwargs:
        return "openai" if {"api_key", "rubric"} & kwargs.keys() else "api"
    if path.is_dir() or HUB_NAME.fullmatch(name):
        return "transformers"
    raise SpecError(
        "no such reward",
        got=name,
        expected="an artifact folder or .json, a model folder, a URL, or a hub name such as "
        + ", ".join(PUBLISHED),
        fix=f"Or say how to load it: load_method={'|'.join(METHODS)}.",
    )


def _artifact(
    name: str, *, device: str = "cpu", cache: Path | None = None, api_key_env: str | None = None
) -> BaseRM:
    return load_rm(Path(name).expanduser(), device, cache=cache, api_key_env=api_key_env)


def _transformers(
    name: str,
    *,
    revision: str | None = None,
    cache: Path | None = None,
    device: str | None = None,
    torch_dtype: str | None = None,
    trust_remote_code: bool = False,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    aggregation: Aggregation = "prod",
    step_delimiter: str = STEP_DELIMITER,
    step_scheme: Any = None,
) -> BaseRM:
    cache = cache or Workspace.discover().cache
    folder = model_folder(model_spec(Path(name).expanduser(), revision), cache)
    return load_pretrained(
        folder,
        name=name,
        device=device,
        torch_dtype=torch_dtype,
        trust_remote_code=trust_remote_code,
        max_length=max_length,
        batch_tokens=batch_tokens,
        aggregation=aggregation,
        step_delimiter=step_delimiter,
        step_scheme=step_scheme,
    )


def _vllm(
    name: str,
    *,
    api_base: str = VLLM_ADDRESS,
    api_key: str | None = None,
    tensor_parallel_size: int = 1,
    gpu_memory_utilization: float = 0.9,
    aggregation: Aggregation = "prod",
    step_delimiter: str = STEP_DELIMITER,
    timeout_s: float = 120.0,
) -> BaseRM:
    """The two sizes belong to the server's command, which a server that is away is told with."""
    url = _root(api_base)
    caller = HTTPCaller(url, api_key, timeout_s, retries=0)
    told = caller.get("/v1/models")
    caller.close()
    if isinstance(told, Failed):
        raise LLMError(
            "no vLLM server answers",
            where=url,
            got=told.error,
            fix=f"Start it: vllm serve {name} --runner pooling --tensor-parallel-size "
            f"{tensor_parallel_size} --gpu-memory-utilization {gpu_memory_utilization}; or pass "
            "api_base=, or load_method='transformers'.",
        )
    if PROCESS_NAME.search(name):
        steps = RemoteSteps(url, api_key, model=name, timeout_s=timeout_s, known_as=name)
        return ProcessRM(steps, aggregation, step_delimiter)
    return RemoteRM(url, api_key, timeout_s=timeout_s, protocol="vllm", model=name)


def _api(
    name: str,
    *,
    api_base: str | None = None,
    api_key: str | None = None,
    protocol: str | None = None,
    expect_digest: str | None = None,
    timeout_s: float = 120.0,
    retries: int = 3,
) -> BaseRM:
    if api_base is None and not URL.match(name):
        raise SpecError("a served reward needs its address", where=name, expected="api_base=")
    url = _root(api_base or name)
    return RemoteRM(
        url,
        api_key,
        expect_digest=expect_digest,
        timeout_s=timeout_s,
        retries=retries,
        protocol=protocol or _protocol_of(url, api_key, timeout_s),
        model=None if URL.match(name) else name,
    )


def _openai(
    name: str,
    *,
    api_base: str | None = None,
    api_key: str | None = None,
    rubric: str | None = None,
    **options: Any,
) -> BaseRM:
    judged_by = {} if rubric is None else {"rubric": rubric}
    return LLMJudge(name, api_base, api_key, **judged_by, **options)


def _rubric(
    name: str,
    *,
    model: str | None = None,
    api_base: str | None = None,
    api_key_env: str | None = None,
    cache: Path | None = None,
    caps: Caps | None = None,
) -> BaseRM:
    path = Path(name).expanduser()
    if (path / ARTIFACT_NAME).is_file() or _is_artifact(path):
        return load_rm(path, cache=cache, api_key_env=api_key_env)
    rubrics = read_rubrics(path)
    if not any(rubric.needs_llm for rubric in rubrics.values()):
        return RubricRM(rubrics)
    from reward_harness.llm.roles import open_roles
    from reward_harness.llm.verdicts import STORE_NAME
    from reward_harness.prompts import load_templates
    from reward_harness.sections import Endpoint

    named = {"model": model, "base_url": api_base, "api_key_env": api_key_env}
    endpoint = Endpoint.model_validate({k: v for k, v in named.items() if v is not None})
    store = (cache or Workspace.discover().cache) / STORE_NAME
    return RubricRM(rubrics, open_roles(endpoint, load_templates(None, "en"), store, caps))


def _is_artifact(path: Path) -> bool:
    return path.suffix == ".json" and b'"runtime_snapshot"' in path.read_bytes()


def _root(api_base: str) -> str:
    """The server's address: routes of rewards are not below ``/v1``."""
    return api_base.rstrip("/").removesuffix("/v1")


def _protocol_of(url: str, key: str | None, timeout_s: float) -> str:
    """Which protocol the server speaks, by what it tells of itself."""
    caller = HTTPCaller(url, key, timeout_s, retries=0)
    try:
        version = caller.get("/version")
        if isinstance(version, dict):
            return NATIVE if "digest" in version else "vllm"
        if isinstance(caller.get("/info"), dict):
            return "tei"
    finally:
        caller.close()
    raise LLMError(
        "no reward server answers, or it does not say which one it is",
        where=url,
        got=version.error if isinstance(version, Failed) else str(version)[:80],
        fix=f"Start it, or pass protocol= one of: {', '.join(PROTOCOLS)}.",
    )


METHODS: dict[str, Callable[..., BaseRM]] = {
    "auto": _transformers,
    "transformers": _transformers,
    "hf": _transformers,
    "vllm": _vllm,
    "api": _api,
    "openai": _openai,
    "rubric": _rubric,
    "artifact": _artifact,
}
