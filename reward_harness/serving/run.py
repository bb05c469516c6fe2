"""Running the server's process: the socket, the ready file, the registry entry, the end.

The socket is bound here, so that port 0 can be used and the port that was got is known; the ready
file and the registry entry are written when the server answers, never before.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from reward_harness.durable import write_atomically
from reward_harness.errors import SpecError
from reward_harness.serving.app import create_app
from reward_harness.serving.records import ServerRecord
from reward_harness.serving.settings import ServerSettings
from reward_harness.serving.source import Source

GRACE_S = 30
BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen and how the starter is told."""

    host: str = "127.0.0.1"
    port: int = 8100
    ready_file: Path | None = None
    die_with_stdin: bool = False


class _Server(uvicorn.Server):
    """Announces itself when it answers."""

    def __init__(
        self,
        config: uvicorn.Config,
        record: ServerRecord,
        ready_file: Path | None,
        registry: Path | None,
        announce: Callable[[ServerRecord], None] | None,
    ) -> None:
        super().__init__(config)
        self._announce = announce
        self._record, self._registry = record, registry
        self._files = [path for path in (ready_file, registry) if path is not None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._announce is not None:
            self._announce(self._record)
        for path in self._files if self.started else []:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, self._record.model_dump_json().encode())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # here and not after run(): uvicorn raises the signal again when it is done
        _withdraw(self._registry, self._record)
        await super().shutdown(sockets)


def run_server(
    source: Source,
    settings: ServerSettings,
    listen: Listen,
    registry: Path | None = None,
    announce: Callable[[ServerRecord], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; requests in flight get ``GRACE_S`` seconds to end.

    ``announce`` is called once the server answers.
    """
    bound = _bind(listen.host, listen.port)
    record = ServerRecord(
        pid=os.getpid(),
        host=listen.host,
        port=bound.getsockname()[1],
        digest=source.current.digest,
    )
    config = uvicorn.Config(
        create_app(source, settings),
        log_level="error",  # below it: a line for each request that is no HTTP
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
    )
    if listen.die_with_stdin:
        threading.Thread(target=_end_with_stdin, name="stdin-watch", daemon=True).start()
    try:
        _Server(config, record, listen.ready_file, registry, announce).run(sockets=[bound])
    finally:
        bound.close()


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise SpecError(
            "cannot listen there",
            where=f"{host}:{port}",
            got=error.strerror,
            fix="Choose another --port; 0 takes a free one.",
        ) from error
    bound.listen(BACKLOG)
    return bound


def _withdraw(registry: Path | None, record: ServerRecord) -> None:
    """Remove the registry entry if it is still this server's."""
    if registry is None or not registry.is_file():
        return
    if ServerRecord.model_validate_json(registry.read_bytes()).pid == record.pid:
        registry.unlink()


def _end_with_stdin() -> None:
    """The starter holds the other end: its death, however it dies, ends this process."""
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
