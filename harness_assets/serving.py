"""Serving assets: the deployment that policies are trained against."""

from collections.abc import Iterator

import dagster as dg

from harness_assets.graph import stage_asset
from harness_assets.materialize import materialize
from harness_resources.store import Store


@dg.asset(**stage_asset("rm_deployment", kinds={"fastapi"}))
def rm_deployment(
    context: dg.AssetExecutionContext, store: Store
) -> Iterator[dg.MaterializeResult]:
    """The artifact behind the target's pointer, with probe items whose scores the server must
    reproduce.
    """
    yield from materialize(context, store)
