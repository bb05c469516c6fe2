"""The one module that talks to the hub: a file, or the rows of a split, of a pinned revision.

huggingface_hub and datasets are imported when they are needed. Whatever keeps the hub from
answering (offline mode, no network, no such revision) is ``HubUnavailable`` with one line that says
what; the source layer tells the user what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from reward_harness.manifest import Frozen


class HubUnavailable(Exception):
    """The hub did not give the file or the rows."""


class HubFile(Frozen):
    """A dataset repository at one commit.

    One ``file`` of it, or a ``split`` (of ``config`` or ``data_files``).
    """

    id: str
    revision: str = Field(pattern=r"^[0-9a-f]{40}$", description="a full commit hash")
    file: str | None = None
    config: str | None = None
    split: str | None = None
    data_files: str | list[str] | None = None

    @model_validator(mode="after")
    def _names_rows(self) -> HubFile:
        if (self.file is None) == (self.split is None):
            raise ValueError("name either a `file` of the repository or a `split`")
        return self


def download(entry: HubFile) -> Path:
    """Local path of the file, from the hub's cache if it is there; ``HubUnavailable`` otherwise."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(
            hf_hub_download(
                entry.id, entry.file or "", repo_type="dataset", revision=entry.revision
            )
        )
    except (OSError, ValueError) as error:
        raise HubUnavailable(_reason(entry, error)) from error


def load_rows(entry: HubFile) -> Iterator[tuple[int, Any]]:
    """(number from 1, row) of the split, in its order.

    ``HubUnavailable`` if it cannot be loaded.
    """
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        rows = load_dataset(
            entry.id,
            name=entry.config,
            split=entry.split,
            data_files=entry.data_files,
            revision=entry.revision,
        )
    except (DatasetsError, OSError, ValueError) as error:
        raise HubUnavailable(_reason(entry, error)) from error
    return iter(enumerate(rows, start=1))


def _reason(entry: HubFile, error: Exception) -> str:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{entry.id} at {entry.revision[:12]} not available: {first[:160]}"
