"""Where an artifact came from: the tree of everything upstream, from manifests and publications.

No database and no running Dagster: a publication names the digest of each input, and that digest's
own newest publication names the next ones. An input named ``<experiment>/<stage>`` belongs to
another experiment (the leaderboard's do). An upstream artifact that is gone from the disk stays in
the tree, marked as missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from reward_harness.errors import ArtifactError
from reward_harness.manifest import Cost, Manifest
from reward_harness.store import Artifact, ArtifactStore

Identity = tuple[str, str, str]
"""Experiment, stage, digest."""


@dataclass(frozen=True, slots=True)
class Node:
    """One artifact with what it was made from; ``manifest`` is None if it is gone from the disk."""

    experiment: str
    stage: str
    digest: str
    manifest: Manifest | None
    published_at: str | None
    run_id: str | None
    spec_digest: str | None = None
    recipe: str | None = None
    inputs: tuple[Node, ...] = field(default_factory=tuple["Node", ...])

    @property
    def identity(self) -> Identity:
        return self.experiment, self.stage, self.digest

    def walk(self) -> Iterator[Node]:
        """This node and everything upstream, each artifact once, inputs after what they feed."""
        yield from _walk((self,))


@dataclass(frozen=True, slots=True)
class Lineage:
    """The trees of one or several artifacts of an experiment."""

    experiment: str
    roots: tuple[Node, ...]

    def nodes(self) -> list[Node]:
        """Every artifact in the trees once."""
        return list(_walk(self.roots))

    def total_cost(self) -> Cost:
        """What making every artifact once took; memory is the largest of them."""
        costs = [node.manifest.cost for node in self.nodes() if node.manifest]
        paid = [cost.usd for cost in costs if cost.usd is not None]
        return Cost(
            llm_calls=sum(cost.llm_calls for cost in costs),
            llm_cached=sum(cost.llm_cached for cost in costs),
            prompt_tokens=sum(cost.prompt_tokens for cost in costs),
            completion_tokens=sum(cost.completion_tokens for cost in costs),
            usd=sum(paid) if paid else None,
            seconds=sum(cost.seconds for cost in costs),
            peak_memory_bytes=max((cost.peak_memory_bytes for cost in costs), default=0),
        )


def lineage_of(
    store: ArtifactStore, experiment: str, stage: str | None = None, digest: str | None = None
) -> Lineage:
    """An artifact with all upstream: that of ``digest``, or the current one of ``stage``, or of
    every stage that feeds no other.

    ``ArtifactError`` if the experiment has published nothing, or nothing of that name.
    """
    if stage and digest:
        found = [store.load(experiment, stage, digest)]
    else:
        stages = [stage] if stage else published_stages(store, experiment)
        current = [store.current(experiment, name) for name in stages]
        found = [artifact for artifact in current if artifact is not None]
    if not found:
        raise ArtifactError(
            f"no artifact of {stage}" if stage else "nothing has been published",
            where=experiment,
            fix=f"Run `harness experiment run {experiment}` first.",
        )
    known: dict[Identity, Node] = {}
    found.sort(key=lambda artifact: artifact.publication.published_at)
    nodes = [_node(store, artifact, known) for artifact in found]
    fed = {identity for node in nodes for below in node.inputs for identity in [below.identity]}
    return Lineage(experiment, tuple(node for node in nodes if node.identity not in fed))


def published_stages(store: ArtifactStore, experiment: str) -> list[str]:
    """Stages of the experiment that have publications, by name."""
    folder = store.root / experiment
    return sorted(path.parent.name for path in folder.glob("*/publications.jsonl"))


def _walk(roots: tuple[Node, ...]) -> Iterator[Node]:
    seen: set[Identity] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop(0)
        if node.identity not in seen:
            seen.add(node.identity)
            yield node
            waiting.extend(node.inputs)


def _node(store: ArtifactStore, artifact: Artifact, known: dict[Identity, Node]) -> Node:
    manifest, publication = artifact.manifest, artifact.publication
    experiment, stage = manifest.experiment, manifest.stage
    if (identity := (experiment, stage, artifact.digest)) in known:
        return known[identity]
    inputs = [_resolve(experiment, name, digest) for name, digest in _inputs(artifact)]
    known[identity] = Node(
        experiment=experiment,
        stage=stage,
        digest=artifact.digest,
        manifest=manifest,
        published_at=publication.published_at,
        run_id=publication.run_id,
        spec_digest=publication.spec_digest,
        recipe=publication.recipe,
        inputs=tuple(_upstream(store, item, known) for item in inputs),
    )
    return known[identity]


def _upstream(store: ArtifactStore, identity: Identity, known: dict[Identity, Node]) -> Node:
    if identity in known:
        return known[identity]
    try:
        artifact = store.load(*identity)
    except ArtifactError:
        return Node(*identity, manifest=None, published_at=None, run_id=None)
    return _node(store, artifact, known)


def _inputs(artifact: Artifact) -> list[tuple[str, str]]:
    return sorted(artifact.publication.inputs.items())


def _resolve(experiment: str, name: str, digest: str) -> Identity:
    """The artifact that an input's name and digest mean, seen from ``experiment``."""
    owner, _, stage = name.rpartition("/")
    return owner or experiment, stage, digest
