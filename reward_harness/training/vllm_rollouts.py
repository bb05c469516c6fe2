"""Rollouts by a vLLM server that the worker starts and ends (``rollouts: vllm``).

The server holds the model that training starts from; what learns is its adapter, written to a new
folder before each rollout and put in place of the last one. A new folder, because vLLM keeps what
it read of a prompt by the adapter's path. Token ids go in and come out, a seed for each response,
so that a rollout does not depend on what else the server computes at the time. Only the command
``vllm`` is run: it may live in an environment of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from reward_harness.errors import SpecError, TrainingError
from reward_harness.hashing import derive_seed
from reward_harness.models.chat import end_id
from reward_harness.models.generation import Generated, generated_from
from reward_harness.training.policy_model import name_base

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reward_harness.training.context import TrainContext
    from reward_harness.training.job import GRPOJob, PPOJob

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` may be."""
ADAPTER = "policy"
IN_FLIGHT = 64
START_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 15.0
ANSWER_TIMEOUT_S = 600.0
POLL_S = 0.2
SHOWN_LINES = 15


@dataclass
class VLLMRollouts:
    """Samples from the policy as it is now."""

    url: str
    adapters: Path
    base: str
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    temperature: float
    loaded: int = 0

    def __call__(self, policy: Any, rows: Sequence[Sequence[int]], seed: int) -> list[Generated]:
        """One response for each row of token ids, in order; ``policy`` is a ``PeftModel``.

        ``TrainingError`` if the server fails or gives fewer.
        """
        with httpx.Client(base_url=self.url, timeout=ANSWER_TIMEOUT_S, trust_env=False) as client:
            self._load(client, policy)

            def sampled(index: int) -> Generated:
                return self._sampled(client, rows[index], derive_seed(seed, "vllm", index))

            with ThreadPoolExecutor(IN_FLIGHT) as pool:
                return list(pool.map(sampled, range(len(rows))))

    def _load(self, client: httpx.Client, policy: Any) -> None:
        """Put the policy's adapter in place of the last."""
        self.loaded += 1
        folder = self.adapters / str(self.loaded)
        policy.save_pretrained(folder, save_embedding_layers=False)
        name_base(folder, self.base)
        body = {"lora_name": ADAPTER, "lora_path": str(folder), "load_inplace": self.loaded > 1}
        self._post(client, "/v1/load_lora_adapter", body)
        shutil.rmtree(self.adapters / str(self.loaded - 1), ignore_errors=True)

    def _sampled(self, client: httpx.Client, row: Sequence[int], seed: int) -> Generated:
        end = end_id(self.tokenizer)
        body: dict[str, Any] = {
            "model": ADAPTER,
            "prompt": list(row),
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            # or the model's generation configuration would decide
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": seed,
            "stop_token_ids": [end],
            "return_token_ids": True,
        }
        answer = self._post(client, "/v1/completions", body)
        try:
            choice = answer.json()["choices"][0]
            ids, reason = [int(one) for one in choice["token_ids"]], choice["finish_reason"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise TrainingError(
                "vLLM's answer is not a completion with token ids",
                where=self.url,
                got=answer.text[:200],
                fix="Use a version that knows `return_token_ids`.",
            ) from error
        if reason == "stop" and end not in ids:
            ids.append(end)
        return generated_from(self.tokenizer, ids)

    def _post(self, client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
        try:
            answer = client.post(path, json=body)
        except httpx.HTTPError as error:
            raise TrainingError(
                "vLLM does not answer", where=f"{self.url}{path}", got=repr(error)
            ) from error
        if answer.status_code != 200:
            raise TrainingError(
                "vLLM refused",
                where=f"{self.url}{path}",
                got=f"HTTP {answer.status_code} {' '.join(answer.text.split())[:300]}",
            )
        return answer


@contextmanager
def vllm_rollouts(
    job: PPOJob | GRPOJob, tokenizer: PreTrainedTokenizerBase, context: TrainContext
) -> Generator[VLLMRollouts | None]:
    """A started server's sampler if the job asks for one; else None: the trainer samples itself.

    The server writes ``log/vllm.log``. It ends with the block, and with this process however that
    dies. ``SpecError`` without vLLM, ``TrainingError`` if the server does not start.
    """
    settings = job.settings
    if settings.rollouts == "own":
        yield None
        return
    adapters = context.log / "vllm-adapters"
    shutil.rmtree(adapters, ignore_errors=True)
    context.log.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    url, log = f"http://127.0.0.1:{port}", context.log / "vllm.log"
    process = _start(_command(job, port), log)
    try:
        _wait_until_ready(process, url, log)
        yield VLLMRollouts(
            url=url,
            adapters=adapters,
            base=job.model.path,
            tokenizer=tokenizer,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
        )
    finally:
        _stop(process)
        shutil.rmtree(adapters, ignore_errors=True)


def _command(job: PPOJob | GRPOJob, port: int) -> list[str]:
    settings, rank = job.settings, job.lora.r if job.lora else 1
    program = shutil.which("vllm")
    if program is None:
        raise SpecError(
            "rollouts: vllm needs the command vllm",
            where=f"{job.experiment}: policy.{job.method}.rollouts",
            fix="Install vLLM (an environment of its own will do, on PATH), or set rollouts: own.",
        )
    options = {
        "host": "127.0.0.1",
        "port": port,
        "dtype": job.train_dtype,
        "max-model-len": settings.max_prompt_tokens + settings.max_new_tokens,
        "gpu-memory-utilization": settings.vllm_memory,
        "max-lora-rank": next((size for size in RANKS if size >= rank), RANKS[-1]),
        "generation-config": "vllm",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    return [program, "serve", job.model.path, "--enable-lora", *flags]


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The command in a process group of its own that ends when this process does (``tied``)."""
    tied = [sys.executable, str(Path(__file__).with_name("tied.py")), *command]
    with log.open("wb") as stream:
        return subprocess.Popen(
            tied,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            env=os.environ | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
            start_new_session=True,
        )


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5.0, trust_env=False).status_code == 200:
                return
        time.sleep(POLL_S)
    ended = process.poll()
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
    raise TrainingError(
        "vLLM did not start",
        where=str(log),
        got=f"exit code {ended}" if ended is not None else f"no answer in {START_TIMEOUT_S:g} s",
        fix=f"Its last lines: {' | '.join(lines) or 'none'}",
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe that the server is tied to, and wait until its group is gone."""
    assert process.stdin is not None
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
