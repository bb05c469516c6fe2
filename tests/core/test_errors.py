"""Errors say what, where, got, expected and what to do, and cross process borders."""

from __future__ import annotations

import pickle

import pytest

from reward_harness.errors import DataError, GateRejected, HarnessError, LLMError, SpecError


def test_message_has_all_parts_in_order() -> None:
    error = DataError(
        "rank is no integer", where="a.jsonl:3", got="x", expected="an integer", fix="Correct it."
    )
    assert str(error) == "a.jsonl:3: rank is no integer; got 'x'; expected an integer. Correct it."


@pytest.mark.parametrize(
    "error",
    [
        SpecError("bad", where="f:1", got=3, expected="2", fix="Do."),
        GateRejected("length", value=0.4, threshold=0.1, artifact="a/b/c"),
        LLMError("down"),
    ],
)
def test_errors_survive_pickling_with_their_fields(error: HarnessError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


def test_errors_are_the_standard_exception_a_caller_would_catch() -> None:
    assert isinstance(SpecError("x"), ValueError)
    assert isinstance(LLMError("x"), RuntimeError)
    assert (SpecError("x").exit_code, LLMError("x").exit_code) == (2, 3)
