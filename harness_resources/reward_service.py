"""Resource ``reward_service``: a served reward for one step, attached to or started."""

from collections.abc import Generator
from contextlib import contextmanager

import dagster as dg
from pydantic import Field

from reward_harness.store import Artifact
from reward_harness.workspace import Workspace


class RewardService(dg.ConfigurableResource):
    """Finds a server that has the wanted artifact loaded, or starts one that ends with the step."""

    start_timeout_s: float = Field(default=180.0, description="how long a server may take to load")

    @contextmanager
    def url(self, workspace: Workspace, deployment: Artifact) -> Generator[str]:
        """Base URL of a server whose ``/version`` digest is the deployment's artifact."""
        from reward_harness.serving.service import serve_for

        with serve_for(workspace, deployment, start_timeout_s=self.start_timeout_s) as url:
            yield url
