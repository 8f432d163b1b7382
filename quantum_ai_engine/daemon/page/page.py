"""The addresses of the page: HTML for browsers, JSON for the others, events for both."""

import itertools
from collections.abc import Mapping
from typing import Any

from aiohttp import hdrs, web

from quantum_ai_engine.daemon.client import Client, Unreachable
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.daemon.page import agents, facts
from quantum_ai_engine.daemon.page.control import Control
from quantum_ai_engine.daemon.page.facts import Facts, Sources
from quantum_ai_engine.daemon.page.hub import Full, Hub, Panels, Topic
from quantum_ai_engine.daemon.page.ledger import LOOKED_AT, SignalLedger, Wanted, is_entry
from quantum_ai_engine.daemon.page.render import HEADERS, STATIC, Renderer
from quantum_ai_engine.daemon.routes import Handler, Refusal, Route, answer
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.events import SYMBOL, Signal, Stance

PANELS = {
    "overview": ("problems", "figures", "latest", "brief"),
    "agents": ("agents",),
    "risk": ("ruling", "breakers", "timeline"),
    "symbols": ("series",),
    "symbol": ("said", "votes"),
    "signals": (),
}
MOST_FOUND = 500  # signals of a search …
MOST_SHOWN = 100  # … as HTML
TEXT_MOST = 200  # characters of a search

HTML = "text/html"
SEARCH = {
    "symbol": "the whole symbol",
    "stance": f"one of {', '.join(Stance)}",
    "q": "words that occur in it",
    "before": "the id of an entry",
    "limit": "how many at most",
}


