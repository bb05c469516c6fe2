"""The roles played by a language model in this process (backend ``local``).

Grades and preferences are read off the odds of the answer's first token, not generated: one forward
pass for each question, and all questions that are asked together are one batch. A preference is the
mean of both orders' log-odds, which cancels what the model prefers for its position. Rubrics are
generated and read like an endpoint's; a small model's are often ``Failed``.

Votes of one question are one question: the odds have no chance in them. torch is imported by the
first question.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from reward_harness.errors import HarnessError, LLMError
from reward_harness.hashing import digest_json
from reward_harness.llm.budget import Caps, Usage, check_caps
from reward_harness.llm.local_questions import questions_in
from reward_harness.llm.roles import Compared, ModelRoles, both_orders
from reward_harness.llm.verdicts import Asker, VerdictStore
from reward_harness.model_spec import ModelSpec
from reward_harness.models.folders import model_digest, model_folder
from reward_harness.prompts import Role, Template
from reward_harness.rewards.base import Failed
from reward_harness.rubrics.types import Criterion, Grades, Scale

if TYPE_CHECKING:
    from reward_harness.llm.local_model import LocalModel

T = TypeVar("T")
Sides = tuple[tuple[str, ...], tuple[str, ...]]
YES_NO: Sides = (("Yes", "yes", "YES"), ("No", "no", "NO"))
LEFT_RIGHT: Sides = (("A",), ("B",))
TIE = 1e-3
"""Mean log-odds of a preference below which neither is better; also odds' rounding, because the
same question in another batch differs in its last digits."""
_LOADING = threading.Lock()
"""transformers imports its modules lazily, which two threads cannot do at once."""


class LocalGateway:
    """The model in a thread of its own: the loop stays free, questions queue up into batches."""

    def __init__(self, folder: Path, spec: ModelSpec, caps: Caps | None = None) -> None:
        self.usage = Usage()
        self.caps = caps or Caps()
        self._folder, self._dtype = folder, spec.dtype
        self._identity = f"{spec.name}@{model_digest(folder)[:16]}:{spec.dtype}"
        self._loaded: LocalModel | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="local-model")
        self._turn = asyncio.Lock()
        self._waiting: dict[Sides, list[tuple[list[dict[str, str]], asyncio.Future[float]]]] = {}
        self._batches: set[asyncio.Task[None]] = set()

    def model_of(self, role: str) -> str:
        """The model and its weights; the same for all roles."""
        return self._identity

    def sampling(self) -> dict[str, Any]:
        """Vote 0 is greedy; other votes are drawn with their number as seed."""
        return {"local": 1}

    async def chat(
        self, role: str, messages: Sequence[Mapping[str, str]], vote: int = 0
    ) -> str | Failed:
        """One generated reply."""
        self._admit(role)
        async with self._turn:
            text, read, written = await self._run(lambda model: model.write(messages, vote))
        self.usage.prompt_tokens += read
        self.usage.completion_tokens += written
        return text

    async def log_odds(self, role: str, system: str, user: str, sides: Sides) -> float:
        """Log-odds of the first side; asked in one batch with what else is waiting."""
        self._admit(role)
        answer = asyncio.get_running_loop().create_future()
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        if sides not in self._waiting:
            self._waiting[sides] = []
            batch = asyncio.create_task(self._ask_waiting(sides))
            self._batches.add(batch)
            batch.add_done_callback(self._batches.discard)
        self._waiting[sides].append((messages, answer))
        return await answer

    async def aclose(self) -> None:
        """End the thread after what it is doing, and let go of the model."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._loaded = None

    async def _ask_waiting(self, sides: Sides) -> None:
        """Wait for the model's turn, then ask all that has come until then."""
        await asyncio.sleep(0)
        taken: list[tuple[list[dict[str, str]], asyncio.Future[float]]] = []
        try:
            async with self._turn:
                taken = self._waiting.pop(sides)
                questions = [messages for messages, _ in taken]
                found, read = await self._run(lambda model: model.log_odds(questions, sides))
            self.usage.prompt_tokens += read
            for (_, answer), odds in zip(taken, found, strict=True):
                if not answer.done():
                    answer.set_result(odds)
        except HarnessError as error:
            for _, answer in taken:
                if not answer.done():
                    answer.set_exception(error)
        finally:  # nobody waits for ever, whatever went wrong
            for _, answer in taken or self._waiting.pop(sides, []):
                answer.cancel()

    async def _run(self, work: Callable[[LocalModel], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, lambda: work(self._model()))
        except HarnessError:
            raise
        except (RuntimeError, OSError, ValueError, ImportError) as error:
            raise LLMError(
                "the model in this process failed", where=str(self._folder), got=str(error)
            ) from error

    def _model(self) -> LocalModel:
        with _LOADING:
            from reward_harness.llm.local_model import LocalModel

            if self._loaded is None:
                self._loaded = LocalModel(self._folder, self._dtype)
            return self._loaded

    def _admit(self, role: str) -> None:
        check_caps(self.caps, self.usage)
        self.usage.count_call(role)


class LocalRoles(ModelRoles):
    """``ModelRoles`` whose verifier and judge answer by their odds."""

    def __init__(
        self, model: LocalGateway, store: VerdictStore, templates: Mapping[Role, Template]
    ) -> None:
        super().__init__(model, store, templates)
        self._model = model
        self._questions = questions_in(templates["verifier"].locale)

    async def grade(
        self, prompt: str, response: str, criteria: Sequence[Criterion], scale: Scale, vote: int = 0
    ) -> Grades | Failed:
        """The probability of Yes against No for each criterion; 0 or 1 on the binary scale."""
        return await super().grade(prompt, response, criteria, scale)

    async def compare(self, prompt: str, left: str, right: str, vote: int = 0) -> Compared | Failed:
        """Which response is better by the mean of both orders; whether the orders agree."""
        odds = await both_orders(partial(self._left_odds, prompt), left, right)
        if isinstance(odds, Failed):
            return odds
        there, back = odds
        return Compared(_sign((there - back) / 2), _sign(there) == -_sign(back))

    async def prefer(
        self, prompt: str, left: str, right: str, vote: int = 0
    ) -> Literal[1, -1, 0] | Failed:
        """The preference in one order."""
        odds = await self._left_odds(prompt, left, right)
        return odds if isinstance(odds, Failed) else _sign(odds)

    async def _left_odds(self, prompt: str, left: str, right: str) -> float | Failed:
        asker = self._asker("judge")
        key = asker.key(prompt, sorted((left, right)), "kept" if left <= right else "swapped", 0)

        async def ask(missing: Sequence[str]) -> dict[str, float] | Failed:
            user = self._questions.preference(prompt, left, right)
            system = self._questions.judge_system
            odds = await self._model.log_odds("judge", system, user, LEFT_RIGHT)
            return {missing[0]: _rounded(odds)}

        answers = await self._answer(asker, [key], ask)
        return answers if isinstance(answers, Failed) else float(answers[key])

    async def _ask_grades(
        self,
        prompt: str,
        response: str,
        missing: Mapping[str, Criterion],
        scale: Scale,
        vote: int,
    ) -> dict[str, float | None] | Failed:
        ask, system = self._questions, self._questions.grade_system
        odds = await asyncio.gather(
            *(
                self._model.log_odds(
                    "verifier", system, ask.grade(prompt, response, criterion), YES_NO
                )
                for criterion in missing.values()
            )
        )
        grades = [round(1 / (1 + math.exp(-max(min(o, 50.0), -50.0))), 4) for o in odds]
        if scale == "binary":
            grades = [float(grade >= 0.5) for grade in grades]
        return dict(zip(missing, grades, strict=True))

    def _asker(self, role: Role) -> Asker:
        asked = super()._asker(role)
        if role in ("initializer", "proposer"):
            return asked
        template = digest_json(["odds", asdict(self._questions)])
        return Asker(role, asked.model, template, asked.sampling)


def _rounded(odds: float) -> float:
    return round(odds / TIE) * TIE


def _sign(odds: float) -> Literal[1, -1, 0]:
    return 0 if abs(odds) < TIE / 2 else 1 if odds > 0 else -1


def open_local_roles(
    spec: ModelSpec,
    templates: Mapping[Role, Template],
    store: Path | None,
    models: Path,
    caps: Caps | None = None,
) -> LocalRoles:
    """Roles by ``spec``'s model, whose files lie (or are made) below the cache folder ``models``.

    ``SpecError`` or ``ArtifactError`` where the model cannot be had.
    """
    model = LocalGateway(model_folder(spec, models), spec, caps)
    return LocalRoles(model, VerdictStore(store), templates)
