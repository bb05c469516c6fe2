"""Rubrics in files: reading any known format, writing the own one and those of others.

Names are prompt ids or prompt texts, whichever the file has; the rubric of a file that names no
prompt, or ``__shared__``, holds for all. A ``.json`` file holds one entry or a list, a ``.jsonl``
file one a line, a ``.toml`` file one rubric: see ``formats``.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from reward_harness.data.files import json_lines, shown, validated, write_lines
from reward_harness.errors import DataError
from reward_harness.hashing import canonical_json
from reward_harness.rubrics.formats import (
    ENTRY_WRITERS,
    Format,
    Named,
    entry_of,
    from_verifiers,
    refuse_checks,
    to_verifiers,
)
from reward_harness.rubrics.formats import SHARED as SHARED
from reward_harness.rubrics.search.problem import SearchPrompt
from reward_harness.rubrics.types import Rubric


def read_rubrics(path: Path) -> dict[str, Rubric]:
    """Rubrics by name, from any of the formats. ``DataError`` names file, line and field."""
    found: dict[str, Rubric] = {}
    places: dict[str, str] = {}
    for where, (name, rubric) in _entries(path):
        if name in found:
            raise DataError(
                "two rubrics for one prompt",
                where=where,
                got=shown(name),
                expected=f"a prompt other than that of {places[name]}",
            )
        found[name], places[name] = rubric, where
    if not found:
        raise DataError("no rubric in it", where=str(path))
    return found


def write_rubrics(path: Path, rubrics: Mapping[str, Rubric]) -> None:
    """The own format as readable JSON, equal bytes for equal rubrics."""
    body = {name: rubrics[name].model_dump(mode="json") for name in sorted(rubrics)}
    path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_as(path: Path, rubrics: Mapping[str, Rubric], format: Format) -> None:
    """Write ``rubrics`` by name: ``.jsonl`` one a line, else one file; equal bytes for equal input.

    ``DataError`` where the format cannot hold them: a programmatic criterion is none of a foreign
    format's, and a verifiers file is one rubric.
    """
    for name, rubric in rubrics.items():
        refuse_checks(name, rubric, format)
    if format == "verifiers":
        _require_suffix(path, (".toml",), format)
        if len(rubrics) != 1:
            got = f"{len(rubrics)} rubrics"
            raise DataError("a verifiers file is one rubric", where=str(path), got=got)
        path.write_text(to_verifiers(next(iter(rubrics.values()))), encoding="utf-8")
        return
    _require_suffix(path, (".json", ".jsonl", ".jsonl.gz"), format)
    if format == "own" and path.suffix == ".json":
        write_rubrics(path, rubrics)
        return
    entries = [ENTRY_WRITERS[format](name, rubrics[name]) for name in sorted(rubrics)]
    if path.suffix == ".json":
        text = json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")
        return
    write_lines(path, (canonical_json(entry) + b"\n" for entry in entries))


def preset_for(path: Path, prompts: Sequence[SearchPrompt], strict: bool) -> dict[str, Rubric]:
    """The rubrics of ``path`` that start a search, by prompt id, and the shared one if there is.

    A name of the file is a prompt id or a prompt's text. A prompt that has none of its own gets
    the shared one; without that it is left out, or a ``DataError`` if ``strict``.
    """
    found = read_rubrics(path)
    shared = found.get(SHARED)
    presets = {} if shared is None else {SHARED: shared}
    lacking: list[str] = []
    for prompt in prompts:
        own = found.get(prompt.prompt_id) or found.get(prompt.text) or shared
        if own is None:
            lacking.append(prompt.prompt_id)
        else:
            presets[prompt.prompt_id] = own
    if lacking and strict:
        raise DataError(
            f"no preset rubric for {len(lacking)} of {len(prompts)} prompts",
            where=str(path),
            got=f"none for {', '.join(lacking[:3])}",
            expected="a rubric for each prompt id or prompt text, or one named __shared__",
            fix="Add them, or let the backend write them (without preset_strict).",
        )
    return presets


def _entries(path: Path) -> Iterator[tuple[str, Named]]:
    """(place, named rubric) of each entry of the file."""
    if path.suffix == ".toml":
        yield str(path), (SHARED, from_verifiers(_toml(path), str(path)))
        return
    if ".jsonl" in path.suffixes:
        for line, value in json_lines(path):
            yield f"{path}:{line}", entry_of(value, f"{path}:{line}")
        return
    body = _json(path)
    if isinstance(body, dict) and isinstance(listed := body.get("best_rubrics"), list):
        body = listed
    if isinstance(body, list):
        for number, value in enumerate(cast("list[Any]", body), 1):
            where = f"{path}: entry {number}"
            yield where, entry_of(value, where)
    elif isinstance(body, dict) and _is_by_name(cast("dict[str, Any]", body)):
        for name, value in cast("dict[str, Any]", body).items():
            where = f"{path}: {shown(name)}"
            yield where, (name, validated(Rubric, value, where))
    else:
        yield str(path), entry_of(body, str(path))


def _is_by_name(body: dict[str, Any]) -> bool:
    known = {"criteria", "rubrics", "rubric"}
    return not known & body.keys() and all(isinstance(v, dict) for v in body.values())


def _require_suffix(path: Path, allowed: tuple[str, ...], format: Format) -> None:
    if not path.name.endswith(allowed):
        raise DataError(
            f"the format {format} is not written to such a file",
            where=str(path),
            expected=f"a name that ends in {' or '.join(allowed)}",
        )


def _json(path: Path) -> Any:
    try:
        return json.loads(_bytes(path))
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}"
        raise DataError("not valid JSON", where=where, expected=error.msg) from error
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=str(path)) from error


def _toml(path: Path) -> Any:
    try:
        return tomllib.loads(_bytes(path).decode())
    except tomllib.TOMLDecodeError as error:
        raise DataError("not valid TOML", where=str(path), expected=str(error)) from error
    except UnicodeDecodeError as error:
        raise DataError("not UTF-8 text", where=str(path)) from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path)) from error
    except OSError as error:
        raise DataError("cannot be read", where=str(path), got=str(error)) from error
