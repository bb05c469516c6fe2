"""What a server serves: one artifact for its whole life, or whatever a target's pointer names.

A new deployment is loaded beside the old one and swapped in between two requests; the old one is
closed when the last request that began with it has ended. An artifact that cannot be loaded, or
that a gate bars, leaves the old one in force. All methods run on the server's event loop, so there
are no locks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from reward_harness.errors import ArtifactError, HarnessError
from reward_harness.llm.budget import Caps, Usage
from reward_harness.rewards.load import load_rm
from reward_harness.rm.artifact import RMArtifact, read_artifact
from reward_harness.rm.deployments import Deployments, require_deployable
from reward_harness.serving.batching import Scorer
from reward_harness.serving.judge import serve_judge

POLL_S = 0.2

logger = logging.getLogger("reward_harness")


@dataclass(slots=True)
class Served:
    """One loaded artifact and the requests that are using it."""

    artifact: RMArtifact
    digest: str
    scorer: Scorer
    deploy_id: str | None = None
    leases: int = 0
    retired: bool = False


class Source:
    """The artifact in force.

    Args:
        path: an artifact to serve for good; or
        deployments: the target whose pointer is followed.
        device: where a classifier computes.
        cache: folder of the verdict store.
        api_key_env: the variable with the judge's key, where the artifact's own is not to be used.
        caps: what all judges together may spend while this source lives.
    """

    def __init__(
        self,
        path: Path | None = None,
        deployments: Deployments | None = None,
        device: str = "cpu",
        cache: Path | None = None,
        api_key_env: str | None = None,
        caps: Caps | None = None,
    ) -> None:
        self._caps, self._usage = caps or Caps(), Usage()
        self._deployments, self._device = deployments, device
        self._cache, self._api_key_env = cache, api_key_env
        self._served = self._load(path) if path is not None else self._load_deployed()
        self._follower: asyncio.Task[None] | None = None

    @property
    def current(self) -> Served:
        return self._served

    @contextmanager
    def lease(self) -> Generator[Served]:
        """Use the artifact in force for one request."""
        served = self._served
        served.leases += 1
        try:
            yield served
        finally:
            served.leases -= 1
            if served.retired and served.leases == 0:
                served.scorer.close()

    def start(self) -> None:
        """Begin to follow the pointer, if there is one to follow."""
        if self._deployments is not None:
            self._follower = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop following and finish what was accepted."""
        if self._follower is not None:
            self._follower.cancel()
            with suppress(asyncio.CancelledError):
                await self._follower
        await asyncio.to_thread(self._served.scorer.close)

    async def refresh(self) -> None:
        """Swap in what the pointer names now; a deployment that cannot be loaded raises."""
        manifest = self._deployments.current() if self._deployments else None
        if manifest is None or manifest.deploy_id == self._served.deploy_id:
            return
        fresh = await asyncio.to_thread(self._load_deployed)
        old, self._served = self._served, fresh
        old.retired = True
        if old.leases == 0:
            old.scorer.close()
        logger.info("now serving %s (%s)", fresh.artifact.artifact_id, fresh.digest)

    async def _follow(self) -> None:
        complained: str | None = None
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.refresh()
                complained = None
            except (HarnessError, OSError) as error:
                if str(error) != complained:
                    logger.error("deployment not taken over: %s", error)
                complained = str(error)

    def _load_deployed(self) -> Served:
        if self._deployments is None:
            raise ArtifactError("neither an artifact nor a deployment target to serve")
        target = self._deployments.target
        manifest = self._deployments.current()
        if manifest is None:
            raise ArtifactError(
                "nothing is deployed",
                where=f"deployments/{target}",
                fix="Run an experiment up to rm_deployment, or `harness deploy`.",
            )
        path = self._deployments.artifact_path(manifest)
        require_deployable(path, target)
        served = self._load(path)
        if served.digest != manifest.artifact_digest:
            raise ArtifactError(
                "the artifact is not the one that was deployed",
                where=str(path),
                got=served.digest,
                expected=manifest.artifact_digest,
            )
        served.deploy_id = manifest.deploy_id
        return served

    def _load(self, path: Path) -> Served:
        rm = load_rm(path, self._device, cache=self._cache, api_key_env=self._api_key_env)
        serve_judge(rm, self._caps, self._usage)
        return Served(artifact=read_artifact(path), digest=rm.digest or "", scorer=Scorer(rm))
