"""Readers: how rows of a published format become canonical records; ``READERS`` lists them.

A reader is handed (line, row) pairs and yields (line, record or ``DataError``) pairs: what to do
about an invalid row is the source's decision, not the reader's. Row formats are pydantic models of
the fields that are read; further fields of a published file are left alone. To add one: write the
row model and its conversion beside its likes, name it here.
"""

from __future__ import annotations

from reward_harness.data.readers import preferences, ranked, stepwise, supervised
from reward_harness.data.readers.rows import Reader

READERS: dict[str, Reader] = {
    "trl-preference": preferences.TRL,
    "hh-rlhf": preferences.HH_RLHF,
    "reward-bench": preferences.REWARD_BENCH,
    "judge-bench": preferences.JUDGE_BENCH,
    "ranked-prompts": ranked.CANONICAL,
    "rubric-dataset": ranked.RUBRIC_DATASET,
    "prometheus": ranked.PROMETHEUS,
    "alpaca": supervised.ALPACA,
    "gsm8k-solutions": supervised.GSM8K_SOLUTIONS,
    "gsm8k-problems": supervised.GSM8K_PROBLEMS,
    "prm800k": stepwise.PRM800K,
    "prm800k-decoded": stepwise.PRM800K_DECODED,
    "big-bench-mistake": stepwise.BIG_BENCH_MISTAKE,
    "gsm8k-steps": stepwise.GSM8K_STEPS,
}
