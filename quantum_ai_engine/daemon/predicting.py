"""`POST /predict`: what callers may ask, and what they are answered."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeAlias

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from quantum_ai_engine.agents.panel import Ballot, Inquiry
from quantum_ai_engine.daemon.bodies import body_of, decoded
from quantum_ai_engine.daemon.desk import Desk
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.openapi import REFERENCE
from quantum_ai_engine.daemon.routes import BODY_BYTES, Refusal, Route, answer
from quantum_ai_engine.daemon.status import PartitionStatus
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.events import INTERVAL_MS, Abstention, Bar, Forecast, Refused, Vote
from quantum_ai_engine.features.store import LOOKBACK

MOST_BARS = 5000
MOST_REQUESTS = 64
BODY_WITHIN_S = 10.0

Text: TypeAlias = Annotated[str, Meta(max_length=64)]
Home: TypeAlias = tuple[Engine, PartitionStatus]  # where a symbol lives


class GivenBar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bar in a request; symbol and interval are the request's."""

    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class PredictRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A prediction of a known symbol, or of `bars` alone; with the newest `lookback` features."""

    symbol: Text
    interval: Text | None = None
    lookback: Annotated[int, Meta(ge=1, le=LOOKBACK)] = 1
    features: Annotated[tuple[Text, ...], Meta(max_length=64)] = ()
    bars: Annotated[tuple[GivenBar, ...], Meta(min_length=2, max_length=MOST_BARS)] | None = None


_Many = Meta(min_length=1, max_length=MOST_REQUESTS)


class PredictRequests(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Several predictions, answered in their places."""

    requests: Annotated[tuple[PredictRequest, ...], _Many]


