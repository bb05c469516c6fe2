"""The names that users import from the package are there, and cost nothing until used."""

from __future__ import annotations

import pytest

import reward_harness


@pytest.mark.parametrize("name", reward_harness.__all__)
def test_public_name_resolves_to_the_thing_of_that_name(name: str) -> None:
    assert getattr(reward_harness, name).__name__ == name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = reward_harness.Nothing
