"""HTTP on the daemon's own loop: health, metrics, predictions, and the document of it all."""

import asyncio
import math
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from quantum_ai_engine.config import HttpSettings
from quantum_ai_engine.daemon.access import guard, tls
from quantum_ai_engine.daemon.answers import Health, Live, Ready
from quantum_ai_engine.daemon.build import version
from quantum_ai_engine.daemon.judged import Shown, shown
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.openapi import document
from quantum_ai_engine.daemon.page.page import Page
from quantum_ai_engine.daemon.routes import JSON, Route, answer, application
from quantum_ai_engine.daemon.status import Status
from quantum_ai_engine.engine import Engine

SHUTDOWN_S = 0.3  # a request that is never finished must not hold up the stop
ACCEPTED_S = 0.05  # what has just been accepted has its request on the way
METRICS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
SCRAPE_AGAIN_S = 0.25  # as old as a scrape may be: each is some ms in which no signal is made


class Api:
    """How the engine is; it reads the daemon's status and state, and changes neither."""

    def __init__(
        self,
        status: Status,
        metrics: Metrics,
        engines: Callable[[], Mapping[int, Engine]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._metrics = metrics
        self._engines = engines
        self._clock = clock
        self._scraped_s, self._scraped = -math.inf, b""

    def routes(self) -> list[Route]:
        return [
            Route(
                method="GET",
                path="/health",
                handler=self.health,
                summary="How the engine is, from work done; always 200",
                answers={200: Health},
            ),
            Route(
                method="GET",
                path="/health/live",
                handler=self.live,
                summary="Whether the event loop turns",
                answers={200: Live},
            ),
            Route(
                method="GET",
                path="/health/ready",
                handler=self.ready,
                summary="Whether all partitions are served",
                answers={200: Ready, 503: Ready},
            ),
            Route(
                method="GET",
                path="/metrics",
                handler=self.metrics,
                summary="Metrics in the text format of Prometheus",
                answers={200: str},
                content=METRICS_TEXT,
            ),
            Route(
                method="GET",
                path="/agents",
                handler=self.agents,
                summary="Standing, evidence, scores, trust, policy and risk, by partition",
                answers={200: list[Shown]},
            ),
        ]

    async def health(self, _: web.Request) -> web.Response:
        return answer(self._status.health())

    async def live(self, _: web.Request) -> web.Response:
        """Answering at all proves that the loop turns."""
        return answer(Live("alive", self._status.loop_lag_s * 1000))

    async def ready(self, _: web.Request) -> web.Response:
        if self._status.ready:
            return answer(Ready(ready=True))
        return answer(Ready(ready=False, reason=self._status.reason()), status=503)

    async def metrics(self, _: web.Request) -> web.Response:
        """The metrics as they are, or as they were a moment ago for who asks without a pause."""
        if (now := self._clock()) - self._scraped_s >= SCRAPE_AGAIN_S:
            self._scraped_s, self._scraped = now, self._metrics.render()
        return web.Response(body=self._scraped, headers={"Content-Type": METRICS_TEXT})

    async def agents(self, _: web.Request) -> web.Response:
        """How each agent stands and what it scored, by partition; null where nothing settled."""
        return answer(
            [
                shown(p, engine.state.judgement, engine.shifts.of)
                for p, engine in self._engines().items()
            ]
        )


def described(routes: Sequence[Route]) -> list[Route]:
    """The routes, and `/openapi.json`, which describes them all and itself."""

    async def openapi(_: web.Request) -> web.Response:
        return web.Response(body=text, content_type=JSON)

    itself = Route(
        method="GET",
        path="/openapi.json",
        handler=openapi,
        summary="This document",
        answers={200: dict[str, Any]},
    )
    everything = [*routes, itself]
    text = msgspec.json.encode(document(everything, version()))
    return everything


async def serve(
    routes: Sequence[Route],
    page: Page,
    settings: HttpSettings,
    passed: socket.socket | None = None,
) -> web.AppRunner:
    """Listen where the settings say, or on a socket that listens already; `close` ends it.

    Raises OSError when it cannot.
    """
    context, app = tls(settings), application(described([*routes, *page.routes()]))
    app.middlewares.append(guard(settings))
    page.dress(app)
    # A body in another encoding is refused, so nothing is unpacked: least of all a bomb.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S, auto_decompress=False)
    await runner.setup()
    if passed is None:
        site: web.BaseSite = web.TCPSite(runner, settings.host, settings.port, ssl_context=context)
    else:
        # asyncio calls listen() again: callers queue there while the engine restarts.
        site = web.SockSite(runner, passed, ssl_context=context, backlog=socket.SOMAXCONN)
    await site.start()
    return runner


async def close(runner: web.AppRunner) -> None:
    """Accept nobody any more, answer who has been accepted, then end."""
    for site in list(runner.sites):
        await site.stop()
    await asyncio.sleep(ACCEPTED_S)
    await runner.cleanup()
