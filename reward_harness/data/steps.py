"""Choosing labelled steps so that their place gives nothing away.

In PRM800K's published solutions only the last step is ever wrong: a model that knows the place of a
step, or that it is the last one, would look good without reading it. ``matched_steps`` keeps, at
every position, as many wrong as right steps; ``matched_solutions`` as many wrong as right solutions
of every length. What is kept is decided by the ids and the seed alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from reward_harness.data.records import StepwiseExample
from reward_harness.hashing import unit_interval

WRONG = -1


def is_right(example: StepwiseExample) -> bool:
    """Whether no step is wrong; neutral steps are not."""
    return WRONG not in example.labels


def matched_steps(examples: Sequence[StepwiseExample], seed: int) -> dict[str, tuple[bool, ...]]:
    """For each example, by id, which of its steps are kept."""
    places: dict[int, dict[bool, list[str]]] = defaultdict(lambda: {True: [], False: []})
    for example in examples:
        for place, label in enumerate(example.labels):
            places[place][label != WRONG].append(example.example_id)
    kept: set[tuple[str, int]] = set()
    for place, found in places.items():
        size = min(len(found[True]), len(found[False]))
        for ids in found.values():
            order = sorted(ids, key=lambda name: (unit_interval("step", seed, name, place), name))
            kept.update((name, place) for name in order[:size])
    return {
        example.example_id: tuple(
            (example.example_id, place) in kept for place in range(len(example.steps))
        )
        for example in examples
    }


def matched_solutions(examples: Sequence[StepwiseExample], seed: int) -> list[StepwiseExample]:
    """As many wrong as right solutions of every number of steps, in their order."""
    groups: dict[int, dict[bool, list[str]]] = defaultdict(lambda: {True: [], False: []})
    for example in examples:
        groups[len(example.steps)][is_right(example)].append(example.example_id)
    kept: set[str] = set()
    for found in groups.values():
        size = min(len(found[True]), len(found[False]))
        for ids in found.values():
            order = sorted(ids, key=lambda name: (unit_interval("solution", seed, name), name))
            kept.update(order[:size])
    return [example for example in examples if example.example_id in kept]
