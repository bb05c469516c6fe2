"""Datasets that the experiment's own models make under a constitution; what such stages share.

All write what dataset stages write (``train.jsonl`` …, ``stats.json``, ``summary.md``,
``plot.png``) where they end in records, and beside it the raw answers they were made from. Splits
are those of every other stage: by prompt, seed and shares. Sampling happens in this process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reward_harness.data.describe import describe, metrics_of
from reward_harness.data.files import read_records, write_lines
from reward_harness.data.records import (
    PreferencePair,
    Record,
    RLPrompt,
    SFTExample,
    prompt_key,
)
from reward_harness.data.splits import SPLITS, split_records
from reward_harness.hashing import canonical_json, derive_seed, digest_json
from reward_harness.hashing import unit_interval as place
from reward_harness.llm.backends import resolve_backend
from reward_harness.llm.event_loop import run_sync
from reward_harness.llm.feedback import (
    LEVELS,
    CheckedFeedback,
    Confidence,
    Feedback,
    ModelFeedback,
    Preferred,
    Revision,
    each,
    read_constitution,
)
from reward_harness.llm.roles import open_roles
from reward_harness.llm.verdicts import STORE_NAME
from reward_harness.manifest import Cost, Metric, Outcome
from reward_harness.models.folders import model_folder
from reward_harness.progress import Progress
from reward_harness.prompts import load_templates
from reward_harness.rewards.base import Failed
from reward_harness.rubrics.grading import prompt_text
from reward_harness.stages.costs import cost_of_roles
from reward_harness.stages.datasets import write_dataset
from reward_harness.stages.make import StageRun
from reward_harness.stages.training import required

LICENCE = "of the models and prompts it was made with"


def synthetic_sft(run: StageRun, folder: Path) -> Outcome:
    """Drafts, critiqued and revised under the constitution."""
    section = required(run.experiment.dataset.synthetic_sft, "dataset.synthetic_sft")
    prompts = seeded_prompts(run, section.prompts)
    feedback = _feedback(run)
    texts = [prompt_text(prompt.prompt) for prompt in prompts]
    drafts: list[Any] = run_sync(each(texts, feedback.draft))
    if all(draft is None for draft in drafts):
        base = model_folder(run.experiment.policy.model, run.workspace.cache)
        drafts = sample_policy(run, base, prompts, section.max_new_tokens, section.temperature)
    asked = [(t, d) for t, d in zip(texts, drafts, strict=True) if isinstance(d, str) and d.strip()]
    found: list[Revision | Failed] = run_sync(each(asked, lambda one: feedback.revise(*one)))
    revised = dict(zip([text for text, _ in asked], found, strict=True))
    examples: list[Record] = []
    raw: list[Mapping[str, Any]] = []
    for prompt, text, draft in zip(prompts, texts, drafts, strict=True):
        got = revised.get(text)
        if not isinstance(got, Revision) or not got.response.strip():
            continue
        raw.append({"id": prompt.prompt_id, "draft": draft, "critique": got.critique})
        examples.append(
            SFTExample(
                example_id=prompt.prompt_id,
                prompt=prompt.prompt,
                response=got.response,
                source="synthetic",
            )
        )
    write_raw(folder / "critiques.jsonl", raw)
    return publish_dataset(run, folder, examples, len(prompts), feedback)


def ai_preferences(run: StageRun, folder: Path) -> Outcome:
    """Two samples of the SFT policy to each prompt; the one that the judge prefers is chosen."""
    section = required(run.experiment.dataset.ai_preferences, "dataset.ai_preferences")
    prompts = seeded_prompts(run, section.prompts)
    policy = run.input("sft_checkpoint").folder("model")
    twice = [prompt for prompt in prompts for _ in range(2)]
    texts = sample_policy(run, policy, twice, section.max_new_tokens, section.temperature)
    feedback = _feedback(run)
    trios = [
        (prompt_text(p.prompt), left, right)
        for p, left, right in zip(prompts, texts[::2], texts[1::2], strict=True)
    ]
    run.services.progress(Progress(run.stage.name, 1, 2, f"judging {len(trios)} pairs"))
    found: list[Preferred | Failed] = run_sync(each(trios, lambda one: feedback.prefer(*one)))
    pairs: list[Record] = []
    raw: list[Mapping[str, Any]] = []
    for prompt, (_, left, right), verdict in zip(prompts, trios, found, strict=True):
        raw.append({"id": prompt.prompt_id, "left": left, "right": right, **_told(verdict)})
        if not _is_usable(verdict, left, right, section.min_confidence):
            continue
        first = isinstance(verdict, Preferred) and verdict.preference == 1
        pairs.append(
            PreferencePair(
                pair_id=prompt.prompt_id,
                prompt=prompt.prompt,
                chosen=left if first else right,
                rejected=right if first else left,
                source="ai_feedback",
            )
        )
    write_raw(folder / "verdicts.jsonl", raw)
    return publish_dataset(run, folder, pairs, len(prompts), feedback)


def seeded_prompts(run: StageRun, limit: int) -> list[RLPrompt]:
    """The first prompts of all splits in the seeded order."""
    source, seed = run.input("rl_prompts"), run.experiment.seed
    found = [p for split in SPLITS for p in read_records(source.file(f"{split}.jsonl"), RLPrompt)]
    ordered = sorted(found, key=lambda p: place("order", seed, prompt_key(p.prompt)))
    return ordered[:limit]


def sample_policy(
    run: StageRun, folder: Path, prompts: Sequence[RLPrompt], tokens: int, temperature: float
) -> list[str]:
    from reward_harness.models.embedded import load_policy_folder
    from reward_harness.models.generation import generate
    from reward_harness.scaling.memory import resolve_device

    def tell(done: int) -> None:
        run.services.progress(Progress(run.stage.name, done, len(prompts), "sampling responses"))

    tell(0)
    compute = run.experiment.compute
    device = run.services.device or resolve_device(compute.device)
    model, tokenizer = load_policy_folder(folder, dtype=compute.generation_dtype, device=device)
    found = generate(
        model,
        tokenizer,
        [[m.model_dump() for m in p.prompt] for p in prompts],
        max_new_tokens=tokens,
        temperature=temperature,
        seed=derive_seed(run.experiment.seed, run.stage.name),
        tell=tell,
    )
    return [one.text for one in found]


def _feedback(run: StageRun) -> Feedback:
    """The search's endpoint where it has one, else the principles' checks."""
    constitution = read_constitution(run.workspace.prompts)
    search = run.experiment.search
    if resolve_backend(search) != "openai":
        return CheckedFeedback(constitution)
    templates = load_templates(run.workspace.prompts, search.locale)
    roles = open_roles(search.endpoint, templates, run.workspace.cache / STORE_NAME)
    return ModelFeedback(roles, constitution)


def _is_usable(verdict: Preferred | Failed, left: str, right: str, least: Confidence) -> bool:
    return (
        isinstance(verdict, Preferred)
        and verdict.preference != 0
        and LEVELS.index(verdict.confidence) >= LEVELS.index(least)
        and left != right
        and bool(left.strip())
        and bool(right.strip())
    )


def _told(verdict: Preferred | Failed) -> dict[str, Any]:
    if isinstance(verdict, Failed):
        return {"failed": verdict.error}
    return {
        "preference": verdict.preference,
        "confidence": verdict.confidence,
        "consistent": verdict.consistent,
    }


def publish_dataset(
    run: StageRun, folder: Path, records: list[Any], asked: int, feedback: Feedback | None
) -> Outcome:
    """Split, describe and write the records; closes the feedback's connections."""
    cost = Cost()
    if isinstance(feedback, ModelFeedback):
        run_sync(feedback.roles.aclose())
        cost = cost_of_roles(feedback.roles)
    seed = run.experiment.seed
    splits = split_records(records, seed, run.experiment.dataset.split)
    stats = describe(
        splits,
        source=run.stage.name,
        licence=LICENCE,
        records_sha256=digest_json([record.model_dump(mode="json") for record in records]),
        left_out=asked - len(records),
        seed=seed,
    )
    write_dataset(folder, splits, (), stats)
    kept = Metric(value=len(records) / max(asked, 1), n=asked, direction="max")
    backend = {} if feedback is None else {"backend": type(feedback).__name__}
    return Outcome(metrics={**metrics_of(stats), "kept_share": kept}, cost=cost, notes=backend)


def write_raw(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_lines(path, (canonical_json(dict(row)) + b"\n" for row in rows))
