"""The documentation's example works as written, and its tables are the sections as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticUndefined

from reward_harness import sections
from reward_harness.data.readers import READERS
from reward_harness.data.records import PreferencePair
from reward_harness.data.source_spec import SourceSpec
from reward_harness.data.sources import resolve
from reward_harness.manifest import Frozen
from reward_harness.spec import read_experiment
from reward_harness.workspace import Workspace

DOCS = Path(__file__).resolve().parents[2] / "docs"


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_example_of_the_data_page_works_as_written(workspace: Workspace) -> None:
    text = (DOCS / "data.md").read_text()
    (rows,) = fenced(text, "jsonl")
    source, experiment = fenced(text, "yaml")
    path = workspace.root / "data" / "mine" / "pairs.jsonl"
    path.parent.mkdir()
    path.write_text(rows)
    (workspace.sources / "mine.yaml").write_text(source)
    (workspace.experiments / "mine.yaml").write_text(experiment)
    spec = read_experiment(workspace.experiments, "mine")
    assert spec.dataset.preferences is not None
    pairs = resolve(workspace, spec.dataset.preferences.source, PreferencePair).records
    assert [len(p.prompt) for p in pairs] == [1, 1, 3]
    assert spec.policy.sft is not None, "inherited from tour"


def test_the_data_page_names_every_reader_and_every_field_of_a_source() -> None:
    text = (DOCS / "data.md").read_text()
    for name in [*READERS, *SourceSpec.model_fields]:
        if name != "name":
            assert f"`{name}`" in text or f"{name}:" in text, name


SECTIONS: dict[str, type[Frozen]] = {
    "search": sections.SearchConfig,
    "search.endpoint": sections.Endpoint,
    "search.extract": sections.Extraction,
    "reward_model": sections.RewardModelSection,
    "reward_model.gates": sections.GateThresholds,
    "reward_model.bt": sections.BTSection,
    "reward_model.rubric": sections.RubricModelSection,
    "reward_model.ensemble": sections.EnsembleSection,
    "reward_model.process": sections.ProcessSection,
    "dataset.synthetic_sft": sections.SyntheticSFTSection,
    "dataset.ai_preferences": sections.AIPreferencesSection,
    "dataset.rl_samples": sections.RLSamplesSection,
    "dataset.scores": sections.ScoresSection,
    "dataset.distilled": sections.DistilledSection,
    "policy": sections.PolicySection,
    "policy.model": sections.ModelSpec,
    "policy.lora": sections.LoraSpec,
    "policy.sft": sections.SFTSection,
    "policy.dpo": sections.DPOSection,
    "policy.grpo": sections.GRPOSection,
    "policy.ppo": sections.PPOSection,
    "policy.iterative_dpo": sections.IterativeDPOSection,
    "evaluation": sections.EvaluationSection,
    "compute": sections.ComputeSection,
}


def documented(heading: str) -> dict[str, str]:
    """Field and default of each row of the table under a heading."""
    text = (DOCS / "experiments.md").read_text()
    body = re.split(r"^#+ ", text.split(f"# `{heading}`\n")[1], flags=re.MULTILINE)[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", body, re.MULTILINE))


def default_of(model: type[Frozen], name: str) -> Any:
    field = model.model_fields[name]
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "required"
    return "below" if isinstance(default, Frozen) else default


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_experiments_page_has_every_field_with_its_default(heading: str) -> None:
    model = SECTIONS[heading]
    found = {name: yaml.safe_load(cell.strip("`")) for name, cell in documented(heading).items()}
    assert found == {name: default_of(model, name) for name in model.model_fields}


def test_the_example_of_the_experiments_page_is_a_valid_experiment(workspace: Workspace) -> None:
    (example,) = fenced((DOCS / "experiments.md").read_text(), "yaml")
    (workspace.experiments / "longer.yaml").write_text(example)
    spec = read_experiment(workspace.experiments, "longer")
    assert spec.policy.grpo is not None and spec.policy.grpo.group_size == 8
    base = read_experiment(workspace.experiments, "tour").policy.ppo
    assert spec.policy.ppo is not None and base is not None
    assert spec.policy.ppo.max_steps == base.max_steps