class _Unread(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same, each still to be read: one that is wrong does not spoil the others."""

    requests: Annotated[tuple[msgspec.Raw, ...], _Many]


class PredictAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction: `age_s` is that of the newest bar, of live series alone; a feature is null
    until its window is whole.
    """

    symbol: str
    interval: str
    close_time: int | None
    probability: float
    confidence: float
    votes: tuple[Vote, ...]
    abstained: tuple[Abstention, ...]
    effective_votes: float
    bars_seen: int
    age_s: float | UnsetType | None = UNSET
    features: dict[str, list[float | None]]


class PredictFailure(msgspec.Struct, frozen=True):
    """Why one of several requests has no prediction, and the status it would have had alone."""

    error: str
    status: int


_EITHER = [{"$ref": REFERENCE.format(name=one.__name__)} for one in (PredictAnswer, PredictFailure)]


class PredictAnswers(msgspec.Struct, frozen=True):
    """One answer for each of several requests, in their order: `PredictAnswer | PredictFailure`."""

    answers: Annotated[tuple[Any, ...], Meta(extra_json_schema={"items": {"anyOf": _EITHER}})]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A series as it was when it was looked at."""

    engine: Engine
    symbol: str
    interval: str
    close_time: int | None
    bars_seen: int
    age_s: float | UnsetType | None
    features: Mapping[str, list[float]]


_Look: TypeAlias = Callable[[], Awaitable[tuple[Inquiry, _Seen]]]
_ONE = msgspec.json.Decoder(PredictRequest)
_UNREAD = msgspec.json.Decoder(_Unread)


class Predicting:
    """Answers `POST /predict`; no live state is changed by it."""

    def __init__(self, home_of: Callable[[str], Home | None], desk: Desk, metrics: Metrics) -> None:
        self._home_of = home_of
        self._desk = desk
        self._metrics = metrics

    def routes(self) -> list[Route]:
        return [
            Route(
                method="POST",
                path="/predict",
                handler=self.predict,
                summary="The forecast of one series or up to 64, live or from bars of the caller",
                takes=(PredictRequest, PredictRequests),
                answers={200: (PredictAnswer, PredictAnswers)},
                mentions=(PredictFailure,),
                refuses={
                    400: "The body is not what is taken: which field or byte, and why",
                    404: "The symbol is not known here",
                    408: f"The body was not there within {BODY_WITHIN_S:g} s",
                    413: f"The body is larger than {BODY_BYTES} bytes",
                    415: "The Content-Type is that of something else than JSON in UTF-8",
                    429: "Too many predictions are waited for; Retry-After says when to ask again",
                    503: "Not ready, or no agent gives a prediction, with the reasons",
                    504: "No answer by the deadline: live bars go first",
                },
            )
        ]

    async def predict(self, request: web.Request) -> web.Response:
        with self._desk.places(1):
            body = await body_of(request, BODY_WITHIN_S)
            asked = _read(body)
            if isinstance(asked, PredictRequest):
                return answer(await self._counted(self._one(asked)))
            with self._desk.places(len(asked.requests) - 1):
                return answer(PredictAnswers(await self._each(asked.requests)))

    async def _each(self, unread: tuple[msgspec.Raw, ...]) -> tuple[Any, ...]:
        """An answer for each, whatever becomes of the others; they are asked about together."""
        looks: list[_Look | Refusal] = []
        for raw in unread:
            try:
                looks.append(self._door(decoded(raw, _ONE)))
            except Refusal as refusal:
                looks.append(refusal)
            await asyncio.sleep(0)  # to read many bars takes longer than others can wait
        async with asyncio.TaskGroup() as tasks:
            answers = [tasks.create_task(self._either(look)) for look in looks]
        return tuple(one.result() for one in answers)

    async def _either(self, look: _Look | Refusal) -> PredictAnswer | PredictFailure:
        try:
            return await self._counted(self._asked(look))
        except Refusal as refusal:
            return PredictFailure(str(refusal), refusal.status)

    async def _counted(self, asked: Coroutine[None, None, PredictAnswer]) -> PredictAnswer:
        try:
            found = await asked
        except Refusal as refusal:
            self._metrics.predictions.labels(str(refusal.status)).inc()
            raise
        self._metrics.predictions.labels("200").inc()
        return found

    async def _one(self, asked: PredictRequest) -> PredictAnswer:
        return await self._asked(self._door(asked))

    async def _asked(self, look: _Look | Refusal) -> PredictAnswer:
        if isinstance(look, Refusal):
            raise look
        return _answer(*await self._desk.ask(look))

    def _door(self, asked: PredictRequest) -> _Look:
        """How to look at what is asked for; what cannot be answered is refused at once."""
        engine, partition = self._home(asked.symbol)
        if asked.features:
            names = engine.names()
            for name in asked.features:
                if name not in names:
                    raise Refusal(f"no feature {name!r}; there are {', '.join(names)}")
        if asked.bars is not None:
            return partial(_see_bars, engine, _bars(asked), asked)
        _live_interval(engine, partition, asked)
        return partial(self._see_symbol, asked)

    def _home(self, symbol: str) -> Home:
        home = self._home_of(symbol)
        if home is None:
            raise Refusal(f"{symbol} lives in a partition that is not served here", 404)
        return home

    async def _see_symbol(self, asked: PredictRequest) -> tuple[Inquiry, _Seen]:
        """A known symbol as it is now."""
        engine, partition = self._home(asked.symbol)  # which may have begun anew meanwhile
        symbol, interval = asked.symbol, _live_interval(engine, partition, asked)
        bars_seen, close_time = engine.progress(symbol, interval)
        age_s = None if close_time is None else time.time() - close_time / 1000
        features = {n: engine.recent(symbol, interval, n, asked.lookback) for n in asked.features}
        seen = _Seen(engine, symbol, interval, close_time, bars_seen, age_s, features)
        return engine.inquiry(symbol, interval), seen


def _read(body: bytes) -> PredictRequest | _Unread:
    """One request, or several; what is neither is refused as one."""
    try:
        return decoded(body, _ONE)
    except Refusal as refusal:
        if "`requests`" not in str(refusal):  # the field that is known to several alone
            raise
        return decoded(body, _UNREAD)


def _live_interval(engine: Engine, partition: PartitionStatus, asked: PredictRequest) -> str:
    """The interval of a series that is known and served."""
    if (hindrance := partition.hindrance()) is not None:
        raise Refusal(f"{hindrance}: nothing is known here of {asked.symbol}", 503)
    known = engine.intervals(asked.symbol)
    if asked.interval is not None:
        known = [interval for interval in known if interval == asked.interval]
    if not known:
        raise Refusal(f"no bar of {asked.symbol} {asked.interval or ''} was seen", 404)
    if len(known) > 1:
        raise Refusal(f"{asked.symbol} comes at {', '.join(known)}; say which interval")
    return known[0]


def _bars(asked: PredictRequest) -> list[Bar]:
    """The request's bars, checked as live ones are, in strictly rising order of time."""
    assert asked.bars is not None
    spacing = asked.bars[1].open_time - asked.bars[0].open_time
    interval = asked.interval or {ms: name for name, ms in INTERVAL_MS.items()}.get(spacing)
    if interval is None:
        raise Refusal(f"bars[1] is {spacing} ms after bars[0]: say which interval they have")
    bars = []
    for i, given in enumerate(asked.bars):
        if i and given.open_time <= asked.bars[i - 1].open_time:
            raise Refusal(f"bars[{i}].open_time is not after the bar before it")
        try:
            bars.append(Bar(asked.symbol, interval, *msgspec.structs.astuple(given)))
        except Refused as refused:
            raise Refusal(f"bars[{i}]: {refused.detail}") from refused
    if bars[-1].open_time > time.time() * 1000:
        raise Refusal(f"bars[{len(bars) - 1}] is still to come")
    return bars


async def _see_bars(
    engine: Engine, bars: list[Bar], asked: PredictRequest
) -> tuple[Inquiry, _Seen]:
    """The bars given, and nothing else."""
    newest = bars[-1]
    # Thousands of bars, or a calendar from 1970 on, take longer than live bars can wait.
    inquiry, features = await asyncio.to_thread(engine.given, bars, asked.features, asked.lookback)
    seen = _Seen(
        engine, newest.symbol, newest.interval, newest.close_time, len(bars), UNSET, features
    )
    return inquiry, seen


def _answer(seen: _Seen, ballot: Ballot) -> PredictAnswer:
    """The answer; without an effective vote there is none, and the caller is told why."""
    forecast = seen.engine.heard(ballot)
    if not isinstance(forecast, Forecast):
        reasons = ", ".join(f"{one.agent}: {one.reason}" for one in forecast)
        series = f"{seen.symbol} {seen.interval}"
        raise Refusal(f"no agent gives a prediction for {series} ({reasons})", 503)
    return PredictAnswer(
        symbol=seen.symbol,
        interval=seen.interval,
        close_time=seen.close_time,
        probability=forecast.probability,
        confidence=forecast.confidence,
        votes=forecast.votes,
        abstained=forecast.abstained,
        effective_votes=forecast.effective_votes,
        bars_seen=seen.bars_seen,
        age_s=seen.age_s,
        features={name: _finite(values) for name, values in seen.features.items()},
    )


def _finite(values: list[float]) -> list[float | None]:
    """NaN, which a row holds until its window is whole, is null in JSON."""
    return [None if math.isnan(value) else value for value in values]
