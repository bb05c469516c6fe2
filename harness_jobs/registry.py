"""What Dagster has to be told of the files: experiments and studies become partitions, the versions
of shared inputs are reported.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import dagster as dg

from harness_assets.graph import (
    DATA_SOURCES,
    EXPERIMENTS,
    PROMPT_TEMPLATES,
    STUDIES,
    section_key,
)
from harness_jobs.recovery import close_killed_runs
from reward_harness.hashing import digest_tree
from reward_harness.locking import file_lock
from reward_harness.spec import ExperimentSpec
from reward_harness.workspace import Workspace

DATA_VERSION_TAG = "dagster/data_version"
LOCK_NAME = ".opening.lock"


@contextmanager
def registered_instance(
    workspace: Workspace, experiments: Iterable[str], studies: Iterable[str] = ()
) -> Iterator[dg.DagsterInstance]:
    """The Dagster instance, told of these experiments, studies and of the shared inputs' versions.

    One process at a time: Dagster creates its tables, and adds partitions, without a lock, so that
    of two first launches at once one would fail.
    """
    with file_lock(workspace.dagster_home / LOCK_NAME):
        instance = dg.DagsterInstance.get()
        close_killed_runs(instance)
        for key in experiments:
            add_partition(instance, EXPERIMENTS, key)
        for name in studies:
            add_partition(instance, STUDIES, name)
        for change in changed_shared_inputs(instance, workspace):
            instance.report_runless_asset_event(change)
    with instance:
        yield instance


def add_partition(
    instance: dg.DagsterInstance, partitions: dg.DynamicPartitionsDefinition, key: str
) -> None:
    """Register an experiment or study as a partition; nothing happens if it is one."""
    name = str(partitions.name)
    if not instance.has_dynamic_partition(name, key):
        instance.add_dynamic_partitions(name, [key])


def recorded_version(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str | None = None
) -> str | None:
    """Data version of the newest materialization of this asset or partition, or None."""
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key, asset_partitions=[partition] if partition else None),
        limit=1,
    ).records
    materialization = found[0].asset_materialization if found else None
    return (materialization.tags or {}).get(DATA_VERSION_TAG) if materialization else None


def sections_changed(instance: dg.DagsterInstance, spec: ExperimentSpec) -> bool:
    """Whether the experiment's file says something other than Dagster has recorded of it."""
    return any(
        recorded_version(instance, section_key(name), spec.key) != digest
        for name, digest in spec.section_digests().items()
    )


def changed_shared_inputs(
    instance: dg.DagsterInstance, workspace: Workspace
) -> Iterator[dg.AssetMaterialization]:
    """A materialization event for each shared input (templates, sources) whose content changed.

    External assets: an event reports that someone changed them, no run of this project does.
    """
    current = {
        PROMPT_TEMPLATES: digest_tree(workspace.prompts),
        DATA_SOURCES: digest_tree(workspace.sources),
    }
    for key, digest in current.items():
        if recorded_version(instance, key) != digest:
            yield dg.AssetMaterialization(asset_key=key, tags={DATA_VERSION_TAG: digest})
