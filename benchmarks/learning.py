"""Do the training stages teach what they should? Measured on held-out data, over seeds.

    python -m benchmarks.learning sums|dpo|steps|length|penalty …

*sums*: the shipped experiment ``sums``; GRPO and PPO from one start, the share of right answers to
40 unseen additions, eight samples each, before and after. *dpo*: preference accuracy on the tour's
held-out pairs. *steps*: a process reward model trained on PRM800K and its outcome twin on
BIG-Bench-Mistake's traces that reach the right answer by a wrong step. *length*: a Bradley-Terry
model trained on hh-harmless, on AlpacaEval's pairs, where the longer response mostly wins.
*penalty*: KL at matched reward in what has run of the study ``ensemble-penalty``. *steps* and
*length* need ``HARNESS_DATA_MIRROR``.

Every model is trained by a stage or by its job file under another seed, in the project that
``HARNESS_ROOT`` names; what is there already is measured, not trained again. Intervals are 95 %
bootstraps over prompts; over several seeds, seeds are resampled first. Results go to
``results/learning.json`` as they come.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks import learning_policies, learning_rewards
from benchmarks.recording import known, write
from reward_harness.workspace import Workspace

Row = dict[str, Any]
PARTS: dict[str, Callable[[Workspace, Callable[[str, Row], None]], None]] = {
    "sums": learning_policies.measure_sums,
    "dpo": learning_policies.measure_dpo,
    "steps": learning_rewards.measure_steps,
    "length": learning_rewards.measure_length,
    "penalty": learning_policies.measure_penalty,
}


def keep(part: str, name: str, row: Row) -> None:
    """Show one result and put it beside what was measured before."""
    print(json.dumps({part: {name: row}}), flush=True)  # noqa: T201
    found = known("learning")
    found.setdefault(part, {})[name] = row
    write("learning", found)


def main(wanted: list[str]) -> None:
    """Measure the named parts."""
    if not wanted or set(wanted) - set(PARTS):
        sys.exit(f"name what to measure: {', '.join(PARTS)}")
    workspace = Workspace.discover()
    for part in wanted:
        PARTS[part](workspace, lambda name, row, part=part: keep(part, name, row))


if __name__ == "__main__":
    main(sys.argv[1:])
