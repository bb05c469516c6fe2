import pytest
import torch

from reward_harness.models import generation
from reward_harness.models.batches import length_batches, pad_batch, position_ids
from reward_harness.models.chat import encode_example, encode_prompt, encode_response, fit
from reward_harness.models.embedded import load_policy
from reward_harness.models.generation import generate, response_logprobs
from reward_harness.sections import ModelSpec

PROMPTS = [
    [{"role": "user", "content": "hi"}],
    [{"role": "user", "content": "a much longer question about bread and butter"}],
    [{"role": "system", "content": "be kind"}, {"role": "user", "content": "who?"}],
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory):
    return load_policy(ModelSpec(source="random", name="tiny-causal"), tmp_path_factory.mktemp("m"))


def test_sampling_depends_on_its_seed_only(tiny):
    model, tokenizer = tiny
    first = generate(model, tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, seed=5)
    torch.manual_seed(99)
    again = generate(model, tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, seed=5)
    other = generate(model, tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, seed=6)
    assert first == again
    assert first != other


def test_sampling_leaves_the_global_generator_and_the_training_mode_alone(tiny):
    model, tokenizer = tiny
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    model.train()
    generate(model, tokenizer, PROMPTS, max_new_tokens=2, temperature=1.0, seed=0)
    assert model.training and torch.equal(torch.rand(1), expected)
    model.eval()


def test_greedy_responses_do_not_depend_on_the_batch(tiny):
    model, tokenizer = tiny
    together = generate(model, tokenizer, PROMPTS, max_new_tokens=6, temperature=0.0, seed=0)
    for prompt, expected in zip(PROMPTS, together, strict=True):
        alone = generate(model, tokenizer, [prompt], max_new_tokens=6, temperature=0.0, seed=0)
        assert alone[0].token_ids == expected.token_ids


def test_prompts_that_are_sampled_several_times_are_read_once(tiny, monkeypatch):
    model, tokenizer = tiny
    several = [PROMPTS[i] for i in (1, 0, 1, 2, 0, 1)]
    read: list[int] = []
    hook = model.register_forward_hook(
        lambda _, args, kwargs, output: read.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    sampled = generate(model, tokenizer, several, max_new_tokens=8, temperature=1.0, seed=2)
    hook.remove()
    assert read[0] == 3 and set(read[1:]) == {6}
    monkeypatch.setattr(generation, "_read_once", lambda *args: {})
    plain = generate(model, tokenizer, several, max_new_tokens=8, temperature=1.0, seed=2)
    assert [one.token_ids for one in sampled] == [one.token_ids for one in plain]
    assert len({one.token_ids for one in sampled}) > 3


def test_the_end_token_ends_a_response_and_is_not_part_of_its_text(tiny, monkeypatch):
    model, tokenizer = tiny
    bread = encode_response(tokenizer, "bread")
    monkeypatch.setattr(
        model, "generate", lambda **kw: torch.tensor([[*kw["input_ids"][0].tolist(), *bread, 0, 0]])
    )
    found = generate(model, tokenizer, PROMPTS[:1], max_new_tokens=9, temperature=0.0, seed=0)[0]
    assert (found.text, found.ended, found.token_ids) == ("bread", True, tuple(bread))


def test_log_probabilities_are_those_of_an_unpadded_pass(tiny):
    model, tokenizer = tiny
    responses = ["yes", "no, never ever", "it is the moon"]
    found = response_logprobs(model, tokenizer, PROMPTS, responses)
    for prompt, response, logprobs in zip(PROMPTS, responses, found, strict=True):
        head, tail = encode_prompt(tokenizer, prompt), encode_response(tokenizer, response)
        with torch.no_grad():
            logits = model(torch.tensor([head + tail])).logits[0].log_softmax(-1)
        expected = torch.stack([logits[len(head) + i - 1, t] for i, t in enumerate(tail)])
        assert torch.allclose(logprobs, expected, atol=1e-5)


def test_what_does_not_fit_is_cut_from_the_prompt_first(tiny):
    _, tokenizer = tiny
    whole = encode_example(tokenizer, PROMPTS[1], "because", 500)
    assert whole.cut_prompt == whole.cut_response == 0
    cut = encode_example(tokenizer, PROMPTS[1], "because", len(whole.response) + 3)
    assert cut.response == whole.response and cut.response[-1] == tokenizer.eos_token_id
    assert cut.prompt == whole.prompt[-3:] and cut.cut_prompt == len(whole.prompt) - 3
    assert fit([1, 2, 3], [4, 5, 6, 7], 3).ids == [3, 4, 5]


def test_batches_keep_to_the_token_budget_and_lose_nothing():
    lengths = [5, 90, 7, 40, 6, 41, 300]
    batches = list(length_batches(lengths, 100))
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert all(len(b) * max(lengths[i] for i in b) <= 100 or len(b) == 1 for b in batches)
    assert batches[0] == [0, 4, 2]


def test_positions_count_real_tokens_on_both_sides():
    _, right = pad_batch([[7, 8, 9], [7]], 0)
    ids, left = pad_batch([[7, 8, 9], [7]], 0, "left")
    assert ids.tolist() == [[7, 8, 9], [0, 0, 7]]
    assert position_ids(right).tolist() == [[0, 1, 2], [0, 0, 0]]
    assert position_ids(left).tolist() == [[0, 1, 2], [0, 0, 0]]
