"""Impact, scored-by, diff and leaderboard on artifacts that a store really published."""

from __future__ import annotations

import json

import pytest

from reward_harness.errors import ArtifactError
from reward_harness.lineage.difference import difference_of, fields_that_differ, sections_of
from reward_harness.lineage.impact import impact_of
from reward_harness.lineage.ranking import ranking_of
from reward_harness.lineage.scored_by import scorers_of
from tests.lineage.conftest import number


@pytest.fixture
def chain(publish):
    """rl_prompts → ppo_checkpoint → policy_report → leaderboard of another experiment."""
    made = {"rl_prompts": publish("exp", "rl_prompts")}
    for stage, source in (("ppo_checkpoint", "rl_prompts"), ("policy_report", "ppo_checkpoint")):
        made[stage] = publish("exp", stage, {source: made[source]})
    made["leaderboard"] = publish(
        "all", "leaderboard", {"exp/policy_report": made["policy_report"]}
    )
    return made


def states(impact) -> dict[str, bool]:
    return {found.artifact.stage: found.stale for found in impact.affected}


def test_impact_reaches_everything_downstream_also_in_other_experiments(chain, ledger):
    with ledger() as found:
        impact = impact_of(found, "exp/rl_prompts")
    assert states(impact) == {"ppo_checkpoint": False, "policy_report": False, "leaderboard": False}
    assert impact.seconds == pytest.approx(4.5)
    with ledger() as found:
        assert states(impact_of(found, "exp/policy_report")) == {"leaderboard": False}


def test_what_was_made_from_a_replaced_artifact_is_stale(chain, ledger, publish):
    newer = publish("exp", "rl_prompts", content="new")
    with ledger() as found:
        old = impact_of(found, f"exp/rl_prompts/{chain['rl_prompts'].digest[:8]}")
        new = impact_of(found, "exp/rl_prompts")
    assert old.current == ()
    assert states(old) == {"ppo_checkpoint": True, "policy_report": True, "leaderboard": True}
    assert new.artifacts[0].digest == newer.digest and new.affected == ()


def test_a_digest_alone_means_this_content_wherever_it_is(chain, ledger, publish):
    again = publish("copy", "rl_prompts")
    publish("copy", "dpo_checkpoint", {"rl_prompts": again})
    with ledger() as found:
        impact = impact_of(found, again.digest[:10])
    assert {artifact.experiment for artifact in impact.artifacts} == {"exp", "copy"}
    assert "dpo_checkpoint" in states(impact) and "ppo_checkpoint" in states(impact)


@pytest.mark.parametrize("name", ["exp/nothing", "abcdef99", "what?", "a/b/c/d"])
def test_a_name_that_fits_nothing_is_told(name, chain, ledger):
    with ledger() as found, pytest.raises(ArtifactError, match="artifact"):
        impact_of(found, name)


def reward(publish, content: str):
    rubric = {"criteria": [{"criterion_id": "c1", "text": f"Says {content}."}]}
    body = {"artifact_id": f"rm-{content}", "kind": "rubric", "rubric": {"shared": rubric}}
    files = {"artifact.json": json.dumps(body)}
    source = publish("exp", "best_rubric", content=content)
    return publish("exp", "rm_artifact", {"best_rubric": source}, content=content, files=files)


def test_each_step_is_told_by_the_reward_that_scored_it(publish, ledger, store):
    first, second = reward(publish, "one"), reward(publish, "two")
    digests = [first.digest] * 3 + [second.digest] * 2
    steps = [{"step": n, "reward_digest": d} for n, d in enumerate(digests, start=1)]
    files = {"metrics.jsonl": "".join(json.dumps(row) + "\n" for row in steps)}
    publish("exp", "ppo_checkpoint", files=files)
    with ledger() as found:
        checkpoint, scorers = scorers_of(found, store.root, "exp/ppo_checkpoint")
    assert checkpoint.stage == "ppo_checkpoint"
    assert [(s.first_step, s.last_step, s.artifact_id) for s in scorers] == [
        (1, 3, "rm-one"),
        (4, 5, "rm-two"),
    ]
    assert scorers[0].rubrics == {"shared": ["c1: Says one."]}
    assert [source.stage for source in scorers[1].made_from] == ["best_rubric"]


def test_steps_that_name_no_reward_were_scored_by_that_of_the_job(publish, ledger, store):
    files = {
        "metrics.jsonl": '{"step": 1}\n{"step": 2}\n',
        "job.json": json.dumps({"reward": {"digest": "f" * 64}}),
    }
    publish("exp", "grpo_checkpoint", files=files)
    with ledger() as found:
        _, (scorer,) = scorers_of(found, store.root, "exp/grpo_checkpoint")
    assert (scorer.last_step, scorer.source, scorer.digest) == (2, "job", "f" * 64)
    assert scorer.reward is None and scorer.rubrics == {}


