"""The PPO loop on toy models: masks, bandit, KL, dropped scores, resume, and that it learns."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from reward_harness.errors import TrainingError
from reward_harness.evaluation.statistics import paired_bootstrap_difference
from reward_harness.models.generation import Generated, generate
from reward_harness.rewards.base import Abstained, BaseRM, Failed, Scored
from reward_harness.sections import PPOSection
from reward_harness.training import ppo_losses as losses
from reward_harness.training.order import learning_rate_factor
from reward_harness.training.ppo import (
    PPOTrainer,
    permutation,
    prompt_order,
)
from reward_harness.training.ppo_policy import ActorCritic, Sample

WORDS = ["<pad>", "<end>", "say", "it", "a", "b", "c", "d"]
CHATS = [[{"role": "user", "content": text}] for text in ("say it", "say", "it say it", "say a")]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def toy_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", chat_template=template
    )


def toy_policy(lora: bool = False, seed: int = 0, dropout: float = 0.0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.2,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    if not lora:
        return model
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return get_peft_model(
        model, LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=targets)
    )


class WordShare(BaseRM):
    """The share of a response's words that are ``a``."""

    digest = "d1"

    def score_batch_results(self, batch, batch_size=32, progress=False):
        texts = [c[-1]["content"].split() for c in batch]
        return [Scored(t.count("a") / max(len(t), 1)) for t in texts]


class Arms(BaseRM):
    """A bandit: one word, its price; no word, nothing."""

    prices: ClassVar = {"a": 1.0, "b": 0.5}

    def score_batch_results(self, batch, batch_size=32, progress=False):
        return [Scored(self.prices.get(c[-1]["content"].strip(), 0.0)) for c in batch]


class Scripted(WordShare):
    """``WordShare`` with some of its results replaced."""

    def __init__(self, replaced: dict[int, object]) -> None:
        self.replaced = replaced

    def score_batch_results(self, batch, batch_size=32, progress=False):
        results = super().score_batch_results(batch)
        return [self.replaced.get(index, result) for index, result in enumerate(results)]


def section(**changes) -> PPOSection:
    base = {
        "learning_rate": 3e-3,
        "value_learning_rate": 1e-2,
        "max_steps": 4,
        "batch_size": 8,
        "minibatch_size": 4,
        "max_new_tokens": 6,
        "temperature": 1.0,
        "warmup_fraction": 0.0,
    }
    return PPOSection.model_validate({**base, **changes})


def trainer(config: PPOSection, reward: BaseRM | None = None, **policy) -> PPOTrainer:
    return PPOTrainer(
        toy_policy(**policy), toy_tokenizer(), reward or WordShare(), CHATS, config, seed=3
    )


def sample(prompt: Sequence[int], response: Sequence[int]) -> Sample:
    return Sample(CHATS[0], prompt, Generated("", tuple(response), ended=False))


