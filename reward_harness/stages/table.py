"""What each stage is called, reads and means: the graph as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reward_harness.spec import ExperimentSpec


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the graph.

    Attributes:
        name: the stage's and asset's name.
        group: the asset group, and the first part of the asset key.
        builder: ``module:function`` that writes the artifact; called with (run, folder).
        sections: spec sections it reads (names in ``spec.SECTIONS``).
        inputs: stages it may read; those an experiment has switched off are left out.
        code_version: bumped by hand when the meaning of the result changes.
        templates: whether the prompt templates under ``prompts/`` decide its result.
        wanted: whether an experiment has this stage.
        settle: ``module:function`` called with (run, artifact) each time the artifact was made or
        reused, for what lies outside it.
        uses: of ``inputs``, the ones this experiment's spec really reads (default: all that are
        wanted).
    """

    name: str
    group: str
    builder: str
    sections: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    code_version: str = "1"
    templates: bool = False
    settle: str | None = None
    wanted: Callable[[ExperimentSpec], bool] = lambda spec: True
    uses: Callable[[ExperimentSpec], tuple[str, ...]] | None = None

    def inputs_of(self, spec: ExperimentSpec) -> tuple[str, ...]:
        """The input stages that this experiment's artifact is really made from."""
        named = self.uses(spec) if self.uses else self.inputs
        return tuple(name for name in named if STAGES[name].wanted(spec))


def _dataset(name: str, field: str) -> Stage:
    return Stage(
        name=name,
        group="datasets",
        builder=f"reward_harness.stages.datasets:{name}",
        sections=("dataset", f"dataset_{field}"),
        wanted=lambda spec: getattr(spec.dataset, field) is not None,
    )


def _policy(name: str, inputs: tuple[str, ...]) -> Stage:
    method = name.removesuffix("_checkpoint")
    return Stage(
        name=name,
        group="policies",
        builder=f"reward_harness.stages.training:{name}",
        sections=("policy", f"policy_{method}", "compute"),
        inputs=inputs,
        wanted=lambda spec: getattr(spec.policy, method) is not None,
    )


def _served_reward(spec: ExperimentSpec) -> tuple[str, ...]:
    made = {"rubric": "best_rubric", "classifier": "bt_reward_model"}[spec.reward_model.serve]
    return (made, "preference_pairs", "ranked_prompts")


_SECOND_OPINION = {"rubric": "bt_reward_model", "classifier": "best_rubric"}
"""By the served reward, the one that judges policies beside it: nothing was trained on that one."""

_CHECKPOINTS = ("sft_checkpoint", "dpo_checkpoint", "grpo_checkpoint", "ppo_checkpoint")

_ALL = (
    _dataset("preference_pairs", "preferences"),
    _dataset("ranked_prompts", "ranked"),
    _dataset("sft_examples", "sft"),
    _dataset("rl_prompts", "rl_prompts"),
    _dataset("reasoning_steps", "reasoning"),
    Stage(
        name="rubric_population",
        group="rubrics",
        builder="reward_harness.stages.rubrics:rubric_population",
        sections=("search",),
        inputs=("ranked_prompts",),
        templates=True,
        wanted=lambda spec: spec.dataset.ranked is not None,
    ),
    Stage(
        name="best_rubric",
        group="rubrics",
        builder="reward_harness.stages.rubrics:best_rubric",
        sections=("search",),
        inputs=("rubric_population", "ranked_prompts"),
        templates=True,
        wanted=lambda spec: spec.dataset.ranked is not None,
    ),
    Stage(
        name="bt_reward_model",
        group="reward_models",
        builder="reward_harness.stages.training:bt_reward_model",
        sections=("reward_model_bt", "compute"),
        inputs=("preference_pairs",),
        wanted=lambda spec: spec.reward_model.bt is not None,
    ),
    Stage(
        name="rm_artifact",
        group="reward_models",
        builder="reward_harness.stages.serving:rm_artifact",
        sections=("reward_model", "search"),
        inputs=("best_rubric", "bt_reward_model", "preference_pairs", "ranked_prompts"),
        templates=True,
        uses=_served_reward,
    ),
    Stage(
        name="rm_deployment",
        group="serving",
        builder="reward_harness.stages.serving:rm_deployment",
        settle="reward_harness.stages.serving:put_in_force",
        sections=("reward_model",),
        inputs=("rm_artifact",),
    ),
    _policy("sft_checkpoint", ("sft_examples",)),
    _policy("dpo_checkpoint", ("sft_checkpoint", "preference_pairs")),
    _policy("grpo_checkpoint", ("sft_checkpoint", "rl_prompts", "rm_deployment")),
    _policy("ppo_checkpoint", ("sft_checkpoint", "rl_prompts", "rm_deployment")),
    Stage(
        name="rm_report",
        group="evaluations",
        builder="reward_harness.stages.evaluations:rm_report",
        sections=("evaluation",),
        inputs=(
            "preference_pairs",
            "ranked_prompts",
            "rm_artifact",
            "best_rubric",
            "bt_reward_model",
        ),
    ),
    Stage(
        name="policy_report",
        group="evaluations",
        builder="reward_harness.stages.evaluations:policy_report",
        sections=("evaluation", "compute"),
        inputs=("rl_prompts", "rm_deployment", *_SECOND_OPINION.values(), *_CHECKPOINTS),
        uses=lambda spec: (
            "rl_prompts",
            "rm_deployment",
            _SECOND_OPINION[spec.reward_model.serve],
            *_CHECKPOINTS,
        ),
        wanted=lambda spec: spec.policy.sft is not None and spec.dataset.rl_prompts is not None,
    ),
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in _ALL}
"""All stages in an order in which each comes after its inputs."""


def wanted_stages(spec: ExperimentSpec) -> list[Stage]:
    """The stages that this experiment has, inputs first."""
    return [stage for stage in STAGES.values() if stage.wanted(spec)]
