"""What the server counts, in Prometheus' text form."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from unipixel.serve.worker import JobStats

disable_created_metrics()  # a time of birth for every counter doubles the text and is read by nobody
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Counters:
    """All counters of one server; several servers in one process do not mix."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "unipixel_requests", "HTTP requests.", ("method", "route", "status"), registry=registry
        )
        self._latency = Histogram(
            "unipixel_request_seconds",
            "Seconds until a response ended.",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self._jobs = Counter("unipixel_jobs", "Work for the model.", ("kind", "outcome"), registry=registry)
        self._waits = Histogram(
            "unipixel_job_wait_seconds", "Seconds in the queue.", buckets=SECONDS, registry=registry
        )
        self._runs = Histogram(
            "unipixel_job_run_seconds", "Seconds under way.", ("kind",), buckets=SECONDS, registry=registry
        )
        self._batches = Histogram(
            "unipixel_job_together", "Jobs in the same batch.", buckets=(1, 2, 4, 8, 16, 32), registry=registry
        )
        self._tokens = Counter("unipixel_tokens", "Tokens written.", registry=registry)
        self._objects = Counter("unipixel_objects", "Objects in answers.", registry=registry)
        self._waiting = Gauge("unipixel_queue_waiting", "Requests that wait for the model.", registry=registry)
        self._running = Gauge("unipixel_queue_running", "Requests under way.", registry=registry)
        self._sessions = Gauge("unipixel_sessions_open", "Open sessions.", registry=registry)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has ended."""
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def count_job(self, spent: JobStats) -> None:
        """A job has ended."""
        self._jobs.labels(spent.kind, spent.outcome).inc()
        self._waits.observe(spent.wait_s)
        self._runs.labels(spent.kind).observe(spent.run_s)
        self._batches.observe(spent.batch_size)

    def count_answer(self, tokens: int, objects: int) -> None:
        """An answer was given."""
        self._tokens.inc(tokens)
        self._objects.inc(objects)

    def render(self, *, waiting: int, running: int, sessions: int) -> bytes:
        """Everything as Prometheus reads it."""
        self._waiting.set(waiting)
        self._running.set(running)
        self._sessions.set(sessions)
        return generate_latest(self._registry)
