"""The code location: assets, checks, jobs, schedules, sensors and resources, assembled when
Dagster asks.

``dg dev -w workspace.yaml`` serves it, ``dg check defs`` loads it. Importing this module imports
neither torch nor any trainer; stages import what they need when they run.
"""

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Everything Dagster knows of this project."""
    from harness_assets import (
        checks,
        datasets,
        evaluations,
        external,
        policies,
        reward_models,
        rubrics,
        serving,
    )
    from harness_jobs import jobs, schedules, sensors
    from harness_resources.environments import default_executor, resources

    modules = [datasets, rubrics, reward_models, serving, policies, evaluations, external]
    return dg.Definitions(
        assets=dg.load_assets_from_modules(modules, include_specs=True),
        asset_checks=dg.load_asset_checks_from_modules([checks]),
        jobs=jobs.JOBS,
        schedules=schedules.SCHEDULES,
        sensors=sensors.SENSORS,
        resources=resources(),
        executor=default_executor(),
    )


def job_named(name: str) -> dg.JobDefinition:
    """One job of this location, for ``dg.reconstructable``."""
    return defs().resolve_job_def(name)
