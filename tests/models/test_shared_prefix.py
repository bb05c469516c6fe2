import pytest
import torch
from transformers import AutoModel, BloomConfig, MistralConfig, Qwen2Config

from reward_harness.models.folders import model_folder
from reward_harness.models.reward_head import RewardModel
from reward_harness.models.shared_prefix import can_share, last_states, shared_length
from reward_harness.sections import ModelSpec

ROWS = [
    ((5, 6, 7, 8, 9, 10), (5, 6, 7, 20)),
    ((30, 31, 32), (30, 33, 34, 35, 36, 37, 38)),
    ((40, 41), (42, 43, 44)),
    ((50, 51, 52), (50, 51, 52)),
]
SMALL = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> RewardModel:
    spec = ModelSpec(source="random", name="tiny-causal")
    folder = model_folder(spec, tmp_path_factory.mktemp("models"))
    return RewardModel.from_backbone(folder, max_length=64)


def alone(backbone, ids) -> torch.Tensor:
    return backbone(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]


def test_what_two_sequences_share_leaves_each_a_token_of_its_own():
    assert [shared_length(*row) for row in ROWS] == [3, 1, 0, 2]


def test_a_shared_row_has_the_states_and_gradients_of_rows_of_their_own(causal):
    backbone = causal.backbone
    together = last_states(backbone, [(*row, shared_length(*row)) for row in ROWS], 0)
    apart = torch.stack([torch.stack([alone(backbone, ids) for ids in row]) for row in ROWS])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    weights = next(p for p in backbone.parameters() if p.ndim > 1)
    found = [torch.autograd.grad(states.square().sum(), weights)[0] for states in (together, apart)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5)


def test_rows_are_shared_only_where_that_changes_nothing(causal):
    assert can_share(causal.backbone)
    for settings, expected in (
        (Qwen2Config(**SMALL), True),
        (
            Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=8, max_window_layers=1),
            False,
        ),
        (MistralConfig(**SMALL, sliding_window=8), False),
        (BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=2), False),
    ):
        torch.manual_seed(0)
        assert can_share(AutoModel.from_config(settings).eval()) is expected, settings.model_type


def test_attention_that_takes_no_such_mask_is_left_alone(causal):
    causal.backbone.set_attn_implementation("eager")
    assert not can_share(causal.backbone)
    causal.backbone.set_attn_implementation("sdpa")
