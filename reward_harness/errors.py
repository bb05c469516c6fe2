"""The error tree: every failure a user can cause or repair is a ``HarnessError``.

An error says what happened, where, what was found, what was expected and what to do; the command
line prints exactly that and exits with the class's ``exit_code`` (2 for bad input, 3 for an
endpoint, 1 otherwise). Errors pickle, because stages run in other processes, and each also
inherits the standard exception that a caller would catch.
"""

from __future__ import annotations

from typing import Any


class HarnessError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: one sentence, what went wrong.
        where: file, line, field, stage or URL.
        got: the offending value.
        expected: what would have been accepted.
        fix: what the user can do about it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        got: object | None = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what, self.where, self.got, self.expected, self.fix = what, where, got, expected, fix
        super().__init__(self._render())

    def _render(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.got is not None:
            parts.append(f"got {self.got!r}" if isinstance(self.got, str) else f"got {self.got}")
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        text = "; ".join(parts)
        return f"{text}. {self.fix}" if self.fix else text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.__dict__.copy(), self.args)


def _rebuild(cls: type[HarnessError], state: dict[str, Any], args: tuple[Any, ...]) -> HarnessError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class SpecError(HarnessError, ValueError):
    """An experiment, study or source file says something that is not valid."""

    exit_code = 2


class DataError(HarnessError, ValueError):
    """A record, dataset file or source is missing or malformed."""

    exit_code = 2


class StorageError(HarnessError, OSError):
    """A file cannot be written: no such folder, no permission, no space left."""

    exit_code = 2


class Interrupted(HarnessError):
    """The user stopped the work; what it takes to go on was written."""

    exit_code = 130


class LLMError(HarnessError, RuntimeError):
    """A judge or generator endpoint refused, timed out or answered nonsense."""

    exit_code = 3


class EndpointRefused(LLMError):
    """What no repetition changes: a missing or wrong key, an unknown model, a malformed request."""


class BudgetExceeded(LLMError):
    """A spend cap was reached; what was paid for is kept and the work can be resumed."""

    exit_code = 1


class TrainingError(HarnessError, RuntimeError):
    """A training job cannot start or had to stop; its last good checkpoint is kept."""


class ArtifactError(HarnessError, RuntimeError):
    """A published artifact is missing, incomplete or does not match its digest."""


class ScoringError(HarnessError, RuntimeError):
    """A scorer gave no score; never to be replaced by a number."""


class GateRejected(ArtifactError):
    """A consumer met an artifact whose gate failed."""

    def __init__(
        self, gate: str, *, value: float | None, threshold: float | None, artifact: str
    ) -> None:
        super().__init__(
            f"gate {gate!r} failed",
            where=artifact,
            got=value,
            expected=f"threshold {threshold}",
            fix="Read the artifact's report, change what it measures or the threshold in the spec.",
        )
        self.gate, self.value, self.threshold = gate, value, threshold
