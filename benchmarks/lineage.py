"""How soon a question about 1,000 experiments of 20 stages is answered by a cold process.

    python -m benchmarks.lineage [experiments]

The project is generated: manifests and publications as the store writes them (a tenth of the
experiments share their datasets, a third published everything twice), with tiny files behind them.
Each command is the median of whole processes with the ledger built, by the clock and in processor
seconds, beside the floor, an interpreter that imports duckdb; *refresh* is the first question after
one new publication. Processor seconds are what a busy machine leaves comparable.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import numpy as np

from benchmarks.recording import keep, machine
from reward_harness.hashing import digest_bytes, digest_json
from reward_harness.manifest import (
    MANIFEST_NAME,
    Code,
    Cost,
    Environment,
    Manifest,
    Metric,
    Output,
    Reproduce,
    outputs_digest,
)
from reward_harness.spec import read_experiment
from reward_harness.stages.table import STAGES, wanted_stages
from reward_harness.store import PUBLICATIONS_NAME, Publication

REPOSITORY = Path(__file__).resolve().parents[1]
EXPERIMENTS, STAGES_EACH, ROUNDS = 1000, 20, 5
SHARING = 100
METRICS = {"policy_report": 40, "rm_report": 20}
OTHER_METRICS = 6
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
ENVIRONMENT = Environment(python="3.11.9", packages={"torch": "2.13.0"}, device="cpu")
EDITED = "exp-0007"


@cache
def stage_names() -> list[str]:
    """The stages of the experiment ``tour``, and more after them to reach the number."""
    tour = read_experiment(REPOSITORY / "data" / "experiments", "tour")
    names = [stage.name for stage in wanted_stages(tour)]
    return [*names, *(f"further_{n}" for n in range(STAGES_EACH - len(names)))]


def inputs_of(stage: str, made: dict[str, str]) -> dict[str, str]:
    """The inputs a stage of the graph has; a further one reads the policies' report."""
    names = STAGES[stage].inputs if stage in STAGES else ("policy_report",)
    return {name: made[name] for name in names if name in made}


def publish(
    folder: Path, experiment: str, stage: str, inputs: dict[str, str], content: str, at: datetime
) -> str:
    """Write one artifact and its publication as the store does, without its locks and syncs."""
    files = {"out.txt": content.encode()}
    if stage in ("ppo_checkpoint", "grpo_checkpoint"):
        reward = inputs["rm_deployment"]
        rows = [{"step": step, "reward_digest": reward} for step in range(1, 9)]
        files["metrics.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    outputs = [Output(path=n, sha256=digest_bytes(b), bytes=len(b)) for n, b in files.items()]
    digest = outputs_digest(outputs)
    generator = np.random.default_rng(int(digest[:8], 16))
    spec_digest = digest_json([experiment, stage])
    manifest = Manifest(
        stage=stage,
        experiment=experiment,
        digest=digest,
        created_at=at.isoformat(),
        inputs=inputs,
        spec_digest=spec_digest,
        code=Code(version="1", commit="0" * 40, dirty=False),
        environment=ENVIRONMENT,
        outputs=outputs,
        metrics=dict(measured(stage, generator)),
        cost=Cost(seconds=float(generator.uniform(1, 100))),
        reproduce=Reproduce(argv=["harness", "stage", experiment, stage]),
    )
    publication = Publication(
        digest=digest,
        recipe=digest_json([stage, inputs, content]),
        inputs=inputs,
        spec_digest=spec_digest,
        run_id=f"run-{experiment}",
        published_at=at.isoformat(timespec="milliseconds"),
    )
    (folder / digest).mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / digest / name).write_bytes(data)
    (folder / digest / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1))
    with (folder / PUBLICATIONS_NAME).open("a") as stream:
        stream.write(publication.model_dump_json() + "\n")
    return digest


def measured(stage: str, generator: np.random.Generator) -> Iterator[tuple[str, Metric]]:
    """Metrics near .6 with intervals of ± .02; a third of them are better when lower."""
    for index in range(METRICS.get(stage, OTHER_METRICS)):
        value = float(generator.normal(0.6, 0.012))
        direction = ("max", "min", "none")[index % 3]
        yield (
            f"metric_{index}",
            Metric(
                value=value, ci_low=value - 0.02, ci_high=value + 0.02, n=500, direction=direction
            ),
        )


