"""How a running server tells where it is."""

from __future__ import annotations

from reward_harness.manifest import Frozen


class ServerRecord(Frozen):
    """A running server: ``ready_file`` and ``data/deployments/<target>/server.json``."""

    pid: int
    host: str
    port: int
    digest: str

    @property
    def url(self) -> str:
        """Where it answers; a server on all interfaces is reached on loopback."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
