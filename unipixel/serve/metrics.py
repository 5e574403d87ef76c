"""What the server counts, in Prometheus' text form, and the line that it logs for each request."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import HistogramMetricFamily
from starlette.datastructures import Headers
from starlette.types import ASGIApp

from unipixel.serve.errors import REQUEST_ID
from unipixel.serve.responses import build_error_response
from unipixel.serve.worker import Job

disable_created_metrics()  # creation times double the text, and nobody reads them
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
"""What routes may answer to."""
ACCESS = logging.getLogger("unipixel.access")
"""One line for each request, in ``key=value`` form; it names the route, never what was asked or by which key."""
ID_HEADER = "X-Request-Id"
_SANE_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
SAFE_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class _DecodeSizes:
    """How many replies shared each reading of the language model's weights, as a histogram.

    Args:
        sizes: how often how many did, see `ContinuousBatch`.
    """

    def __init__(self, sizes: Mapping[int, int]) -> None:
        self._sizes = sizes

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What the registry asks for."""
        sizes = dict(self._sizes)
        counts = [(edge, sum(times for size, times in sizes.items() if size <= edge)) for edge in (1, 2, 4, 8, 16, 32)]
        buckets = [*((f"{edge:.1f}", count) for edge, count in counts), ("+Inf", sum(sizes.values()))]
        total = sum(size * times for size, times in sizes.items())
        yield HistogramMetricFamily(
            "unipixel_decode_together", "Replies for which a token was read together.", buckets=buckets, sum_value=total
        )


class Counters:
    """All counters of one server; several servers in one process do not mix.

    Args:
        decode_sizes: how often how many replies were written together.
    """

    def __init__(self, decode_sizes: Mapping[int, int]) -> None:
        registry = self._registry = CollectorRegistry()
        registry.register(_DecodeSizes(decode_sizes))
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
        self._tokens = Counter("unipixel_tokens", "Tokens written.", registry=registry)
        self._objects = Counter("unipixel_objects", "Objects in answers.", registry=registry)
        self._waiting = Gauge("unipixel_queue_waiting", "Requests that wait for the model.", registry=registry)
        self._running = Gauge("unipixel_queue_running", "Requests under way.", registry=registry)
        self._sessions = Gauge("unipixel_sessions_open", "Open sessions.", registry=registry)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def count_job(self, job: Job, outcome: str) -> None:
        """Count a finished job; see `ModelWorker` for outcomes."""
        self._jobs.labels(job.kind, outcome).inc()
        self._waits.observe(job.started_s - job.submitted_s)
        self._runs.labels(job.kind).observe(job.finished_s - job.started_s)

    def count_answer(self, tokens: int, objects: int) -> None:
        self._tokens.inc(tokens)
        self._objects.inc(objects)

    def render(self, *, waiting: int, running: int, sessions: int) -> bytes:
        """Everything as Prometheus reads it."""
        self._waiting.set(waiting)
        self._running.set(running)
        self._sessions.set(sessions)
        return generate_latest(self._registry)


def choose_request_id(given: str | None) -> str:
    """The id that a request brought along, so that proxies and servers speak of it by one name; else a new one."""
    return given if given is not None and _SANE_ID.fullmatch(given) else secrets.token_hex(8)


class MetricsMiddleware:
    """Counts and logs requests, adds the headers that all responses have, and answers for what nobody foresaw."""

    def __init__(self, app: ASGIApp, counters: Counters) -> None:
        self._app, self._counters = app, counters

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_s, status, has_begun = time.monotonic(), 500, False
        request_id = choose_request_id(Headers(scope=scope).get(ID_HEADER))
        REQUEST_ID.set(request_id)
        added = (*SAFE_HEADERS, (ID_HEADER.lower().encode(), request_id.encode()))

        async def send_and_note(message: Any) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            if has_begun:
                raise
            # answered here, because the framework would raise it again and close the connection
            await build_error_response(error)(scope, receive, send_and_note)
        finally:
            # the pattern instead of the path, of which there are endlessly many
            route = getattr(scope.get("route"), "path", None) or "other"
            method = scope["method"] if scope["method"] in (*METHODS, "OPTIONS") else "other"
            seconds = time.monotonic() - start_s
            self._counters.count_request(method, route, status, seconds)
            line = "id=%s method=%s route=%s status=%d seconds=%.3f"
            ACCESS.info(line, request_id, method, route, status, seconds)
