"""The one asset body: which stage and experiment, with which services, made or reused, recorded."""

import time
from collections.abc import Iterator

import dagster as dg
from dagster._core.definitions.source_asset import (
    SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION as NO_EVENT,
)

from harness_assets.record import how_made, record
from harness_resources.compute import Compute
from harness_resources.llm import LLM
from harness_resources.store import Store
from reward_harness.errors import BudgetExceeded, EndpointRefused, HarnessError, LLMError
from reward_harness.manifest import TAKEN_FROM
from reward_harness.progress import Progress, ProgressSink
from reward_harness.stages import STAGES, Services, make

LOG_EVERY_S = 5.0
NOT_IN_THIS_EXPERIMENT = dg.Output(None, metadata={NO_EVENT: True})
"""An output without an asset event: nothing is materialized, and what follows is not skipped, as it
would be after a step without output. Dagster makes no event for outputs with this key."""


def materialize(
    context: dg.AssetExecutionContext,
    store: Store,
    *,
    compute: Compute | None = None,
    llm: LLM | None = None,
    again: str = "",
) -> Iterator[dg.MaterializeResult]:
    """Yield the materialization of this asset's partition; for a stage that the experiment does not
    have, an output without an event. What a retry cannot change fails at once: a spent budget, bad
    input. A policy that was stopped for hacking its reward is recorded, then its run fails.
    """
    from reward_harness.stages.training import require_unhacked

    stage = STAGES[context.asset_key.path[-1]]
    spec = store.experiment(context.partition_key)
    if not stage.wanted(spec):
        context.log.warning(
            f"{spec.key} has no {stage.name}: its section is switched off in the experiment file"
        )
        yield NOT_IN_THIS_EXPERIMENT
        return
    services = Services(
        launcher=compute.launcher(context, spec.compute) if compute else None,
        progress=log_progress(context),
        run_id=context.run.run_id,
        search_budget=llm.budget() if llm else {},
        again=again,
    )
    try:
        artifact, reused = make(store.workspace(), spec, stage.name, services)
    except HarnessError as error:
        if isinstance(error, LLMError) and not isinstance(error, BudgetExceeded | EndpointRefused):
            raise
        raise final_failure(error) from error
    if reused or TAKEN_FROM in artifact.manifest.notes:
        context.log.info(how_made(artifact, reused))
    gates = [check.name for check in context.assets_def.check_specs]
    yield record(artifact, reused=reused, gates=gates)
    try:
        require_unhacked(artifact)
    except HarnessError as error:
        raise final_failure(error) from error


def final_failure(error: HarnessError) -> dg.Failure:
    """What fails a step at once: a retry would meet the same error."""
    return dg.Failure(str(error), allow_retries=False)


def log_progress(context: dg.AssetExecutionContext) -> ProgressSink:
    """Progress as log lines, at most one every few seconds, the last step always."""
    last = 0.0
    start = time.monotonic()

    def sink(event: Progress) -> None:
        nonlocal last
        if event.alert:
            context.log.warning(progress_line(event, time.monotonic() - start))
            return
        now = time.monotonic()
        if now - last < LOG_EVERY_S and event.step < event.total:
            return
        last = now
        context.log.info(progress_line(event, now - start))

    return sink


def progress_line(event: Progress, elapsed_s: float) -> str:
    """``sft_checkpoint 5/15 | loss 1.93 | 60 s left``."""
    parts = [f"{event.stage} {event.step}/{event.total}"]
    parts += [event.message] if event.message else []
    parts += [f"{name} {value:.4g}" for name, value in event.numbers.items()]
    if 0 < event.step < event.total:
        parts.append(f"{elapsed_s / event.step * (event.total - event.step):.0f} s left")
    return " | ".join(parts)
