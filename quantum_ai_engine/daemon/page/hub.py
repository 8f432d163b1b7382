"""Server-sent events: each update is built once, and shared by all browsers that look on."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple, TypeVar

import msgspec
import structlog
from aiohttp import web

from quantum_ai_engine.daemon.page.facts import now_ms
from quantum_ai_engine.daemon.page.ring import Place, Ring
from quantum_ai_engine.events import Signal

TICK_S = 0.2  # at most five updates a second …
QUIET_S = 1.0  # … and one a second where only ages and lags move
SHARE = 0.1  # of its time that the loop may spend on building: else ticks are longer
AT_ONCE = 16  # browsers that are woken together: writing to all would hold the loop up
SLOW_S = 10.0  # a browser that does not take an update for so long is let go
MOST_SIGNALS = 500  # in an update: the others come with the next

log = structlog.get_logger()

T = TypeVar("T")
Topic = tuple[str, ...]  # a page, and what it is about
Panels = dict[str, str]


class Update(NamedTuple):
    """What has changed between two versions of a topic, as bytes for the wire."""

    version: int
    before: Place
    after: Place
    data: bytes


class Channel:
    """A topic that somebody looks at: its panels as they are, and the newest update."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.panels: Panels = {}
        self.update: Update | None = None
        self.browsers = 0


class Browser:
    """One that looks on, and how far it has read. It holds no queue: it is given what is newest."""

    def __init__(self, channel: Channel, place: Place) -> None:
        self.channel = channel
        self.place = place
        self.version = -1
        self.wake = asyncio.Event()


class Full(Exception):  # noqa: N818 (what it is)
    """As many browsers look on as may."""