class Page:
    """Everything under `/` that is for a person, and `/events`."""

    def __init__(self, sources: Sources, client: Client) -> None:
        self._sources = sources
        redis, control = sources.settings.redis, Control(sources.settings, client)
        keys = Keys.of(redis)
        self._control = control
        self._ledger = SignalLedger(client, {p: keys.at(p) for p in redis.served})
        self._is_filled = False
        self._renderer = Renderer(
            has_controls=control.is_on,
            is_wall=sources.settings.engine.clock == "wall",
            partition_count=len(redis.served),
        )
        failures = sources.metrics.page_failures
        self.hub = Hub(sources.ring, self._panels, sources.settings.http.max_browsers, failures.inc)
        sources.metrics.browsers.set_function(lambda: self.hub.browsers)

    def routes(self) -> list[Route]:
        """All addresses but those of files, as who is no browser sees them."""
        found, partition = {"q": "a part of the symbol"}, {"partition": "which, of several"}
        gone = {404: "There is no such series here"}
        return [
            _route("/", self.overview, "The live page, for a person", str, content=HTML),
            _route("/risk", self.risk, "Rulings, and the latest changes of state and mode"),
            _route("/symbols", self.symbols, "The series that are known", query=found),
            _route(
                "/symbols/{symbol:.+}",
                self.symbol,
                "Bars, signals and exposure of a series",
                query={"interval": "which, of several"},
                refuses=gone,
            ),
            _route("/signals", self.signals, "The ledger of signals, searched", query=SEARCH),
            _route(
                "/agents/history",
                self.history,
                "Trust and scores of agents over time",
                query=partition,
            ),
            _route(
                "/events",
                self.events,
                "Signals and changes as they come, as server-sent events",
                str,
                content="text/event-stream",
                query={"page": f"one of {', '.join(PANELS)}", "after": "the id of an event"},
            ),
            Route(
                method="POST",
                path="/control/{command}",
                handler=self._control.post,
                summary="Tell the engine to halt, reduce or resume; with the token",
                answers={200: dict[str, Any]},
                refuses={403: "The token is missing or wrong, or none is set"},
            ),
        ]

    def dress(self, app: web.Application) -> None:
        """Add files, and HTML beside the JSON of `/agents`; tell browsers what to refuse."""
        app.router.add_static("/static", STATIC)
        app.middlewares.append(self._beside_json)
        app.on_response_prepare.append(_protect)
        app.on_shutdown.append(self._close)

    async def overview(self, _: web.Request) -> web.Response:
        return await self._html("overview", ("overview",))

    async def risk(self, request: web.Request) -> web.Response:
        if wants_html(request):
            return await self._html("risk", ("risk",))
        await self._fill()
        found = facts.risk(self._sources)
        return answer({"rulings": found["rulings"], "timeline": found["timeline"]})

    async def agents(self, request: web.Request) -> web.Response:
        """HTML; the JSON of this address is the caller's."""
        judgements = self._sources.judgements()
        asked = request.query.get("partition", str(next(iter(judgements))))
        if not asked.isdecimal() or int(asked) not in judgements:
            return self._sorry(request, 404, f"partition {asked} is not served here")
        return await self._html("agents", ("agents", asked))

    async def history(self, request: web.Request) -> web.Response:
        """Trust and scores over time, for the charts."""
        judgements = self._sources.judgements()
        asked = request.query.get("partition", str(next(iter(judgements))))
        if not asked.isdecimal() or int(asked) not in judgements:
            raise Refusal(f"partition {asked} is not served here", 404)
        return answer(agents.charts(self._sources, int(asked)))

    async def symbols(self, request: web.Request) -> web.Response:
        wanted = request.query.get("q", "")[:TEXT_MOST]
        if wants_html(request):
            return await self._html("symbols", ("symbols", wanted), wanted=wanted)
        return answer(facts.series(self._sources, wanted))

    async def symbol(self, request: web.Request) -> web.Response:
        symbol = request.match_info["symbol"]
        engine = self._engine_of(symbol)
        known = [i for s, i in engine.state.names() if s == symbol] if engine else []
        interval = request.query.get("interval", min(known, default=""))
        if engine is None or interval not in known:
            what = f"no bar of {symbol[:64]} {interval[:8]}".rstrip()
            return self._sorry(request, 404, f"{what} was seen here since its series began")
        if wants_html(request):
            topic = ("symbol", symbol, interval)
            return await self._html("symbol", topic, symbol=symbol, interval=interval)
        return answer(await self._series(engine, symbol, interval))

    async def signals(self, request: web.Request) -> web.Response:
        """The ledger, searched."""
        try:
            wanted = wanted_of(request.query, MOST_SHOWN if wants_html(request) else MOST_FOUND)
            found = await self._ledger.search(wanted)
        except ValueError as error:
            return self._sorry(request, 400, str(error))
        except Unreachable as error:
            return self._sorry(request, 503, f"Redis cannot serve the ledger: {error}")
        if wants_html(request):
            about = {"wanted": wanted, "found": found, "most": LOOKED_AT, "stances": tuple(Stance)}
            return await self._html("signals", ("signals",), **about)
        return answer(
            {
                "signals": [signal for _, signal in found.signals],
                "looked_at": found.looked_at,
                "complete": found.is_all,
                "next": found.next or None,
            }
        )

    async def events(self, request: web.Request) -> web.StreamResponse:
        topic = self._topic(request.query)
        if topic is None:
            raise Refusal(f"page must be one of {', '.join(PANELS)}", 400)
        last = request.headers.get("Last-Event-ID") or request.query.get("after", "")
        try:
            return await self.hub.stream(request, topic, self.hub.place_of(last))
        except Full as error:
            most = self._sources.settings.http.max_browsers
            raise Refusal(
                f"{most} browsers follow already: http.max_browsers allows no more", 503
            ) from error

    def _topic(self, query: Mapping[str, str]) -> Topic | None:
        page = query.get("page", "signals")
        if page == "symbol":
            symbol, interval = query.get("symbol", ""), query.get("interval", "")
            engine = self._engine_of(symbol)
            is_known = engine is not None and engine.state.find(symbol, interval) is not None
            return (page, symbol, interval) if is_known else None
        if page == "agents":
            asked = query.get("partition", str(next(iter(self._sources.judgements()))))
            is_known = asked.isdecimal() and int(asked) in self._sources.judgements()
            return (page, asked) if is_known else None
        if page == "symbols":
            return (page, query.get("q", "")[:TEXT_MOST])
        return (page,) if page in PANELS else None

    def _panels(self, topic: Topic) -> Panels:
        """The panels of a page, as they are now."""
        about = self._facts(topic) | {"strip": facts.strip(self._sources)}
        return {name: self._renderer.panel(name, **about) for name in ("strip", *PANELS[topic[0]])}

    def _facts(self, topic: Topic) -> Facts:
        if topic[0] == "symbol":
            engine = self._engine_of(topic[1])
            assert engine is not None
            return facts.symbol(self._sources, engine, *topic[1:])
        if topic[0] == "agents":
            return agents.agents(self._sources, int(topic[1]))
        if topic[0] == "symbols":
            return facts.series(self._sources, topic[1])
        if topic[0] == "risk":
            return facts.risk(self._sources)
        return facts.overview(self._sources) if topic[0] == "overview" else {}

    def _engine_of(self, symbol: str) -> Engine | None:
        if not SYMBOL.fullmatch(symbol):
            return None
        partition = partition_of(symbol, self._sources.settings.redis.partitions)
        return self._sources.engines().get(partition)

    async def _series(self, engine: Engine, symbol: str, interval: str) -> Facts:
        """The JSON of a series: bars, signals of the same time, and what is held."""
        bars = engine.bars(symbol, interval)
        about = facts.symbol(self._sources, engine, symbol, interval)
        first = bars[0][0] if bars else 0
        said = await self._said(symbol, interval, first)
        names = ("open_time", "open", "high", "low", "close", "volume")
        shown = {"intervals", "bars_seen", "close_time", "is_stale", "signal", "exposure"}
        return {"symbol": symbol, "interval": interval} | {
            "bars": [dict(zip(names, bar, strict=True)) for bar in bars],
            "signals": said,
            **{name: value for name, value in about.items() if name in shown},
        }

    async def _said(self, symbol: str, interval: str, since: float) -> list[Signal]:
        """The signals of a series' newest bars, oldest first: of the stream, else of memory."""
        is_ours = facts.of_series(symbol, interval)
        known = list(itertools.islice(self._sources.ring.signals(is_ours), MOST_FOUND))
        if not known or known[-1].close_time > since:
            try:
                found = await self._ledger.search(Wanted(symbol, limit=MOST_FOUND))
                known = [signal for _, signal in found.signals if is_ours(signal)] or known
            except Unreachable:
                pass  # what is in memory is shown
        return [signal for signal in reversed(known) if signal.close_time > since]

    async def _fill(self) -> None:
        """Bring back, once, what was said before the start; without Redis, next time."""
        if self._is_filled:
            return
        self._is_filled = True
        try:
            signals, changes = await self._ledger.lately()
        except Unreachable:
            self._is_filled = False
            return
        ring = self._sources.ring
        own = {signal.id for signal in ring.signals()}
        own_changes = {*ring.changes()}
        ring.fill(
            [signal for signal in signals if signal.id not in own],
            [change for change in changes if change not in own_changes],
        )

    async def _html(self, name: str, topic: Topic, **about: Any) -> web.Response:
        await self._fill()
        query = {"page": name}
        query |= dict(zip(QUERY.get(name, ()), topic[1:], strict=False))
        text = self._renderer.page(
            name,
            page=name,
            panels=self._panels(topic),
            query=query,
            after=self.hub.name,
            **({"identity": self._sources.identity} | self._facts(topic) | about),
        )
        return web.Response(text=text, content_type=HTML)

    def _sorry(self, request: web.Request, status: int, sentence: str) -> web.Response:
        if not wants_html(request):
            raise Refusal(sentence, status)
        text = self._renderer.page(
            "sorry",
            page="",
            sentence=sentence,
            status=status,
            panels=self._panels(("signals",)),
            query={"page": "signals"},
            after=self.hub.name,
            identity=self._sources.identity,
        )
        return web.Response(text=text, content_type=HTML, status=status)

    @web.middleware
    async def _beside_json(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == hdrs.METH_GET and request.path == "/agents" and wants_html(request):
            return await self.agents(request)
        return await handler(request)

    async def _close(self, _: web.Application) -> None:
        self.hub.close()


QUERY = {"symbol": ("symbol", "interval"), "agents": ("partition",), "symbols": ("q",)}


def _route(
    path: str,
    handler: Handler,
    summary: str,
    answers: Any = dict[str, Any],
    **more: Any,
) -> Route:
    return Route(
        method="GET", path=path, handler=handler, summary=summary, answers={200: answers}, **more
    )


def wants_html(request: web.Request) -> bool:
    """Whether it is a browser's question: it says so itself."""
    return "text/html" in request.headers.get(hdrs.ACCEPT, "")


def wanted_of(query: Mapping[str, str], most: int = MOST_FOUND) -> Wanted:
    """What a search asks for, `most` signals at most. Raises ValueError with one sentence."""
    symbol, stance = query.get("symbol", "").strip(), query.get("stance", "")
    if symbol and not SYMBOL.fullmatch(symbol):
        raise ValueError(f"symbol {symbol[:64]!r} is not 1 to 64 letters, digits or ._:/-")
    if stance and stance not in tuple(Stance):
        raise ValueError(f"stance {stance[:16]!r} is not one of {', '.join(Stance)}")
    text, before = query.get("q", ""), query.get("before", "")
    if len(text) > TEXT_MOST:
        raise ValueError(f"q is longer than {TEXT_MOST} characters")
    if before and not is_entry(before):
        raise ValueError("before is not an entry id such as 1735689600000-0")
    limit = query.get("limit", "50")
    if not limit.isdecimal() or not 1 <= int(limit[:4]) <= most:
        raise ValueError(f"limit is not a number from 1 to {most}")
    return Wanted(symbol, Stance(stance) if stance else None, text, before, int(limit))


async def _protect(_: web.Request, response: web.StreamResponse) -> None:
    """What every answer tells a browser to refuse."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault(hdrs.VARY, hdrs.ACCEPT)
    cached = "no-cache" if hdrs.ETAG in response.headers else "no-store"
    response.headers.setdefault(hdrs.CACHE_CONTROL, cached)
