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
        uses: of ``inputs``, the ones this experiment's spec really reads (default: all wanted).
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

    @property
    def shared(self) -> bool:
        """Whether any experiment with an equal recipe may take its artifacts. A deployment names
        its experiment, so no recipe that has one among its inputs is another experiment's too.
        """
        return self.name != "rm_artifact" and self.group not in ("serving", "evaluations")

    @property
    def from_source(self) -> bool:
        """Whether it reads a dataset source (``data/sources``)."""
        return self.builder.startswith("reward_harness.stages.datasets:")

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
        code_version="2",
        wanted=lambda spec: getattr(spec.dataset, field) is not None,
    )


def _policy(
    name: str,
    inputs: tuple[str, ...],
    uses: Callable[[ExperimentSpec], tuple[str, ...]] | None = None,
) -> Stage:
    method = name.removesuffix("_checkpoint")
    return Stage(
        name=name,
        group="policies",
        builder=f"reward_harness.stages.training:{name}",
        code_version="2" if method in ("grpo", "iterative_dpo") else "1",
        sections=("policy", f"policy_{method}", "compute"),
        inputs=inputs,
        uses=uses,
        wanted=lambda spec: getattr(spec.policy, method) is not None,
    )


def _from_models(
    name: str,
    field: str,
    inputs: tuple[str, ...],
    *,
    module: str = "generated",
    also: tuple[str, ...] = (),
    uses: Callable[[ExperimentSpec], tuple[str, ...]] | None = None,
) -> Stage:
    """A dataset that models of the experiment make; ``also`` names further spec sections."""
    return Stage(
        name=name,
        group="datasets",
        builder=f"reward_harness.stages.{module}:{name}",
        code_version="2",
        sections=("dataset", f"dataset_{field}", *also),
        inputs=inputs,
        templates="search" in also,
        uses=uses,
        wanted=lambda spec: getattr(spec.dataset, field) is not None,
    )


def _reward_model(
    name: str,
    field: str,
    inputs: tuple[str, ...],
    *,
    module: str = "reward_models",
    also: tuple[str, ...] = (),
    uses: Callable[[ExperimentSpec], tuple[str, ...]] | None = None,
) -> Stage:
    return Stage(
        name=name,
        group="reward_models",
        builder=f"reward_harness.stages.{module}:{name}",
        code_version="2",
        sections=(f"reward_model_{field}", *also, "compute"),
        inputs=inputs,
        templates="search" in also,
        uses=uses,
        wanted=lambda spec: getattr(spec.reward_model, field) is not None,
    )


def _pairs_for(field: str) -> Callable[[ExperimentSpec], tuple[str, ...]]:
    """What is held out, the pairs that this section's model learns, the policy it starts from."""

    def named(spec: ExperimentSpec) -> tuple[str, ...]:
        section, held = getattr(spec.reward_model, field), held_out_stage(field)
        pairs = section.pairs if section and held == "preference_pairs" else held
        return (held, pairs, *(("sft_checkpoint",) if section and section.init != "base" else ()))

    return named


def _sft_inputs(spec: ExperimentSpec) -> tuple[str, ...]:
    return (spec.policy.sft.examples,) if spec.policy.sft else ()


def _sampled_policy(spec: ExperimentSpec) -> tuple[str, ...]:
    section = spec.dataset.rl_samples
    return (f"{section.policy}_checkpoint", "rl_prompts") if section else ()


SERVED_FROM = {
    "rubric": "best_rubric",
    "classifier": "bt_reward_model",
    "rubric_model": "rubric_reward_model",
    "ensemble": "reward_ensemble",
    "process": "process_reward_model",
    "distilled": "classifier_reward_model",
    "composite": "bt_reward_model",
    "answers": "rl_prompts",
}
"""By ``reward_model.serve``, the stage whose result is packaged."""

HELD_OUT_FROM = {
    "rubric": "ranked_prompts",
    "process": "reasoning_steps",
    "distilled": "distilled_preferences",
}
"""Whose test split a served reward is gated on, where it is not ``preference_pairs``."""


def held_out_stage(serve: str) -> str:
    """The dataset stage whose test split gates the served reward."""
    return HELD_OUT_FROM.get(serve, "preference_pairs")


def _served_reward(spec: ExperimentSpec) -> tuple[str, ...]:
    kind = spec.reward_model.serve
    names = (SERVED_FROM[kind], "preference_pairs", "ranked_prompts", held_out_stage(kind))
    return tuple(dict.fromkeys(names))


def _second_opinion(spec: ExperimentSpec) -> str:
    """The reward that judges policies beside the served one: nothing was trained on that one."""
    from_rubric = spec.reward_model.serve in ("rubric", "rubric_model", "distilled")
    return "bt_reward_model" if from_rubric else "best_rubric"


_PAIRS = ("preference_pairs", "ai_preferences", "sft_checkpoint")
_DISTILLED = ("distilled_preferences", "sft_checkpoint")
_CHECKPOINTS = tuple(f"{m}_checkpoint" for m in ("sft", "dpo", "grpo", "ppo", "iterative_dpo"))

