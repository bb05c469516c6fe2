"""The server's Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Telemetry:
    """Counts of requests and items, latencies, and what is in flight."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "harness_requests",
            "Requests by route and status.",
            ["endpoint", "status"],
            registry=self._registry,
        )
        self.items = Counter(
            "harness_items",
            "Items by result: scored, or the error code.",
            ["result"],
            registry=self._registry,
        )
        self.latency = Histogram(
            "harness_request_seconds",
            "Time from request to answer.",
            ["endpoint"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self.in_flight = Gauge(
            "harness_in_flight", "Scoring requests being answered.", registry=self._registry
        )

        self._by_route: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def count_request(self, endpoint: str, status: int, seconds: float) -> None:
        """Note one answer; looking a child up by its labels costs more than counting."""
        found = self._by_route.get((endpoint, status))
        if found is None:
            found = self.requests.labels(endpoint, str(status)), self.latency.labels(endpoint)
            self._by_route[endpoint, status] = found
        found[0].inc()
        found[1].observe(seconds)

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)
