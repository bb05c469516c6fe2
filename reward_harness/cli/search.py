"""``harness search``: rubrics for a file of ranked prompts.

The flags that set the search come from ``rubrics.search.flags``; those below say what to read,
where to write and how to go on.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from reward_harness.rubrics.search.flags import FLAGS, GROUPS, config_of, setting_of
from reward_harness.workspace import Workspace

if TYPE_CHECKING:
    from reward_harness.rubrics.search.command import SearchReport
    from reward_harness.rubrics.search.holdout import Holdout
    from reward_harness.rubrics.search.opening import SearchRequest
    from reward_harness.rubrics.search.session import SearchSession

FILES, RESUME, SHOW = "Data and output", "Checkpoints", "Display"


DATASET = typer.Option(help="ranked prompts, JSONL or JSON", rich_help_panel=FILES)
OUTPUT = typer.Option(help="JSON file to write; records lie beside it", rich_help_panel=FILES)
SEED = typer.Option(help="of all random choices", rich_help_panel=FILES)
HOLDOUT = typer.Option(
    help="share of the prompts (scope shared) or of each prompt's candidates that choose and "
    "measure the rubric, unseen by the search",
    rich_help_panel=FILES,
)
STORE = typer.Option(
    help="SQLite file of all paid answers; default: the project's", rich_help_panel=FILES
)
COMPARE = typer.Option(
    help="an earlier output: say whether the best rubrics are equal, exit 1 if not",
    rich_help_panel=FILES,
)
FOLDER = typer.Option(
    help="folder of the checkpoint; default: checkpoints/ beside the output",
    rich_help_panel=RESUME,
)
EVERY = typer.Option(help="save after every generation", rich_help_panel=RESUME)
INTERVAL = typer.Option(
    help="without that: save at the first generation's end after so many seconds; 0 never",
    rich_help_panel=RESUME,
)
RESUME_FROM = typer.Option(help="go on from a checkpoint (file or folder)", rich_help_panel=RESUME)
ANYWAY = typer.Option(
    "--resume-anyway",
    help="even if it was made with other data or settings",
    rich_help_panel=RESUME,
)
QUIET = typer.Option("--quiet", help="plain lines, no bar", rich_help_panel=SHOW)
VERBOSE = typer.Option("--verbose", "-v", help="also say what is used", rich_help_panel=SHOW)


def search(
    ctx: typer.Context,
    dataset: Annotated[Path, DATASET],
    output: Annotated[Path, OUTPUT],
    seed: Annotated[int, SEED] = 7,
    holdout_fraction: Annotated[float, HOLDOUT] = 0.2,
    verdict_store: Annotated[Path | None, STORE] = None,
    compare_with: Annotated[Path | None, COMPARE] = None,
    checkpoint_dir: Annotated[Path | None, FOLDER] = None,
    checkpoint_every_generation: Annotated[bool, EVERY] = True,
    checkpoint_interval_seconds: Annotated[float, INTERVAL] = 0.0,
    resume_from: Annotated[Path | None, RESUME_FROM] = None,
    resume_anyway: Annotated[bool, ANYWAY] = False,
    quiet: Annotated[bool, QUIET] = False,
    verbose: Annotated[bool, VERBOSE] = False,
    **settings: Any,
) -> None:
    """Find the rubric whose scores order the responses of ranked prompts as their ranks, or a
    judge, do. Also run by bare flags: python -m reward_harness.cli --dataset … --output …
    """
    from reward_harness.rubrics.search.opening import Checkpoints, SearchRequest
    from reward_harness.rubrics.search.run_records import Invocation

    request = SearchRequest(
        dataset=dataset.resolve(),
        output=output.resolve(),
        config=config_of(settings),
        invocation=Invocation(tuple(sys.argv[1:]), normalized_argv(ctx)),
        seed=seed,
        holdout_fraction=holdout_fraction,
        verdict_store=verdict_store,
        checkpoints=Checkpoints(
            checkpoint_dir,
            checkpoint_every_generation,
            checkpoint_interval_seconds,
            resume_from,
            resume_anyway,
        ),
    )
    _run(request, quiet=quiet, verbose=verbose)
    if compare_with is not None:
        _compare(compare_with, request.output)


def _run(request: SearchRequest, *, quiet: bool, verbose: bool) -> None:
    """Search, showing how it goes, and say what came of it."""
    from reward_harness.cli.search_display import shown
    from reward_harness.rubrics.search.command import run_search

    console = Console(stderr=True)

    def opened(session: SearchSession, holdout: Holdout) -> None:
        if verbose:
            console.print(
                f"backend {session.backend}, {len(holdout.searched)} prompts to search on, "
                f"{len(holdout.validation)} to choose on, {len(holdout.test)} to measure on, "
                f"{len(holdout.held)} with held-out candidates",
                highlight=False,
            )

    with shown(console, plain=quiet) as sink:
        report = run_search(request, Workspace.discover(), sink, opened)
    for line in _told(report):
        typer.echo(line)


def _told(report: SearchReport) -> list[str]:
    """The end of a run, in lines."""
    found, first, gain = (
        report.heldout.agreement,
        report.heldout.initial,
        report.heldout.difference,
    )
    lines = [f"stopped: {report.stopped}", f"chosen {report.heldout.selected_by}"]
    if found is not None:
        text = f"held-out agreement {found.value:.3f} ({found.ci_low:.3f} to {found.ci_high:.3f})"
        if first is not None and gain is not None:
            text += f", initial rubric {first.value:.3f}, gain {gain.value:+.3f} "
            text += f"({gain.ci_low:+.3f} to {gain.ci_high:+.3f})"
        lines.append(f"{text}, {found.prompts} prompts")
    return [*lines, f"wrote {report.output}", f"again: {report.script}"]


def _compare(first: Path, second: Path) -> None:
    from reward_harness.rubrics.search.command import different_rubrics

    names = different_rubrics(first, second)
    if names:
        shown = ", ".join(names[:3])
        typer.echo(f"different: the best rubrics of {len(names)} prompts differ ({shown} …)")
        raise typer.Exit(1)
    typer.echo(f"equal: the best rubrics are those of {first}")


def normalized_argv(ctx: typer.Context) -> tuple[str, ...]:
    """The command with every flag's effective value, paths absolute."""
    words = ["search"]
    for param in ctx.command.params:
        value = ctx.params.get(param.name or "")
        name = max(param.opts, key=len)
        if isinstance(value, bool):
            opposite = param.secondary_opts[:1]
            words += [name] if value else opposite
        elif value is not None and name.startswith("--"):
            is_path = isinstance(value, Path) or name == "--preset-rubrics"
            words.append(f"{name}={Path(value).resolve() if is_path else value}")
    return tuple(words)


def _with_settings() -> inspect.Signature:
    """The signature that typer reads: the parameters above and one for each setting's flag."""
    own = inspect.signature(search, eval_str=True)
    fixed = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    panels = {flag.name: group for group, flags in GROUPS.items() for flag in flags}
    settings: list[inspect.Parameter] = []
    for flag in FLAGS:
        annotation, default = setting_of(flag)
        option = typer.Option(
            flag.declaration,
            help=flag.help,
            envvar=flag.variable,
            rich_help_panel=panels[flag.name],
        )
        settings.append(
            inspect.Parameter(
                flag.key,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=Annotated[annotation, option],
            )
        )
    keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in fixed]
    return inspect.Signature([*keywords, *settings], return_annotation=None)


search.__signature__ = _with_settings()  # pyright: ignore[reportFunctionMemberAccess]