def test_a_checkpoint_without_a_reward_is_an_error(publish, ledger, store):
    publish("exp", "sft_checkpoint", files={"metrics.jsonl": '{"step": 1}\n'})
    with ledger() as found, pytest.raises(ArtifactError, match="no reward scored"):
        scorers_of(found, store.root, "exp/sft_checkpoint")


def two_experiments(publish, *, seed=(7, 7), steps=(3, 3), code=("1", "1"), data=("d", "d")):
    for side, key in enumerate(("a", "b")):
        spec = {"seed": seed[side], "policy": {"ppo": {"max_steps": steps[side]}}, "compute": {}}
        dataset = publish(key, "rl_prompts", content=data[side], snapshot=spec)
        sections = {"policy_ppo": f"{steps[side]} {seed[side]}"}
        inputs = {"rl_prompts": dataset}
        made = publish(
            key,
            "ppo_checkpoint",
            inputs,
            content=f"{seed[side]} {steps[side]} {code[side]} {data[side]}",
            sections=sections,
            snapshot=spec,
            code=code[side],
        )
        publish(key, "policy_report", {"ppo_checkpoint": made}, content=made.digest)


@pytest.mark.parametrize(
    ("changed", "stage", "kind", "what"),
    [
        ({"steps": (3, 9)}, "ppo_checkpoint", "spec", "policy.ppo.max_steps"),
        ({"seed": (7, 8)}, "ppo_checkpoint", "seed", "seed"),
        ({"code": ("1", "2")}, "ppo_checkpoint", "code", "code version"),
        ({"data": ("d", "e")}, "rl_prompts", "data", "content of the source"),
    ],
)
def test_diff_names_the_first_stage_made_differently(publish, store, changed, stage, kind, what):
    two_experiments(publish, **changed)
    found = difference_of(store, "a", "b")
    assert found.origin is not None
    assert (found.origin.stage, found.origin.reasons[0].kind) == (stage, kind)
    assert found.origin.reasons[0].what == what
    report = next(s for s in found.stages if s.stage == "policy_report")
    assert not report.is_origin and [r.kind for r in report.reasons] == ["inputs"]


def test_equal_experiments_do_not_differ(publish, store):
    two_experiments(publish)
    found = difference_of(store, "a", "b")
    assert found.stages == () and found.origin is None
    assert found.equal == ("rl_prompts", "ppo_checkpoint", "policy_report")


def test_two_artifacts_of_one_experiment_are_compared_with_their_own_inputs(publish, store):
    made = []
    for content in ("d", "e"):
        dataset = publish("a", "rl_prompts", content=content)
        made.append(publish("a", "ppo_checkpoint", {"rl_prompts": dataset}, content=content))
    names = [f"a/ppo_checkpoint/{artifact.digest[:12]}" for artifact in made]
    found = difference_of(store, *names)
    assert [(s.stage, s.is_origin) for s in found.stages] == [
        ("rl_prompts", True),
        ("ppo_checkpoint", False),
    ]


def test_a_stage_that_only_one_has_is_told(publish, store):
    publish("a", "rl_prompts")
    publish("b", "rl_prompts")
    publish("b", "dpo_checkpoint")
    found = difference_of(store, "a", "b")
    assert found.origin is not None and found.origin.stage == "dpo_checkpoint"
    assert (found.origin.first, found.origin.reasons[0].kind) == (None, "only in one")


def test_a_stage_reads_its_own_sections_only():
    spec = {
        "reward_model": {"serve": "rubric", "bt": {"epochs": 1}},
        "policy": {"ppo": {"clip": 1}},
    }
    assert sections_of(spec, ("reward_model", "reward_model_bt", "policy_ppo")) == {
        "reward_model": {"serve": "rubric"},
        "reward_model.bt": {"epochs": 1},
        "policy.ppo": {"clip": 1},
    }
    assert fields_that_differ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "d": 2}}) == {
        "a.c": (2, "(absent)"),
        "a.d": ("(absent)", 2),
    }


def test_the_board_is_ordered_by_the_declared_direction_and_leaves_archived_out(
    publish, ledger, project
):
    data = publish("a", "rl_prompts")
    for key, value in (("a", 0.2), ("b", 0.9), ("gone", 0.95)):
        metrics = {"win": number(value), "ece": number(value, direction="min")}
        metrics["kl"] = number(value, direction="none")
        publish(key, "policy_report", {"rl_prompts": data}, content=key, metrics=metrics, gate=True)
    project.experiments.mkdir(parents=True)
    (project.experiments / "gone.yaml").write_text("extends: a\nstatus: archived\n")
    with ledger() as found:
        wins, errors = (
            ranking_of(found, project.experiments, f"policy_report:{name}", 9)
            for name in ("w*", "ece")
        )
        assert ranking_of(found, project.experiments, "policy_report:kl", 9) == []
    assert [row.artifact.experiment for row in wins] == ["b", "a"]
    assert [row.artifact.experiment for row in errors] == ["a", "b"]
    assert wins[0].data == wins[1].data
