"""What the routes share: the artifact in force, the settings, the counters, and each request's
trace.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from reward_harness.serving.front import Trace
from reward_harness.serving.settings import ServerSettings
from reward_harness.serving.source import Source
from reward_harness.serving.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Context:
    """Made once for each application."""

    source: Source
    settings: ServerSettings
    telemetry: Telemetry


def context_of(request: Request) -> Context:
    """The application's context."""
    return request.app.state.context


def trace_of(request: Request) -> Trace:
    """The request's trace."""
    return request.state.trace
