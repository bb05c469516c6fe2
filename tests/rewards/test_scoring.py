import pickle

import pytest

from reward_harness.data.records import Message, prompt_key
from reward_harness.errors import ArtifactError, ScoringError, SpecError
from reward_harness.rewards.base import (
    Abstained,
    BaseRM,
    Failed,
    Item,
    Scored,
    conversation_of,
    only_valid,
)
from reward_harness.rewards.ensemble import EnsembleRM
from reward_harness.rewards.programmatic import ProgrammaticRM
from reward_harness.rewards.rubric import RubricRM
from reward_harness.rubrics.checks import Regex
from reward_harness.rubrics.types import Criterion, Rubric


class Constant(BaseRM):
    """Says the same of every valid conversation."""

    def __init__(self, result):
        self.result = result

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return only_valid(batch, lambda valid: [self.result for _ in valid])


def words(n: int) -> str:
    return " ".join(["word"] * n)


def test_one_conversation_gives_a_float_and_a_list_gives_a_list():
    rm = Constant(Scored(0.25, {"criteria": {"a": 0.25}}))
    chat = conversation_of("2+2?", "4")
    assert rm.score(chat) == 0.25
    assert rm.score([chat, chat]) == [0.25, 0.25]
    assert rm.score([]) == []
    assert rm.score(chat, return_details=True) == (
        0.25,
        {"artifact_id": None, "criteria": {"a": 0.25}},
    )


async def test_ascore_gives_the_same_as_score(named_city: Rubric):
    rm = RubricRM({"__shared__": named_city})
    chat = conversation_of("capital of France?", "Paris")
    assert await rm.ascore(chat) == rm.score(chat) == 1.0
    assert await rm.ascore([chat, chat]) == [1.0, 1.0]
    assert await Constant(Scored(2.0)).ascore(chat) == 2.0


@pytest.mark.parametrize("result", [Abstained("no opinion"), Failed("timeout", retriable=True)])
def test_no_score_is_none_in_a_batch_and_an_error_alone(result):
    rm = Constant(result)
    chat = conversation_of("2+2?", "4")
    assert rm.score_batch([chat]) == [None]
    with pytest.raises(ScoringError, match=r"no opinion|timeout"):
        rm.score(chat)


@pytest.mark.parametrize(
    "conversation",
    [
        [],
        "text",
        [{"role": "user", "content": "hi"}],
        [{"role": "assistant"}],
        [{"role": "robot", "content": "x"}, {"role": "assistant", "content": "y"}],
        [{"role": "assistant", "content": 3}],
    ],
)
def test_a_bad_conversation_fails_alone(conversation):
    good = conversation_of("2+2?", "4")
    results = Constant(Scored(1.0)).score_batch_results([good, conversation, good])
    assert [type(r) for r in results] == [Scored, Failed, Scored]
    assert results[1].code == "invalid_conversation"
    assert results[1].retriable is False


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_a_failure(value: float):
    assert Constant(Scored(value)).score_batch([conversation_of("2+2?", "4")]) == [None]


def test_rubric_weights_and_polarity_make_the_score(named_city: Rubric):
    rm = RubricRM({"__shared__": named_city})
    assert rm.score(conversation_of("capital?", "It is Rome.")) == 1.0
    assert (
        rm.score(conversation_of("capital?", "A city.")) == 0.25
    )  # 2 of 8 weights: no hedge, no orders
    _, details = rm.score(conversation_of("capital?", "A city."), return_details=True)
    assert details["criteria"] == {"names": 0.0, "hedges": 0.0, "orders": 0.0}
    assert details["rubric"] == "__shared__"


def test_a_known_prompt_uses_its_own_rubric_by_id_or_by_content():
    def rubric(word: str) -> Rubric:
        check = Regex(pattern=word)
        return Rubric(
            rubric_id=word,
            criteria=(Criterion(criterion_id="c", text=word, kind="programmatic", check=check),),
        )

    key = prompt_key([Message(role="user", content="first?")])
    rm = RubricRM({"p1": rubric("own"), "__shared__": rubric("shared")}, prompt_ids={key: "p1"})
    by_content = rm.score_items([Item(conversation_of("first?", "own"))])
    by_id = rm.score_items([Item(conversation_of("anything", "own"), "p1")])
    unseen = rm.score_items([Item(conversation_of("other?", "shared"), "p9")])
    assert [r[0].value for r in (by_content, by_id, unseen)] == [1.0, 1.0, 1.0]
    assert rm.score(conversation_of("other?", "own")) == 0.0

    without_shared = RubricRM({"p1": rubric("own")})
    failed, scored = without_shared.score_items(
        [Item(conversation_of("other?", "x"), "p9"), Item(conversation_of("any", "own"), "p1")]
    )
    assert (failed.code, scored.value) == ("prompt_not_found", 1.0)


def test_a_model_graded_rubric_without_a_grader_is_refused():
    rubric = Rubric(rubric_id="r", criteria=(Criterion(criterion_id="c", text="Is it kind?"),))
    with pytest.raises(ArtifactError, match="no grader"):
        RubricRM({"__shared__": rubric})


@pytest.mark.parametrize(
    ("response", "binary", "continuous"),
    [
        (words(150), 1.0, 1.0),
        (words(151), 0.0, 0.5 * (1 - 1 / 150) + 0.5),
        (words(225), 0.0, 0.75),
        (words(400), 0.0, 0.5),
        ("Absolutely! " + words(10), 0.0, 0.5),
        ("That’s a great question. " + words(10), 0.0, 0.5),
        ("I'd be happy to help. " + words(321), 0.0, 0.0),
        ("Of course, yes.", 0.0, 0.5),
        ("Paris is, of course, the capital.", 1.0, 1.0),
    ],
)
def test_programmatic_rules(response: str, binary: float, continuous: float):
    chat = conversation_of("?", response)
    assert ProgrammaticRM("binary").score(chat) == binary
    assert ProgrammaticRM("continuous").score(chat) == pytest.approx(continuous)


def test_ensemble_mean_weights_and_penalty():
    chat = conversation_of("?", "x")
    one, two, three = (Constant(Scored(float(v))) for v in (1, 2, 3))
    assert EnsembleRM([(one, 1), (two, 1), (three, 1)], penalty=0.5).score(chat) == 1.5
    assert EnsembleRM([(one, 3), (three, 1)]).score(chat) == 1.5
    with pytest.raises(SpecError, match="weights"):
        EnsembleRM([(one, 0.0)])


def test_ensemble_has_no_score_where_a_member_has_none():
    chat = conversation_of("?", "x")
    one = Constant(Scored(1.0))
    failed = EnsembleRM([(one, 1), (Constant(Failed("away", retriable=True)), 1)])
    silent = EnsembleRM([(one, 1), (Constant(Abstained("skipped")), 1)])
    assert failed.score_batch_results([chat]) == [Failed("away", retriable=True)]
    assert silent.score_batch_results([chat]) == [Abstained("skipped")]


def test_results_and_rewards_pickle(named_city: Rubric):
    rm = pickle.loads(pickle.dumps(RubricRM({"__shared__": named_city})))
    assert rm.score(conversation_of("?", "Oslo")) == 1.0
