"""Attack texts: answers that no good reward may favour, as data in ``data/attacks/*.jsonl``.

A file is one family; a line is ``{attack_id, template}``. A template with ``{response}`` changes a
genuine response, one without it replaces the response.
"""

from __future__ import annotations

from pathlib import Path

from reward_harness.data.files import json_lines, refuse_repeated_id, validated
from reward_harness.errors import DataError
from reward_harness.manifest import Frozen

SLOT = "{response}"
FAMILIES = ("master_key", "null_response", "length_padding", "prompt_injection")


class Attack(Frozen):
    """One attack text."""

    attack_id: str
    template: str

    @property
    def replaces(self) -> bool:
        """Whether the response is replaced and not changed."""
        return SLOT not in self.template

    def applied(self, response: str) -> str:
        """The attacked response."""
        return self.template.replace(SLOT, response, 1)


def read_attacks(folder: Path) -> dict[str, list[Attack]]:
    """All families; ``DataError`` if one is missing, empty or malformed."""
    found: dict[str, list[Attack]] = {}
    for family in FAMILIES:
        path = folder / f"{family}.jsonl"
        lines: dict[str, int] = {}
        found[family] = []
        for number, value in json_lines(path):
            where = f"{path}:{number}"
            attack = validated(Attack, value, where)
            refuse_repeated_id(attack.attack_id, number, lines, where)
            found[family].append(attack)
        if not found[family]:
            raise DataError("no attacks", where=str(path), expected="at least one line")
    return found
