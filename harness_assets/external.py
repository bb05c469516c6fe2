"""What other projects' trainers recorded with ``harness runs``: external assets, one partition a
run or evaluation. No run of this project makes them; a sensor reports them.
"""

import dagster as dg

from harness_assets.graph import OWNERS, stage_key

TRAINING_RUNS = dg.DynamicPartitionsDefinition(name="training_run")
EVAL_RUNS = dg.DynamicPartitionsDefinition(name="eval_run")
TRAINING_RUN = dg.AssetKey(["policies", "external_training_run"])
CHECKPOINT = dg.AssetKey(["policies", "external_checkpoint"])
EVAL_REPORT = dg.AssetKey(["evaluations", "external_eval_report"])


def _after(key: dg.AssetKey) -> dg.AssetDep:
    """Any partition may follow from any: which from which is in the records."""
    return dg.AssetDep(key, partition_mapping=dg.AllPartitionMapping())


external_training_run = dg.AssetSpec(
    TRAINING_RUN,
    deps=[_after(stage_key("rm_deployment"))],
    group_name="policies",
    description="A training run of another project on a served reward, as declared before it.",
    partitions_def=TRAINING_RUNS,
    owners=OWNERS,
    kinds={"json"},
)
external_checkpoint = dg.AssetSpec(
    CHECKPOINT,
    deps=[TRAINING_RUN],
    group_name="policies",
    description="What a run of another project made; a failed or canceled one is an observation.",
    partitions_def=TRAINING_RUNS,
    owners=OWNERS,
    kinds={"json"},
)
external_eval_report = dg.AssetSpec(
    EVAL_REPORT,
    deps=[_after(CHECKPOINT)],
    group_name="evaluations",
    description="Measurements of an external checkpoint, as another project reported them.",
    partitions_def=EVAL_RUNS,
    owners=OWNERS,
    kinds={"json"},
)