_ALL = (
    _dataset("preference_pairs", "preferences"),
    _dataset("ranked_prompts", "ranked"),
    _dataset("sft_examples", "sft"),
    _dataset("rl_prompts", "rl_prompts"),
    _dataset("reasoning_steps", "reasoning"),
    _from_models(
        "synthetic_sft", "synthetic_sft", ("rl_prompts",), also=("policy", "search", "compute")
    ),
    _policy("sft_checkpoint", ("sft_examples", "synthetic_sft"), _sft_inputs),
    _policy("dpo_checkpoint", ("sft_checkpoint", "preference_pairs")),
    _from_models(
        "ai_preferences",
        "ai_preferences",
        ("sft_checkpoint", "rl_prompts"),
        also=("search", "compute"),
    ),
    _from_models(
        "rl_samples",
        "rl_samples",
        ("sft_checkpoint", "dpo_checkpoint", "rl_prompts"),
        module="distillation",
        also=("compute",),
        uses=_sampled_policy,
    ),
    Stage(
        name="rubric_population",
        group="rubrics",
        builder="reward_harness.stages.rubrics:rubric_population",
        code_version="2",
        sections=("search",),
        inputs=("ranked_prompts",),
        templates=True,
        wanted=lambda spec: spec.dataset.ranked is not None,
    ),
    Stage(
        name="best_rubric",
        group="rubrics",
        builder="reward_harness.stages.rubrics:best_rubric",
        code_version="2",
        sections=("search",),
        inputs=("rubric_population", "ranked_prompts"),
        templates=True,
        wanted=lambda spec: spec.dataset.ranked is not None,
    ),
    _from_models(
        "score_dataset",
        "scores",
        ("rl_samples", "best_rubric"),
        module="distillation",
        also=("search",),
    ),
    _from_models("distilled_preferences", "distilled", ("score_dataset",), module="distillation"),
    _reward_model("bt_reward_model", "bt", _PAIRS, module="training", uses=_pairs_for("bt")),
    _reward_model(
        "rubric_reward_model",
        "rubric",
        ("best_rubric", "preference_pairs", "ranked_prompts", "bt_reward_model"),
        also=("search",),
    ),
    _reward_model("reward_ensemble", "ensemble", _PAIRS, uses=_pairs_for("ensemble")),
    _reward_model("process_reward_model", "process", ("reasoning_steps",)),
    _reward_model("classifier_reward_model", "distilled", _DISTILLED, uses=_pairs_for("distilled")),
    Stage(
        name="rm_artifact",
        group="reward_models",
        builder="reward_harness.stages.serving:rm_artifact",
        sections=("reward_model", "search"),
        inputs=(
            *dict.fromkeys(SERVED_FROM.values()),
            "preference_pairs",
            "ranked_prompts",
            *(name for name in HELD_OUT_FROM.values() if name != "ranked_prompts"),
        ),
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
    _policy("grpo_checkpoint", ("sft_checkpoint", "rl_prompts", "rm_deployment")),
    _policy("ppo_checkpoint", ("sft_checkpoint", "rl_prompts", "rm_deployment")),
    _policy(
        "iterative_dpo_checkpoint",
        ("sft_checkpoint", "rl_prompts", "rm_deployment", "best_rubric", "bt_reward_model"),
        lambda spec: ("sft_checkpoint", "rl_prompts", "rm_deployment", _second_opinion(spec)),
    ),
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
        inputs=("rl_prompts", "rm_deployment", "bt_reward_model", "best_rubric", *_CHECKPOINTS),
        uses=lambda spec: ("rl_prompts", "rm_deployment", _second_opinion(spec), *_CHECKPOINTS),
        wanted=lambda spec: spec.policy.sft is not None and spec.dataset.rl_prompts is not None,
    ),
    Stage(
        name="hacking_report",
        group="evaluations",
        builder="reward_harness.stages.hacking:hacking_report",
        sections=(),
        inputs=("grpo_checkpoint", "ppo_checkpoint"),
        wanted=lambda spec: spec.policy.grpo is not None or spec.policy.ppo is not None,
    ),
    Stage(
        name="signal_report",
        group="evaluations",
        builder="reward_harness.stages.designs:signal_report",
        sections=("evaluation",),
        inputs=("ranked_prompts", "best_rubric", "rm_artifact"),
        uses=lambda spec: (
            "ranked_prompts",
            "best_rubric",
            *(("rm_artifact",) if spec.reward_model.serve == "rubric" else ()),
        ),
        wanted=lambda spec: spec.dataset.ranked is not None,
    ),
    Stage(
        name="weights_report",
        group="evaluations",
        builder="reward_harness.stages.designs:weights_report",
        sections=("evaluation",),
        inputs=("ranked_prompts", "bt_reward_model"),
        wanted=lambda spec: spec.dataset.ranked is not None and spec.reward_model.bt is not None,
    ),
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in _ALL}
"""All stages in an order in which each comes after its inputs."""


def wanted_stages(spec: ExperimentSpec) -> list[Stage]:
    """The stages that this experiment has, inputs first."""
    return [stage for stage in STAGES.values() if stage.wanted(spec)]