def generate(root: Path, experiments: int) -> None:
    """A project of so many experiments, with their spec snapshots."""
    (root / "workspace.yaml").write_text("load_from: []\n")
    for index in range(experiments):
        key = f"exp-{index:04d}"
        for version in range(2 if index % 3 == 0 else 1):
            made: dict[str, str] = {}
            at = BEGIN + timedelta(hours=index, days=40 * version)
            for position, stage in enumerate(stage_names()):
                shared = stage in STAGES and STAGES[stage].group == "datasets"
                content = f"{stage} {index // SHARING if shared else f'{index} {version}'}"
                folder = root / "data" / "runs" / key / stage
                moment = at + timedelta(minutes=position)
                inputs = inputs_of(stage, made)
                made[stage] = publish(folder, key, stage, inputs, content, moment)
        specs = root / "data" / "runs" / key / "specs"
        specs.mkdir()
        for stage in stage_names():
            snapshot = {"key": key, "seed": index, "policy": {"ppo": {"max_steps": index}}}
            (specs / f"{digest_json([key, stage])}.json").write_text(json.dumps(snapshot))


def commands(root: Path) -> dict[str, list[str]]:
    """The questions, about experiments in the middle of the project."""
    lines = (root / "data/runs" / EDITED / "ppo_checkpoint" / PUBLICATIONS_NAME).read_text()
    digest = json.loads(lines.splitlines()[-1])["digest"]
    return {
        "show": ["show", EDITED],
        "diff": ["diff", EDITED, "exp-0008"],
        "impact": ["impact", f"{EDITED}/preference_pairs"],
        "impact_by_content": ["impact", dataset_digest(root)],
        "scored_by": ["scored-by", digest],
        "regressions": ["regressions"],
        "leaderboard": ["leaderboard", "--metric", "policy_report:metric_0"],
    }


def dataset_digest(root: Path) -> str:
    """Digest of the dataset that a hundred experiments share."""
    path = root / "data/runs" / EDITED / "preference_pairs" / PUBLICATIONS_NAME
    return json.loads(path.read_text().splitlines()[-1])["digest"]


@dataclass(frozen=True, slots=True)
class Took:
    """What one process took."""

    clock_s: float
    processor_s: float


def medians(found: Iterable[Took]) -> dict[str, float]:
    """Of clock and processor."""
    clock, processor = zip(*((t.clock_s, t.processor_s) for t in found), strict=True)
    return {
        "clock_s": round(statistics.median(clock), 2),
        "fastest_clock_s": round(min(clock), 2),
        "processor_s": round(statistics.median(processor), 2),
    }


def timed(arguments: list[str], root: Path) -> Took:
    """One Python process, which must succeed (1 says that regressions were found)."""
    start, before = time.perf_counter(), getrusage(RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"HARNESS_ROOT": str(root)},
        capture_output=True,
        text=True,
    )
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:
        raise RuntimeError(done.stderr)
    after = getrusage(RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(time.perf_counter() - start, used)


def measure(root: Path, experiments: int) -> dict[str, object]:
    """Generate, build the ledger, and ask everything in rounds."""
    generate(root, experiments)
    harness = ["-m", "reward_harness.cli", "lineage"]
    rebuild = timed([*harness, "rebuild"], root)
    asked = {name: [*harness, *words] for name, words in commands(root).items()}
    asked["python_and_duckdb"] = ["-c", "import duckdb"]
    times: dict[str, list[Took]] = {name: [] for name in asked}
    refreshes: list[Took] = []
    for turn in range(ROUNDS):
        for name, arguments in asked.items():
            times[name].append(timed(arguments, root))
        folder = root / "data/runs" / EDITED / "rl_prompts"
        at = BEGIN + timedelta(days=99 + turn)
        publish(folder, EDITED, "rl_prompts", {}, f"again {turn}", at)
        refreshes.append(timed(asked["impact"], root))
    return {
        **machine(),
        "experiments": experiments,
        "stages_each": len(stage_names()),
        "rounds": ROUNDS,
        "rebuild": medians([rebuild]),
        "refresh": medians(refreshes),
        "questions": {name: medians(found) for name, found in times.items()},
    }


def main() -> None:
    """Measure, print and keep the result."""
    experiments = int(sys.argv[1]) if len(sys.argv) > 1 else EXPERIMENTS
    with tempfile.TemporaryDirectory() as folder:
        keep("lineage", measure(Path(folder), experiments))


if __name__ == "__main__":
    main()
