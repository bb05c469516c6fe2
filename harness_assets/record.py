"""The only code that knows both manifests and Dagster: an artifact becomes the metadata of a
materialization.
"""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten
from typing import Any

import dagster as dg

from reward_harness.manifest import TAKEN_FROM, Manifest, Metric
from reward_harness.store import Artifact
from reward_harness.workspace import reports_url

INLINE_IMAGE_BYTES = 200_000
GATE_REPORT = "gate_report.json"
METRIC_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("metric", "string"),
        dg.TableColumn("value", "float"),
        dg.TableColumn("interval", "string"),
        dg.TableColumn("n", "int"),
        dg.TableColumn("better", "string"),
    ]
)
PLOT_NAMES = ("plot.png", "log/costs.png")
CRITERIA_NAME, CELL_CHARS = "criteria.json", 90
CRITERIA_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("weight", "string", description="share of the rubric's weight"),
        dg.TableColumn("criterion", "string"),
        dg.TableColumn("graded by", "string"),
        dg.TableColumn("grades", "string", description="of the better and the worse response"),
        dg.TableColumn("better response", "string"),
        dg.TableColumn("worse response", "string"),
        dg.TableColumn("prompt", "string"),
    ]
)
COMPARISON = "comparison"
COMPARISON_SCHEMA = dg.TableSchema(
    columns=[
        dg.TableColumn("rubric", "string"),
        dg.TableColumn("agreement", "float"),
        dg.TableColumn("interval", "string"),
        dg.TableColumn("prompts", "int"),
        dg.TableColumn("pairs", "int"),
    ]
)


def record(artifact: Artifact, *, reused: bool, gates: Iterable[str] = ()) -> dg.MaterializeResult:
    """The materialization of ``artifact``: numbers, tables, summary, plot, inputs, cost and gate
    results.
    """
    manifest = artifact.manifest
    return dg.MaterializeResult(
        data_version=dg.DataVersion(manifest.digest),
        metadata=_metadata(artifact, reused),
        check_results=[_gate_result(artifact, name) for name in gates],
    )


def _metadata(artifact: Artifact, reused: bool) -> dict[str, Any]:
    """What a person wants first comes first: the report, the summary with its plot, the numbers."""
    manifest = artifact.manifest
    metadata: dict[str, Any] = {}
    if (artifact.path / "report.html").is_file():
        metadata["report"] = dg.MetadataValue.url(
            f"{reports_url()}/{manifest.artifact_id}/report.html"
        )
    if (summary := _summary(artifact)) is not None:
        metadata["summary"] = dg.MetadataValue.md(summary)
    if manifest.metrics:
        metadata["metrics"] = dg.MetadataValue.table(_metric_rows(manifest), schema=METRIC_SCHEMA)
    metadata |= {
        name: dg.MetadataValue.float(float(metric.value))
        for name, metric in manifest.metrics.items()
    }
    if (artifact.path / CRITERIA_NAME).is_file():
        metadata["criteria"] = criteria_table(json.loads(artifact.file(CRITERIA_NAME).read_bytes()))
    if (comparison := artifact.publication.notes.get(COMPARISON)) is not None:
        metadata["comparison"] = comparison_table(comparison)
    return metadata | {
        "made": how_made(artifact, reused),
        "artifact": manifest.artifact_id,
        "path": dg.MetadataValue.path(str(artifact.path)),
        "inputs": dg.MetadataValue.json(artifact.publication.inputs),
        "cost": dg.MetadataValue.json(manifest.cost.model_dump()),
        "reproduce": f"harness reproduce {manifest.artifact_id}",
    }


def how_made(artifact: Artifact, reused: bool) -> str:
    """Whether this run made it, or whence it is."""
    if (made_in := artifact.manifest.notes.get(TAKEN_FROM)) is not None:
        return f"taken from {made_in}, which was made from the same"
    if reused:
        return "reused: nothing it is made from changed"
    comparison = artifact.publication.notes.get(COMPARISON)
    if comparison is None:
        return "made by this run"
    kept = "found by this run" if comparison["replaced"] else "the one in force, published again"
    return f"re-search {comparison['round']}: {kept}; {comparison['reason']}"


