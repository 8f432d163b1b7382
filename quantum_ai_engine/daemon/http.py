"""HTTP on the daemon's own loop: health, metrics and predictions."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeAlias

import msgspec
from aiohttp import web
from msgspec import Meta

from quantum_ai_engine.config import HttpSettings
from quantum_ai_engine.daemon.judged import shown
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.status import PartitionStatus, Status
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.events import INTERVAL_MS, Bar, Forecast, Refused
from quantum_ai_engine.features.store import LOOKBACK

MOST_BARS = 5000
SHUTDOWN_S = 0.3  # a request that is never finished must not hold up the stop
ACCEPTED_S = 0.05  # what has just been accepted has its request on the way
BODY_BYTES = 4 * 1024 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _BadRequest(Exception):  # noqa: N818 (named after its status)
    """One sentence for the caller, and the HTTP status that goes with it."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class GivenBar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bar in a request; symbol and interval are the request's."""

    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class PredictRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /predict`."""

    symbol: str
    interval: str | None = None
    lookback: Annotated[int, Meta(ge=1, le=LOOKBACK)] = 1
    features: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    bars: Annotated[tuple[GivenBar, ...], Meta(min_length=2, max_length=MOST_BARS)] | None = None


Home: TypeAlias = tuple[Engine, PartitionStatus]  # where a symbol lives


class Api:
    """The handlers; they read the daemon's status and ask its engine, and change neither."""

    def __init__(
        self,
        status: Status,
        metrics: Metrics,
        home_of: Callable[[str], Home | None],
        engines: Callable[[], Mapping[int, Engine]],
    ) -> None:
        self._status = status
        self._metrics = metrics
        self._home_of = home_of
        self._engines = engines

    def application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES, middlewares=[_sentences])
        app.router.add_get("/health", self.health)
        app.router.add_get("/health/live", self.live)
        app.router.add_get("/health/ready", self.ready)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/agents", self.agents)
        app.router.add_post("/predict", self.predict)
        return app

    async def health(self, _: web.Request) -> web.Response:
        return _json(self._status.health())

    async def live(self, _: web.Request) -> web.Response:
        """Answering at all proves that the loop turns."""
        return _json({"status": "alive", "loop_lag_ms": self._status.loop_lag_s * 1000})

    async def ready(self, _: web.Request) -> web.Response:
        if self._status.ready:
            return _json({"ready": True})
        return _json({"ready": False, "reason": self._status.reason()}, status=503)

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.render(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def agents(self, _: web.Request) -> web.Response:
        """How each agent stands and what it scored, by partition; null where nothing settled."""
        return _json(
            [
                shown(p, engine.state.judgement, engine.shifts.of)
                for p, engine in self._engines().items()
            ]
        )

    async def predict(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=PredictRequest)
        except msgspec.DecodeError as error:
            raise _BadRequest(str(error)) from error
        home = self._home_of(asked.symbol)
        if home is None:
            raise _BadRequest(f"{asked.symbol} lives in a partition that is not served here", 404)
        engine, partition = home
        names = engine.names()
        for name in asked.features:
            if name not in names:
                raise _BadRequest(f"no feature {name!r}; there are {', '.join(names)}")
        if asked.bars is None and partition.position is None:
            raise _BadRequest(
                f"{partition.hindrance()}: nothing is known here of {asked.symbol}", 503
            )
        return _json(await (_of_bars(engine, asked) if asked.bars else _of_symbol(engine, asked)))


async def serve(
    api: Api, settings: HttpSettings, passed: socket.socket | None = None
) -> web.AppRunner:
    """Listen where the settings say, or on a socket that listens already; `close` ends it.

    Raises OSError when it cannot.
    """
    runner = web.AppRunner(api.application(), access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    if passed is None:
        site: web.BaseSite = web.TCPSite(runner, settings.host, settings.port)
    else:
        # asyncio calls listen() again: callers queue there while the engine restarts.
        site = web.SockSite(runner, passed, backlog=socket.SOMAXCONN)
    await site.start()
    return runner


async def close(runner: web.AppRunner) -> None:
    """Accept nobody any more, answer who has been accepted, then end."""
    for site in list(runner.sites):
        await site.stop()
    await asyncio.sleep(ACCEPTED_S)
    await runner.cleanup()


@web.middleware
async def _sentences(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal is JSON with one sentence."""
    try:
        return await handler(request)
    except _BadRequest as error:
        return _json({"error": str(error)}, status=error.status)
    except web.HTTPException as error:
        return _json({"error": error.reason}, status=error.status)


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body), status=status, content_type="application/json"
    )


def _bars(asked: PredictRequest) -> list[Bar]:
    """The request's bars, checked as live ones are, in strictly rising order of time."""
    assert asked.bars is not None
    spacing = asked.bars[1].open_time - asked.bars[0].open_time
    interval = asked.interval or {ms: name for name, ms in INTERVAL_MS.items()}.get(spacing)
    if interval is None:
        raise _BadRequest(f"bars[1] is {spacing} ms after bars[0]: say which interval they have")
    bars = []
    for i, given in enumerate(asked.bars):
        if i and given.open_time <= asked.bars[i - 1].open_time:
            raise _BadRequest(f"bars[{i}].open_time is not after the bar before it")
        try:
            bars.append(Bar(asked.symbol, interval, *msgspec.structs.astuple(given)))
        except Refused as refused:
            raise _BadRequest(f"bars[{i}]: {refused.detail}") from refused
    if bars[-1].open_time > time.time() * 1000:
        raise _BadRequest(f"bars[{len(bars) - 1}] is still to come")
    return bars


def _prediction(
    forecast: Any, symbol: str, interval: str, close_time: int | None
) -> dict[str, Any]:
    """The answer; without an effective vote there is none, and the caller is told why."""
    if not isinstance(forecast, Forecast):
        reasons = ", ".join(f"{a.agent}: {a.reason}" for a in forecast)
        raise _BadRequest(f"no agent gives a prediction for {symbol} {interval} ({reasons})", 503)
    return {
        "symbol": symbol,
        "interval": interval,
        "close_time": close_time,
        "probability": forecast.probability,
        "confidence": forecast.confidence,
        "votes": forecast.votes,
        "abstained": forecast.abstained,
        "effective_votes": forecast.effective_votes,
    }


def _finite(features: dict[str, list[float]]) -> dict[str, list[float | None]]:
    """NaN, which a row holds until its window is whole, is null in JSON."""
    return {
        name: [value if value == value else None for value in values]  # noqa: PLR0124 (NaN ≠ NaN)
        for name, values in features.items()
    }


async def _of_symbol(engine: Engine, asked: PredictRequest) -> dict[str, Any]:
    """The current forecast of a known symbol."""
    known = [s for s in engine.series() if s[0] == asked.symbol]
    if asked.interval is not None:
        known = [s for s in known if s[1] == asked.interval]
    if not known:
        raise _BadRequest(f"no bar of {asked.symbol} {asked.interval or ''} was seen", 404)
    if len(known) > 1:
        intervals = ", ".join(s[1] for s in known)
        raise _BadRequest(f"{asked.symbol} comes at {intervals}; say which interval")
    symbol, interval, bars, close_time = known[0]
    # Before anything is awaited: forecast and features must be of the same bar.
    features = {n: engine.recent(symbol, interval, n, asked.lookback) for n in asked.features}
    forecast = await engine.forecast(symbol, interval)
    return _prediction(forecast, symbol, interval, close_time) | {
        "bars_seen": bars,
        "age_s": None if close_time is None else time.time() - close_time / 1000,
        "features": _finite(features),
    }


async def _of_bars(engine: Engine, asked: PredictRequest) -> dict[str, Any]:
    """A forecast of the bars given, from nothing else."""
    bars = _bars(asked)
    forecast = await engine.forecast_of(bars)
    features = engine.recent_of(bars, asked.features, asked.lookback)
    last = bars[-1]
    return _prediction(forecast, last.symbol, last.interval, last.close_time) | {
        "bars_seen": len(bars),
        "features": _finite(features),
    }
