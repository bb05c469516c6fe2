"""The model card of a checkpoint, in the hub's form: base, data, lineage, measures, licence.

``license`` in its head is the base model's, which trained weights inherit; ``other`` where that is
not known. What the data's licences are stands below, for a reader to judge.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from reward_harness.training.job import AnyJob

CARD_NAME = "README.md"
UNKNOWN_LICENCE = "other"
DATA_FIELDS = ("train", "validation", "test")
MODEL_FIELDS = ("model", "rival", "reward", "judge")


def model_card(job: AnyJob, numbers: Mapping[str, Any]) -> str:
    """The card of what ``job`` trained; ``numbers`` are its measures and counts."""
    head = {
        "library_name": "transformers",
        "license": job.model.licence or UNKNOWN_LICENCE,
        "base_model": job.model.name,
        "tags": ["reward-harness", job.method],
    }
    settings = json.dumps(job.settings.model_dump(mode="json"), indent=1, sort_keys=True)
    lines = (
        "---",
        yaml.safe_dump(head, sort_keys=False).rstrip(),
        "---",
        f"# {job.experiment}: {job.method}",
        "",
        f"Trained by `{job.method}` from `{job.model.name}`, seed {job.seed}, {job.train_dtype}.",
        "",
        "## Made from",
        "",
        "| what | digest | licence |",
        "|---|---|---|",
        *_origins(job),
        "",
        "## Measures",
        "",
        "| measure | value |",
        "|---|---|",
        *(f"| {name} | {_shown(value)} |" for name, value in sorted(numbers.items())),
        "",
        "## Settings",
        "",
        "```json",
        settings,
        "```",
        "",
    )
    return "\n".join(lines)


def card_licence(folder: Path) -> str | None:
    """What the card in a model's folder names as its licence; None where it names none."""
    try:
        text = (folder / CARD_NAME).read_text(encoding="utf-8")
    except OSError:
        return None
    parts = text.split("---\n", 2)
    if parts[0] or len(parts) < 3:
        return None
    head = yaml.safe_load(parts[1])
    found = head.get("license") if isinstance(head, dict) else None
    return found if isinstance(found, str) and found != UNKNOWN_LICENCE else None


def _origins(job: AnyJob) -> Iterator[str]:
    """A row for the job and each model, reward and file it names."""
    yield f"| job | `{job.digest}` | |"
    for field in MODEL_FIELDS:
        if (found := getattr(job, field, None)) is not None:
            name = getattr(found, "name", getattr(found, "kind", ""))
            licence = getattr(found, "licence", None) or ("not known" if field == "model" else "")
            yield f"| {field}: {name} | `{found.digest}` | {licence} |"
    for field in DATA_FIELDS:
        if (file := getattr(job, field, None)) is not None:
            yield f"| {field} records | `{file.sha256}` | {file.licence or 'not known'} |"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
