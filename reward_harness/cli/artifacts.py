"""``harness stage``, ``harness reproduce``: made again; ``harness export``: made for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from reward_harness.errors import ArtifactError
from reward_harness.progress import Progress
from reward_harness.workspace import Workspace

console = Console()


def stage(
    experiment: Annotated[str, typer.Argument(help="experiment key")],
    name: Annotated[str, typer.Argument(help="stage")],
    spec_digest: Annotated[str, typer.Option(help="the manifest's spec_digest")],
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="stage=digest; repeat")
    ] = None,
    again: Annotated[str, typer.Option(help="name of the repetition, for a re-search")] = "",
    output: Annotated[
        Path | None, typer.Option(help="an empty or new folder for the files")
    ] = None,
) -> None:
    """Make one stage from recorded spec and inputs, outside the store: what a manifest's
    `reproduce` says.
    """
    from reward_harness.stages import STAGES, Services
    from reward_harness.stages.reproduce import build_again

    if name not in STAGES:
        raise ArtifactError(f"no stage {name!r}", expected=", ".join(STAGES))
    pairs = dict(item.split("=", 1) for item in inputs or [])
    folder = output or Path(f"{experiment}-{name}")
    if folder.exists() and any(folder.iterdir()):
        raise ArtifactError(
            "output folder is not empty", where=str(folder), fix="Name a new one with --output."
        )
    if folder.exists():
        folder.rmdir()
    services = Services(progress=_show, again=again)
    build_again(Workspace.discover(), experiment, name, spec_digest, pairs, folder, services)
    console.print(f"wrote {folder}")


def reproduce(
    artifact: Annotated[
        str, typer.Argument(help="experiment/stage/digest (or a unique prefix of the digest)")
    ],
) -> None:
    """Make an artifact again from its recorded inputs and compare: content if it can be equal,
    else metrics.
    """
    from reward_harness.stages import Services
    from reward_harness.stages.reproduce import reproduce as again

    result = again(Workspace.discover(), artifact, Services(progress=_show))
    if result.same_content:
        console.print(f"[green]same content[/green]: {result.digest}")
        return
    outside = result.outside_interval()
    console.print(f"content differs: {result.digest[:16]} instead of {result.artifact.digest[:16]}")
    if outside:
        console.print(f"[red]metrics outside their published interval[/red]: {', '.join(outside)}")
        raise typer.Exit(1)
    console.print(
        f"[green]all {len(result.metrics)} metrics within their published intervals[/green]"
    )


def export(
    artifact: Annotated[str, typer.Argument(help="experiment/stage/digest (or a unique prefix)")],
    to: Annotated[Path, typer.Option(help="an empty or new folder")],
    adapter: Annotated[
        bool, typer.Option("--adapter", help="the LoRA adapter, in PEFT's layout")
    ] = False,
) -> None:
    """Copy a checkpoint in a layout that transformers, PEFT and vLLM load: a policy as it is, a
    decoder reward model as a sequence classifier.
    """
    from reward_harness.models.silence import quiet_libraries
    from reward_harness.stages.reproduce import parse_artifact_id
    from reward_harness.store import ArtifactStore
    from reward_harness.training.export import export_checkpoint

    quiet_libraries()
    found = ArtifactStore(Workspace.discover().runs).load(*parse_artifact_id(artifact))
    found.verify()
    console.print(export_checkpoint(found.path, to, adapter=adapter), soft_wrap=True)


def _show(event: Progress) -> None:
    numbers = " ".join(f"{name} {value:.4g}" for name, value in event.numbers.items())
    console.print(
        f"[dim]{event.stage} {event.step}/{event.total} {event.message} {numbers}".rstrip()
    )