def criteria_table(criteria: list[dict[str, Any]]) -> dg.TableMetadataValue:
    """A rubric's criteria, heaviest first, each with a real pair of responses that it separates."""
    rows: list[dg.TableRecord] = []
    for line in criteria:
        example = line["example"] or {}
        grades = f"{example['better_grade']:.2f} : {example['worse_grade']:.2f}" if example else ""
        rows.append(
            dg.TableRecord(
                {
                    "weight": f"{line['weight']:.0%}",
                    "criterion": line["text"] + (" (a fault)" if line["fault"] else ""),
                    "graded by": {"llm": "model", "programmatic": "code"}[line["kind"]],
                    "grades": grades,
                    "better response": shorten(
                        example.get("better", ""), CELL_CHARS, placeholder=" …"
                    ),
                    "worse response": shorten(
                        example.get("worse", ""), CELL_CHARS, placeholder=" …"
                    ),
                    "prompt": shorten(example.get("prompt", ""), CELL_CHARS, placeholder=" …"),
                }
            )
        )
    return dg.MetadataValue.table(rows, schema=CRITERIA_SCHEMA)


def comparison_table(comparison: dict[str, Any]) -> dg.TableMetadataValue:
    """What a re-search found beside what was in force: share of test pairs ordered rightly."""
    rows = {name: comparison[name] for name in ("challenger", "in_force", "difference")}
    return dg.MetadataValue.table(
        [
            dg.TableRecord(
                {
                    "rubric": name.replace("_", " "),
                    "agreement": round(found["value"], 4),
                    "interval": f"[{found['ci_low']:.4g}, {found['ci_high']:.4g}]",
                    "prompts": found["prompts"],
                    "pairs": found["pairs"],
                }
            )
            for name, found in rows.items()
            if found is not None
        ],
        schema=COMPARISON_SCHEMA,
    )


def _metric_rows(manifest: Manifest) -> list[dg.TableRecord]:
    return [
        dg.TableRecord(
            {
                "metric": name,
                "value": float(f"{metric.value:.6g}"),
                "interval": interval_text(metric),
                "n": metric.n,
                "better": {"max": "higher", "min": "lower", "none": ""}[metric.direction],
            }
        )
        for name, metric in manifest.metrics.items()
    ]


def interval_text(metric: Metric) -> str:
    """``[low, high]``, or nothing where the metric has no interval."""
    if metric.ci_low is None or metric.ci_high is None:
        return ""
    return f"[{metric.ci_low:.4g}, {metric.ci_high:.4g}]"


def _summary(artifact: Artifact) -> str | None:
    """The stage's own summary with its plots inlined."""
    path = artifact.path / "summary.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else None
    for plot in (artifact.path / name for name in PLOT_NAMES):
        if plot.is_file() and plot.stat().st_size <= INLINE_IMAGE_BYTES:
            text = f"{text or ''}\n\n{inline_image(plot)}"
    return text


def inline_image(path: Path) -> str:
    """Markdown of a PNG that needs no other file."""
    return f"![{path.stem}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})"


def _gate_result(artifact: Artifact, name: str) -> dg.AssetCheckResult:
    """A gate as a check that never blocks: the manifest's gate does, wherever the artifact is
    consumed.
    """
    gate = artifact.manifest.gates.get(name)
    if gate is None:
        return dg.AssetCheckResult(
            check_name=name,
            passed=True,
            severity=dg.AssetCheckSeverity.WARN,
            description="not measured for this kind of reward",
        )
    return dg.AssetCheckResult(
        check_name=name,
        passed=gate.passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=gate.detail or None,
        metadata={
            "gate": dg.MetadataValue.json(json.loads(gate.model_dump_json())),
            **_worst_attack(artifact, name),
        },
    )


def _worst_attack(artifact: Artifact, gate: str) -> dict[str, Any]:
    """The attack that raised the score most and the response it raised, where a gate tries any."""
    if not any(output.path == GATE_REPORT for output in artifact.manifest.outputs):
        return {}
    report = json.loads(artifact.file(GATE_REPORT).read_bytes())
    tried = [r for r in report["attacks"].get(gate, []) if r["mean"] is not None]
    if not tried:
        return {}
    worst = max(tried, key=lambda result: result["mean"])
    return {
        "attacks": dg.MetadataValue.json({r["attack_id"]: r["mean"] for r in tried}),
        "example": dg.MetadataValue.json({"attack_id": worst["attack_id"], **worst["example"]}),
    }
