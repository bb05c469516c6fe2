"""A command ``vllm serve`` that speaks the part of vLLM 0.33's protocol which rollouts use, with
transformers and PEFT behind it: ``vllm/entrypoints/{serve/lora,openai/completion}/protocol.py``.

It refuses what vLLM refuses: unknown fields are errors here, so that a misspelt one is seen.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from pathlib import Path
from typing import Literal

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from peft import PeftModel
from pydantic import BaseModel, ConfigDict

from reward_harness.models.embedded import load_policy_folder
from reward_harness.models.generation import generate_ids

PROJECT = Path(__file__).resolve().parents[2]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LoadAdapter(Strict):
    lora_name: str
    lora_path: str
    load_inplace: bool = False


class Completion(Strict):
    model: str
    prompt: list[int]
    max_tokens: int
    temperature: float
    top_p: Literal[1.0]
    top_k: Literal[0]
    min_p: Literal[0.0]
    repetition_penalty: Literal[1.0]
    seed: int
    stop_token_ids: list[int]
    return_token_ids: Literal[True]


def install(folder: Path) -> Path:
    """A folder for PATH with the command ``vllm``."""
    program = folder / "vllm"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(
        f"#!/bin/sh\nPYTHONPATH={PROJECT} exec {sys.executable} -m tests.training.vllm_double "
        f'"$@" {folder}\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    return folder


def refused(text: str) -> JSONResponse:
    return JSONResponse({"error": {"message": text}}, status_code=400)


def application(folder: Path, longest: int, rank: int) -> FastAPI:
    """The server's routes."""
    app, adapters, seen = FastAPI(), {}, set()
    _, tokenizer = load_policy_folder(folder)

    @app.get("/health")
    def health() -> PlainTextResponse:
        return PlainTextResponse("")

    @app.post("/v1/load_lora_adapter")
    async def load(asked: LoadAdapter):
        if asked.lora_name in adapters and not asked.load_inplace:
            return refused(f"The lora adapter '{asked.lora_name}' has already been loaded.")
        if asked.lora_path in seen:
            return refused("the same path: vLLM would reuse blocks of the old weights")
        seen.add(asked.lora_path)
        plain, _ = load_policy_folder(folder)
        loaded = PeftModel.from_pretrained(plain, asked.lora_path)
        if loaded.peft_config["default"].r > rank:
            return refused("the adapter's rank exceeds --max-lora-rank")
        adapters[asked.lora_name] = loaded.eval()
        return PlainTextResponse(f"Success: LoRA adapter '{asked.lora_name}' added successfully.")

    @app.post("/v1/completions")
    async def complete(asked: Completion):
        if asked.model not in adapters:
            return JSONResponse({"error": {"message": "no such model"}}, status_code=404)
        if len(asked.prompt) + asked.max_tokens > longest:
            return refused(f"maximum context length is {longest}")
        (made,) = generate_ids(
            adapters[asked.model],
            tokenizer,
            [asked.prompt],
            max_new_tokens=asked.max_tokens,
            temperature=asked.temperature,
            seed=asked.seed % 2**63,
        )
        reason = "stop" if made.ended else "length"
        choice = {"index": 0, "text": made.text, "finish_reason": reason}
        return {"choices": [{**choice, "token_ids": list(made.token_ids)}]}

    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve", choices=["serve"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--enable-lora", action="store_true", required=True)
    for name in ("--host", "--dtype", "--generation-config"):
        parser.add_argument(name, required=True)
    for name in ("--port", "--max-model-len", "--max-lora-rank"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--gpu-memory-utilization", type=float, required=True)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    if (given.folder / "broken").exists():
        sys.exit("torch.OutOfMemoryError: no room for the cache")
    assert os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    (given.folder / "pid").write_text(str(os.getpid()))
    torch.set_num_threads(1)
    app = application(given.model, given.max_model_len, given.max_lora_rank)
    uvicorn.run(app, host=given.host, port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
