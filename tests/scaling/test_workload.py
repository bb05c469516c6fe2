"""What a job's files and settings make of the memory estimate, against sums by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file
from transformers import (
    AutoModelForCausalLM,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
)

from reward_harness.data.files import write_records
from reward_harness.data.records import Message, StepwiseExample
from reward_harness.errors import TrainingError
from reward_harness.hashing import digest_file
from reward_harness.models.folders import model_folder
from reward_harness.scaling.memory import estimate
from reward_harness.sections import (
    EnsembleSection,
    FlywheelSection,
    LoraSpec,
    ProcessSection,
    RubricModelSection,
)
from reward_harness.training.fitting import what_would_fit
from reward_harness.training.job import (
    DataFile,
    EnsembleJob,
    ModelRef,
    ProcessJob,
    RubricModelJob,
)
from reward_harness.training.workload import (
    TEMPLATE_TOKENS,
    JobFacts,
    model_sizes,
    require_job_memory,
    workload_of,
)
from tests.training.conftest import CAUSAL, ENCODER, Jobs

LORA = LoraSpec(r=4, alpha=8, dropout=0.0)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("scaling"))


def parameters(job) -> int:
    arrays = load_file(Path(job.model.path) / "model.safetensors")
    return sum(math.prod(array.shape) for array in arrays.values())


def with_bf16(job):
    return job.model_copy(update={"train_dtype": "bfloat16"})


def process_job(root: Path, spec, steps: int, words: int, **settings) -> ProcessJob:
    """A solution of ``steps`` steps of ``words`` words (one token each), and a short one."""
    folder = model_folder(spec, root / "cache")
    examples = [
        StepwiseExample(
            example_id=str(i),
            prompt=[Message(role="user", content="water")],
            steps=["people" + " water" * (words - 1)] * count,
            labels=[1] * count,
        )
        for i, count in enumerate((steps, 2))
    ]
    path = root / "steps.jsonl"
    write_records(path, examples)
    data = DataFile(path=str(path), sha256=digest_file(path))
    return ProcessJob(
        experiment="toy",
        seed=1,
        device="cpu",
        model=ModelRef(name=spec.name, path=str(folder), digest="0" * 64),
        train=data,
        test=data,
        settings=ProcessSection(backbone=spec, **settings),
    )


def test_the_batch_is_divided_and_processes_on_a_cpu_add_up(jobs: Jobs) -> None:
    job = with_bf16(jobs.sft(batch_size=8))
    size, spread = parameters(job), job.model_copy(update={"processes": 4})
    assert workload_of(spread).batch == 2
    whole = estimate(workload_of(spread))
    assert whole.weights + whole.optimizer == 4 * 18 * size
    sharded = estimate(workload_of(spread.model_copy(update={"sharding": "full_shard"})))
    assert sharded.weights + sharded.optimizer == pytest.approx(18 * size, abs=32)
    assert sharded.logits == whole.logits == estimate(workload_of(job)).logits
    gpus = workload_of(spread.model_copy(update={"device": "cuda"}))
    assert estimate(gpus).weights == 2 * size


def test_references_are_counted_as_they_are_loaded(jobs: Jobs) -> None:
    job = jobs.dpo()
    size, sizes = parameters(job), model_sizes(Path(job.model.path))
    rounded = 2 * size + 2 * sizes["vocab_size"] * sizes["hidden_size"]
    assert workload_of(job).reference == workload_of(jobs.ppo()).reference == 4 * size
    assert workload_of(with_bf16(job)).reference == rounded
    assert workload_of(with_bf16(jobs.ppo())).reference == rounded
    assert workload_of(with_bf16(jobs.grpo())).reference == 4 * size
    without = (jobs.sft(), jobs.dpo(lora=LORA), jobs.dpo(reference="precomputed"))
    assert [workload_of(one).reference for one in without] == [0, 0, 0]
    assert workload_of(jobs.grpo(beta=0.0)).reference == 0


def test_a_rollouts_cache_is_counted_as_the_model_keeps_it(jobs: Jobs, tmp_path: Path) -> None:
    job = jobs.grpo(batch_size=4, max_prompt_tokens=5, max_new_tokens=3)
    folders = [Path(job.model.path), tmp_path / "gpt2"]
    config = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_positions=8, vocab_size=32)
    GPT2LMHeadModel(config).save_pretrained(folders[1])
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(folder)
        kept = model(input_ids=torch.zeros(4, 5 + 3, dtype=torch.long)).past_key_values
        held = sum(part.nbytes for layer in kept.layers for part in (layer.keys, layer.values))
        named = ModelRef(name="m", path=str(folder), digest="0" * 64)
        assert workload_of(job.model_copy(update={"model": named})).cache == held
    assert workload_of(with_bf16(job)).cache == workload_of(job).cache / 2
    rows = [workload_of(jobs.ppo(batch_size=size)).cache for size in (32, 64, 128)]
    assert rows[1] == rows[2] == 2 * rows[0]
    assert workload_of(jobs.sft()).cache == 0


def test_adapters_freeze_policies_in_bf16_and_reward_backbones_in_float32(jobs: Jobs) -> None:
    policy, reward = with_bf16(jobs.sft(lora=LORA)), with_bf16(jobs.bt(lora=bert_lora()))
    for job, bytes_each in ((policy, 2), (reward, 6)):
        load = workload_of(job)
        assert estimate(load).weights == bytes_each * parameters(job) + 2 * load.trained


def bert_lora() -> LoraSpec:
    return LoraSpec(r=4, alpha=8, targets=["query", "key", "value"])


def test_finished_models_are_counted_twice_on_a_cpu(jobs: Jobs, tmp_path: Path) -> None:
    one = jobs.bt()
    size = parameters(one)
    common = one.model_dump(exclude={"method", "settings"})
    ensemble = EnsembleJob(**common, settings=EnsembleSection(backbone=ENCODER, members=3))
    assert workload_of(one).finished == 0
    assert workload_of(ensemble).finished == 2 * 2 * 4 * size
    on_gpu = ensemble.model_copy(update={"device": "cuda"})
    assert workload_of(on_gpu).finished == 2 * 4 * size
    turning = jobs.bt(flywheel=FlywheelSection(cycles=3))
    assert workload_of(turning).finished == 3 * 2 * 4 * size
    twins = process_job(tmp_path, ENCODER, 3, 4)
    assert workload_of(twins).finished == 2 * 4 * size
    alone = twins.settings.model_copy(update={"outcome_twin": False})
    assert workload_of(twins.model_copy(update={"settings": alone})).finished == 0


def test_a_pass_holds_whole_samples_within_the_budget(jobs: Jobs) -> None:
    def shape(job) -> tuple[int, int]:
        return workload_of(job).batch, workload_of(job).tokens

    assert shape(jobs.bt(batch_size=8, max_length=512)) == (4, 512)
    assert shape(jobs.bt(batch_size=1, max_length=512)) == (2, 512)
    one = jobs.bt()
    common = one.model_dump(exclude={"method", "settings"})
    settings = RubricModelSection(backbone=ENCODER, batch_size=3, max_length=512)
    assert shape(RubricModelJob(**common, settings=settings)) == (3, 512)
    assert shape(jobs.dpo(batch_size=3, max_length=64)) == (6, 64)
    assert shape(jobs.ppo(batch_size=40)) == (512 // 38, 38)


def test_a_solution_is_one_pass_of_all_its_steps(tmp_path: Path) -> None:
    """30 steps of 20 tokens: an encoder reads 30 inputs of up to 512 tokens."""
    job = process_job(tmp_path, ENCODER, 30, 20, max_length=512)
    load = workload_of(job)
    assert (load.batch, load.tokens) == (30, 512)
    assert estimate(load).activations == 96 * 30 * 512 * load.hidden * load.layers
    short = process_job(tmp_path, ENCODER, 3, 4, max_length=512, batch_size=1)
    steps, tokens = max(JobFacts(short).solutions.steps_and_tokens)
    assert steps == 3 and 13 <= tokens - TEMPLATE_TOKENS <= 16
    assert (workload_of(short).batch, workload_of(short).tokens) == (3, tokens)


def test_a_causal_backbone_reads_a_solution_once_if_it_fits(tmp_path: Path) -> None:
    fits = process_job(tmp_path, CAUSAL, 6, 20, max_length=512, batch_size=1)
    assert workload_of(fits).batch == 1 and 120 < workload_of(fits).tokens < 180
    too_long = process_job(tmp_path, CAUSAL, 6, 20, max_length=64, batch_size=1)
    assert (workload_of(too_long).batch, workload_of(too_long).tokens) == (6, 64)


def test_families_with_other_names_for_their_sizes(tmp_path: Path) -> None:
    gpt = GPT2Config(n_layer=3, n_embd=8, n_head=2, vocab_size=50, n_positions=16)
    GPT2LMHeadModel(gpt).save_pretrained(tmp_path / "gpt2")
    bert = DistilBertConfig(n_layers=2, dim=16, n_heads=2, hidden_dim=32, vocab_size=60)
    DistilBertModel(bert).save_pretrained(tmp_path / "distilbert")
    expected = {"num_hidden_layers": 3, "hidden_size": 8, "vocab_size": 50}
    assert model_sizes(tmp_path / "gpt2") == expected
    expected = {"num_hidden_layers": 2, "hidden_size": 16, "vocab_size": 60}
    assert model_sizes(tmp_path / "distilbert") == expected
    (tmp_path / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(TrainingError, match="sizes are not in its configuration"):
        model_sizes(tmp_path)


def offered(job, changed) -> list[str]:
    """What is offered where there is room for the ``changed`` job and no more."""
    return what_would_fit(job, JobFacts(job), estimate(workload_of(changed)).total)


def with_setting(job, **changes):
    return job.model_copy(update={"settings": job.settings.model_copy(update=changes)})


def test_offers_are_sizes_that_the_method_takes(jobs: Jobs) -> None:
    groups = jobs.grpo(lora=LORA, batch_size=24, group_size=4)
    # room for 11 responses is room for two whole groups
    assert offered(groups, with_setting(groups, batch_size=11)) == ["policy.grpo.batch_size: 8"]
    pairs = jobs.dpo(lora=LORA, batch_size=8, max_length=256)
    assert offered(pairs, with_setting(pairs, batch_size=3)) == [
        "policy.dpo.batch_size: 3",
        "policy.dpo.max_length: 96",
    ]
    spread = jobs.sft(lora=LORA, batch_size=12).model_copy(update={"processes": 4})
    assert offered(spread, with_setting(spread, batch_size=8)) == ["policy.sft.batch_size: 8"]
    assert what_would_fit(pairs, JobFacts(pairs), 1000) == []


def test_a_reward_model_is_offered_what_changes_its_estimate(jobs: Jobs) -> None:
    job = jobs.bt(batch_size=64, max_length=512)
    # a pass is filled up to its budget whatever the length: only a batch of one pair is smaller
    assert offered(job, with_setting(job, batch_size=1)) == ["reward_model.bt.batch_size: 1"]
    lora = bert_lora().model_copy(update={"r": 16})
    room = estimate(workload_of(with_setting(job, lora=lora))).total
    options = what_would_fit(job, JobFacts(job), room)
    assert options[0] == "reward_model.bt.lora with targets query, key, value"
    distilled = job.train.model_copy(update={"path": "x/distilled_preferences/1/train.jsonl"})
    moved = job.model_copy(update={"train": distilled})
    assert what_would_fit(moved, JobFacts(moved), room)[0].startswith("reward_model.distilled.lora")


def test_whole_weights_are_offered_adapters_and_a_precomputed_reference(jobs: Jobs) -> None:
    job = jobs.dpo(batch_size=1, max_length=64)
    assert offered(job, with_setting(job, reference="precomputed")) == [
        "policy.lora",
        "policy.dpo.reference: precomputed",
    ]


def test_the_guard_names_the_jobs_own_section(jobs: Jobs) -> None:
    job = jobs.sft(batch_size=8)
    needed = estimate(workload_of(job))
    assert require_job_memory(job, needed.total, "cpu") == needed
    with pytest.raises(TrainingError, match=r"policy\.sft\.batch_size: 7") as raised:
        require_job_memory(job, needed.total - 1, "cpu")
    assert "toy/sft" in str(raised.value) and "checkpointing" not in str(raised.value)
