"""The stages of the graph as data, and the one way to make a stage's artifact.

``STAGES`` is the single place that says what a stage reads: its input stages, spec sections and
whether prompt templates decide its result. The Dagster assets, the planner, the command line and
``harness reproduce`` all derive from it. The functions that build artifacts live in one module for
each group and are imported only when called.
"""

from reward_harness.stages.make import Services, StageRun, make, plan_recipe, stage_status
from reward_harness.stages.table import STAGES, Stage, wanted_stages

__all__ = [
    "STAGES",
    "Services",
    "Stage",
    "StageRun",
    "make",
    "plan_recipe",
    "stage_status",
    "wanted_stages",
]