def by_hand(model, one: Sample, temperature: float) -> torch.Tensor:
    """Log-probs of a response from the full logits of its sequence alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([one.ids])).logits[0] / temperature
    logprobs = torch.log_softmax(logits, -1)
    start = len(one.prompt) - 1
    return torch.stack([logprobs[start + t, token] for t, token in enumerate(one.drawn.token_ids)])


def test_logprobs_in_a_padded_batch_are_those_of_each_sequence_alone():
    models_ = ActorCritic(toy_policy(), pad=0, temperature=0.7)
    rows = [sample([2, 3], [4, 5, 6, 1]), sample([2, 3, 2, 3, 4, 4, 7], [1]), sample([3], [7, 7])]
    measured = models_.measure(rows)
    expected = torch.cat([by_hand(models_.policy, row, 0.7) for row in rows])
    torch.testing.assert_close(measured[0], expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(models_.evaluate(rows)[0], expected, atol=1e-6, rtol=1e-5)


def test_values_and_gradients_do_not_depend_on_what_else_is_in_the_batch():
    models_ = ActorCritic(toy_policy(), pad=0, temperature=1.0)
    torch.nn.init.normal_(models_.value_head.weight)
    short, long = sample([2, 3], [4, 5]), sample([2, 3, 2, 3, 4, 4, 7], [5, 6, 4, 4, 1])
    gradients = []
    for rows in ([short], [short, long]):
        logprobs, values = models_.evaluate(rows)
        (logprobs[:2].sum() + values[:2].sum()).backward()
        gradients.append([p.grad.clone() for p in models_.policy.parameters()])
        models_.policy.zero_grad()
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)
    alone, together = models_.measure([short])[2], models_.measure([short, long])[2]
    torch.testing.assert_close(alone, together[:2], atol=1e-6, rtol=1e-5)
    assert alone.std() > 0


@pytest.mark.parametrize("lora", [True, False])
def test_reference_stays_while_the_policy_moves(lora: bool):
    models_ = ActorCritic(toy_policy(lora), pad=0, temperature=1.0)
    rows = [sample([2, 3], [4, 5, 6])]
    before = models_.measure(rows)
    torch.testing.assert_close(before[0], before[1])
    with torch.no_grad():
        for weight in models_.weights.values():
            weight.add_(0.1)
    after = models_.measure(rows)
    torch.testing.assert_close(after[1], before[1])
    assert (after[0] - before[0]).abs().max() > 1e-3


def test_value_gradient_reaches_the_trunk_only_when_asked():
    for asked in (False, True):
        models_ = ActorCritic(toy_policy(), pad=0, temperature=1.0, value_into_trunk=asked)
        torch.nn.init.ones_(models_.value_head.weight)
        models_.evaluate([sample([2], [4, 5])])[1].sum().backward()
        assert models_.value_head.weight.grad is not None
        assert any(w.grad is not None for w in models_.weights.values()) is asked


def test_dropout_is_off_so_the_first_ratio_is_one():
    row = trainer(section(ppo_epochs=1, minibatch_size=8), lora=True, dropout=0.5).step()
    assert row["clip_fraction"] == 0.0
    assert row["kl_update"] == pytest.approx(0.0, abs=1e-9)
    assert row["kl_k1"] == pytest.approx(0.0, abs=1e-5)


def test_micro_batches_add_up_to_the_minibatch():
    weights = []
    for tokens in (1024, 8):
        one = trainer(section(), lora=True)
        one.pass_tokens = tokens
        one.step()
        weights.append([w.detach().clone() for w in one.models.weights.values()])
    torch.testing.assert_close(weights[0], weights[1], atol=1e-4, rtol=1e-3)


def test_bandit_reaches_the_known_optimum():
    beta, arms = 0.5, Arms()
    config = section(
        max_steps=60,
        batch_size=64,
        minibatch_size=64,
        max_new_tokens=1,
        kl_controller="fixed",
        kl_init=beta,
        learning_rate=1e-2,
    )
    one = PPOTrainer(toy_policy(), toy_tokenizer(), arms, CHATS[:1], config, seed=0)
    prompt = torch.tensor([[2, 3]])
    with torch.no_grad():
        prior = torch.softmax(one.models.policy(prompt).logits[0, -1], -1)
    price = torch.tensor([arms.prices.get(word, 0.0) for word in WORDS])
    optimum = prior * torch.exp(price / beta)
    optimum /= optimum.sum()
    for _ in range(config.max_steps):
        one.step()
    with torch.no_grad():
        reached = torch.softmax(one.models.policy(prompt).logits[0, -1], -1)
    assert 0.5 * float((optimum - prior).abs().sum()) > 0.25
    assert 0.5 * float((optimum - reached).abs().sum()) < 0.05


def final_kl(**changes) -> float:
    one = trainer(section(max_steps=40, batch_size=16, minibatch_size=16, **changes))
    rows = [one.step() for _ in range(40)]
    return float(np.mean([row["kl_k1"] for row in rows[-10:]]))


def test_kl_grows_without_its_term_and_stays_near_the_target_with_it():
    free = final_kl(kl_controller="fixed", kl_init=0.0)
    held = final_kl(kl_controller="adaptive", kl_init=0.3, kl_target=1.0)
    assert free > 3.0
    assert 0.4 < held < 1.8


def test_coefficient_follows_the_measured_kl():
    one = trainer(section(kl_init=0.2, kl_target=6.0), lora=True)
    rows = [one.step(), one.step(), one.step()]
    for before, after in itertools.pairwise(rows):
        expected = losses.KLController("adaptive", before["kl_coef"], 6.0).after(before["kl_k1"])
        assert after["kl_coef"] == pytest.approx(expected.coef)
    assert rows[0]["kl_coef"] == 0.2


def test_unscored_samples_are_dropped_and_counted():
    missing = {0: Failed("timeout"), 3: Abstained("skipped"), 5: Scored(math.nan)}
    one = trainer(section(max_unscored_share=0.5), Scripted(missing), lora=True)
    seen = []
    update = one._update
    one._update = lambda rollout: (seen.append(rollout), update(rollout))[1]
    row = one.step()
    assert row["unscored_share"] == 3 / 8
    assert len(seen[0].samples) == 5
    drawn = one.rows[0]["reward_mean"]
    expected = [s.drawn.text.split() for s in seen[0].samples]
    assert drawn == pytest.approx(np.mean([t.count("a") / max(len(t), 1) for t in expected]))


def test_too_many_unscored_samples_stop_the_run_and_change_nothing():
    one = trainer(
        section(max_unscored_share=0.25), Scripted(dict.fromkeys(range(3), Failed("down")))
    )
    before = [w.detach().clone() for w in one.models.weights.values()]
    with pytest.raises(TrainingError, match=r"3 of 8 unscored.*down.*at most 0\.25"):
        one.step()
    assert one.rows == []
    torch.testing.assert_close(before, list(one.models.weights.values()), atol=0, rtol=0)


def test_no_scored_sample_stops_even_without_a_bound():
    nothing = Scripted(dict.fromkeys(range(8), Abstained("none")))
    with pytest.raises(TrainingError, match="8 of 8"):
        trainer(section(max_unscored_share=1.0), nothing).step()


def test_responses_without_an_end_are_charged():
    one = trainer(section(missing_eos_penalty=2.0))
    ended, open_ = (
        Sample(CHATS[0], [2], Generated("a", (4, 1), True)),
        Sample(CHATS[0], [2], Generated("a", (4, 4), False)),
    )
    assert one._shaped([ended, open_], torch.tensor([0.5, 0.75])).tolist() == [0.5, -1.25]


def test_value_head_starts_at_the_mean_of_the_first_scores():
    one = trainer(section(ppo_epochs=1, learning_rate=1e-9, value_learning_rate=1e-9))
    row = one.step()
    assert one.models.value_head.bias.item() == pytest.approx(row["reward_mean"], abs=1e-6)


def run_of(steps: int, state: bytes | None = None) -> PPOTrainer:
    one = trainer(section(max_steps=5, reward_clip_std=2.0), lora=True, dropout=0.1)
    if state is not None:
        one.load_state(torch.load(io.BytesIO(state), weights_only=True))
    while len(one.rows) < steps:
        one.step()
    return one


def test_resumed_run_repeats_the_uninterrupted_one_bit_for_bit():
    whole = run_of(5)
    saved = io.BytesIO()
    torch.save(run_of(2).state(), saved)
    torch.manual_seed(99)  # whatever happened to the global generator meanwhile
    resumed = run_of(5, saved.getvalue())
    assert resumed.rows == whole.rows
    for name, weight in whole.models.weights.items():
        assert torch.equal(weight, resumed.models.weights[name]), name
    assert torch.equal(whole.models.value_head.weight, resumed.models.value_head.weight)
    assert resumed.kl == whole.kl and resumed.moments == whole.moments


def test_state_of_another_adapter_is_refused():
    with pytest.raises(TrainingError, match="other weights"):
        trainer(section(), lora=True).load_state(trainer(section()).state())


def test_rows_tell_who_scored_and_are_the_same_for_the_same_seed():
    first, second = run_of(2), run_of(2)
    assert first.rows == second.rows
    assert [row["reward_digest"] for row in first.rows] == ["d1", "d1"]
    assert [row["step"] for row in first.rows] == [1, 2]
    assert first.seconds.keys() == {"sample", "score", "rollout_pass", "update"}


def test_long_prompts_are_cut_on_the_left_and_counted():
    long = [{"role": "user", "content": "say it " * 4 + "d"}]
    config = section(max_prompt_tokens=4)
    one = PPOTrainer(toy_policy(), toy_tokenizer(), WordShare(), [*CHATS, long], config, seed=0)
    assert one.prompts_cut == 1
    assert one.prompts[-1] == (long, [3, 2, 3, 7])


def test_prompts_come_in_permutations_that_do_not_depend_on_the_batch_size():
    at_once = prompt_order(5, 0, 15, seed=1)
    assert [sorted(at_once[k : k + 5]) for k in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3
    assert prompt_order(5, 3, 4, seed=1) + prompt_order(5, 7, 8, seed=1) == at_once[3:]
    assert sorted(permutation(6, 0)) == [0, 1, 2, 3, 4, 5]


def test_learning_rate_warms_up_and_follows_a_cosine():
    factors = [learning_rate_factor(step, 10, 0.2) for step in range(10)]
    assert factors[:3] == [0.5, 1.0, 1.0]
    assert factors[6] == pytest.approx(0.5)
    assert 0 < factors[9] < 0.05
    assert learning_rate_factor(0, 1, 0.0) == 1.0


def test_training_lifts_the_mean_reward_with_a_paired_interval_above_zero():
    reward, tokenizer = WordShare(), toy_tokenizer()
    config = section(max_steps=25, batch_size=16, minibatch_size=8, learning_rate=5e-3)
    one = PPOTrainer(toy_policy(lora=True), tokenizer, reward, CHATS, config, seed=3)
    prompts = CHATS * 16

    def scores() -> np.ndarray:
        drawn = generate(
            one.models.policy,
            tokenizer,
            prompts,
            max_new_tokens=6,
            temperature=1.0,
            seed=11,
            batch_size=64,
        )
        chats = [
            [*p, {"role": "assistant", "content": g.text}]
            for p, g in zip(prompts, drawn, strict=True)
        ]
        return np.array(reward.score_batch(chats))

    before = scores()
    for _ in range(config.max_steps):
        one.step()
    gain = paired_bootstrap_difference(scores(), before, np.random.default_rng(0))
    assert gain.low > 0
