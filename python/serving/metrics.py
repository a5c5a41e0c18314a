"""The metrics of the service in Prometheus' format."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LISTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """One registry for each service, so that several can live in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("mmssl_requests", "Answered requests", ["path", "status"], registry=self.registry)
        self._seconds = Histogram(
            "mmssl_request_seconds",
            "Seconds from the header to the answer",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.lists = Counter("mmssl_lists", "Computed lists", registry=self.registry)
        self.batch = Histogram("mmssl_batch_lists", "Lists of a batch", buckets=LISTS, registry=self.registry)
        self.waiting = Gauge("mmssl_waiting_lists", "Lists that wait or are being computed", registry=self.registry)
        self.active = Gauge("mmssl_active_requests", "Requests that are being answered", registry=self.registry)
        self._reloads = Counter("mmssl_reloads", "Reloads of the model", ["result"], registry=self.registry)
        self._model = Gauge("mmssl_model_info", "1 for the model in use", ["version"], registry=self.registry)
        self._children: dict[tuple[str, int], Counter] = {}
        self._timers: dict[str, Histogram] = {}
        for result in ("done", "failed"):
            self._reloads.labels(result)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count a request. path: a route of the service, not what the client sent."""
        key = path, status
        if key not in self._children:  # labels() costs more than counting
            self._children[key] = self._requests.labels(path, str(status))
            self._timers.setdefault(path, self._seconds.labels(path))
        self._children[key].inc()
        self._timers[path].observe(seconds)

    def computed(self, lists: int) -> None:
        self.lists.inc(lists)
        self.batch.observe(lists)

    def reloaded(self, done: bool) -> None:
        self._reloads.labels("done" if done else "failed").inc()

    def use(self, version: str) -> None:
        self._model.clear()
        self._model.labels(version).set(1)

    def text(self) -> bytes:
        return generate_latest(self.registry)