class Hub:
    """Builds updates while browsers look on, and nothing while none does.

    `build` gives the panels of a topic as HTML. An update holds the panels that have changed since
    the one before, the new signals and the new changes. Who has missed one is given all panels,
    and the signals and changes after its own place; so has who reconnects with `Last-Event-ID`.
    """

    def __init__(
        self,
        ring: Ring,
        build: Callable[[Topic], Panels],
        most: int,
        failed: Callable[[], None],
    ) -> None:
        self._ring = ring
        self._build = build
        self._most = most
        self._failed = failed
        self._boot = secrets.token_hex(4)
        self._channels: dict[Topic, Channel] = {}
        self._browsers: set[Browser] = set()
        self._anyone = asyncio.Event()
        self._place = ring.place
        self.is_closed = False
        self.built = 0

    @property
    def browsers(self) -> int:
        """How many look on."""
        return len(self._browsers)

    async def run(self) -> None:
        """Keep building while somebody looks on, until cancelled."""
        while True:
            await self._anyone.wait()
            seconds = 0.0
            try:
                seconds = await self.tick()
            except Exception as error:  # what is shown must never end what is done
                self._failed()
                log.error("The page cannot be built", event_name="page_failed", detail=repr(error))
            await self._wait(max(TICK_S, seconds / SHARE))

    async def _wait(self, seconds: float) -> None:
        """Until something was said, but at least so long; at most until figures are due."""
        due = time.monotonic() + max(QUIET_S, seconds)
        await asyncio.sleep(seconds)
        while self._has_nothing() and time.monotonic() < due:  # noqa: ASYNC110 (a round tells nobody)
            await asyncio.sleep(TICK_S / 4)

    def _has_nothing(self) -> bool:
        return self._anyone.is_set() and self._ring.place == self._place

    async def tick(self) -> float:
        """Build every topic that is looked at and wake its browsers; how long the building took."""
        before, self._place = self._place, self._next(self._place)
        said, spent = self._said(before, self._place), 0.0
        for channel in [*self._channels.values()]:
            started = time.perf_counter()
            self._renew(channel, before, self._place, said)
            spent += time.perf_counter() - started
            await asyncio.sleep(0)
        await self._wake()
        return spent

    async def _wake(self) -> None:
        for i, browser in enumerate([*self._browsers]):
            browser.wake.set()
            if i % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(TICK_S / 50)

    def _next(self, place: Place) -> Place:
        """The place after the signals of the next update, and all changes."""
        end = self._ring.place
        return Place(min(end.signals, place.signals + MOST_SIGNALS), end.changes)

    def _said(self, before: Place, after: Place) -> msgspec.Raw:
        """The signals and changes between two places, as JSON, and how many of them are gone."""
        signals, gone = _cut(*self._ring.signals_after(before.signals), after[0] - before[0])
        changes, gone_changes = _cut(
            *self._ring.changes_after(before.changes), after[1] - before[1]
        )
        said = {
            "signals": [_short(signal) for signal in signals],
            "changes": changes,
            "missed": gone + gone_changes,
        }
        return msgspec.Raw(msgspec.json.encode(said))

    def _renew(self, channel: Channel, before: Place, after: Place, said: msgspec.Raw) -> None:
        panels, was = self._build(channel.topic), channel.panels
        changed = {name: html for name, html in panels.items() if was.get(name) != html}
        version = channel.update.version + 1 if channel.update else 0
        channel.panels = panels
        channel.update = Update(version, before, after, self._message(after, changed, said))
        self.built += 1

    def _message(self, place: Place, panels: Panels, said: msgspec.Raw) -> bytes:
        body = {"at_ms": round(now_ms()), "said": said, "panels": panels}
        name = f"{self._boot}.{place.signals}.{place.changes}"
        return f"id: {name}\ndata: ".encode() + msgspec.json.encode(body) + b"\n\n"

    def place_of(self, last_event_id: str) -> Place:
        """Where a browser stands that has read so far; at the beginning after a restart of ours."""
        if not last_event_id:
            return self._ring.place
        boot, *numbers = last_event_id.split(".")
        if boot != self._boot or len(numbers) != 2 or not all(n.isdecimal() for n in numbers):
            return Place()
        end = self._ring.place
        return Place(min(int(numbers[0]), end.signals), min(int(numbers[1]), end.changes))

    @property
    def name(self) -> str:
        """The id of an event after which nothing is new."""
        return f"{self._boot}.{self._ring.place.signals}.{self._ring.place.changes}"

    @contextlib.asynccontextmanager
    async def joined(self, topic: Topic, place: Place) -> AsyncIterator[Browser]:
        """A browser that looks on. Raises `Full`."""
        if len(self._browsers) >= self._most:
            raise Full
        channel = self._channels.setdefault(topic, Channel(topic))
        channel.browsers += 1
        browser = Browser(channel, place)
        if not self._browsers:
            self._place = self._ring.place  # nobody was there to be told
        self._browsers.add(browser)
        self._anyone.set()
        try:
            yield browser
        finally:
            self._leave(browser)

    def _leave(self, browser: Browser) -> None:
        self._browsers.discard(browser)
        browser.channel.browsers -= 1
        if not browser.channel.browsers:
            self._channels.pop(browser.channel.topic, None)
        if not self._browsers:
            self._anyone.clear()

    def close(self) -> None:
        """Let all browsers go."""
        self.is_closed = True
        for browser in self._browsers:
            browser.wake.set()

    def next(self, browser: Browser) -> bytes | None:
        """What a browser is to be sent now; None where it has everything."""
        update = browser.channel.update
        if update is None or (update.version == browser.version and browser.place == update.after):
            return None
        is_next = update.version == browser.version + 1 and browser.place == update.before
        place = update.after if is_next else self._catch_up(browser.place, update.after)
        data = (
            update.data
            if is_next
            else self._message(place, browser.channel.panels, self._said(browser.place, place))
        )
        browser.version, browser.place = update.version, place
        return data

    def _catch_up(self, place: Place, end: Place) -> Place:
        """As far as a browser that has fallen behind is taken at once."""
        _, gone = self._ring.signals_after(place.signals)
        oldest = place.signals + gone
        return Place(min(end.signals, oldest + MOST_SIGNALS), max(place.changes, end.changes))

    async def stream(self, request: web.Request, topic: Topic, place: Place) -> web.StreamResponse:
        """Answer with events until either side ends it. Raises `Full`."""
        async with self.joined(topic, place) as browser:
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
            )
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                await self._send_all(response, browser)
        return response

    async def _send_all(self, response: web.StreamResponse, browser: Browser) -> None:
        await response.write(b"retry: 2000\n\n")
        while not self.is_closed:
            browser.wake.clear()
            if data := self.next(browser):
                try:
                    async with asyncio.timeout(SLOW_S):
                        await response.write(data)
                except TimeoutError:
                    return  # it comes back with Last-Event-ID
            await browser.wake.wait()


def _cut(found: list[T], gone: int, wanted: int) -> tuple[list[T], int]:
    """The first `wanted` of those that are gone and those that were found after them."""
    gone = min(gone, wanted)
    return found[: wanted - gone], gone


def _short(signal: Signal) -> dict[str, Any]:
    """What a list or a chart needs of a signal; all of it is in the ledger."""
    return {
        "id": signal.id,
        "symbol": signal.symbol,
        "interval": signal.interval,
        "close_time": signal.close_time,
        "produced_at": signal.produced_at,
        "valid_until": signal.valid_until,
        "stance": signal.stance,
        "target": signal.target,
        "probability": signal.probability,
        "amends": signal.amends,
    }
