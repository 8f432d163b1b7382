"""Tests of the page's addresses, asked from a running daemon with a real Redis."""

import asyncio
import json
import re
import time
from typing import Any

import pytest
from aiohttp import ClientSession

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.keys import partition_of
from quantum_ai_engine.daemon.page.page import PANELS, wanted_of
from quantum_ai_engine.events import Bar

from ..test_app import changed, feed, published, serving, until
from .conftest import TOKEN

HTML = {"Accept": "text/html,application/xhtml+xml"}
PAGES = ("/", "/agents", "/symbols", "/symbols/BTCUSDT", "/signals", "/risk")
BEARER = {"Authorization": f"Bearer {TOKEN}"}
LOADED = re.compile(r"""(?:src|href|action)="([^"]*)\"""")


async def page(http: ClientSession, path: str, status: int = 200) -> str:
    async with http.get(path, headers=HTML) as answer:
        assert answer.status == status, path
        assert answer.content_type == "text/html"
        return await answer.text()


async def asked(http: ClientSession, path: str, status: int = 200) -> Any:
    """The JSON of an address."""
    async with http.get(path) as answer:
        assert answer.status == status, path
        return await answer.json()


async def fed(daemon: Daemon, client: Client, bars: list[Bar]) -> None:
    before = daemon.status.processed
    await feed(client, bars)
    await until(lambda: daemon.status.processed == before + len(bars))


class Events:
    """A stream of events, and what came."""

    def __init__(self, http: ClientSession, query: str = "", last: str = "") -> None:
        self.last = last
        self.ids: list[str] = []
        self.panels: dict[str, str] = {}
        self.changes: list[dict[str, Any]] = []
        self._http = http
        self._query = query

    async def until(self, condition: Any) -> None:
        """Read on, from a new connection, until something is so."""
        headers = {"Last-Event-ID": self.last} if self.last else {}
        async with (
            asyncio.timeout(20),
            self._http.get(f"/events?{self._query}", headers=headers) as answer,
        ):
            assert answer.content_type == "text/event-stream"
            while not condition():
                line = (await answer.content.readuntil(b"\n")).decode().rstrip("\n")
                field, _, value = line.partition(": ")
                if field == "id":
                    self.last = value
                if field == "data":
                    update = json.loads(value)
                    self.panels |= update["panels"]
                    self.changes += update["said"]["changes"]
                    self.ids += [one["id"] for one in update["said"]["signals"]]


async def test_before_the_first_bar_there_is_no_data(daemon: Daemon, http: ClientSession) -> None:
    """L08: a figure that nobody knows is "no data", on every page, and never a number."""
    text = await page(http, "/")
    assert "No data: no signal has been published" in text
    for label in ("Last bar", "Bar to signal, median", "Last signal", "Effective votes"):
        tile = text[text.index(f"<dt>{label}</dt>") :]
        assert "no data" in tile[: tile.index("</div>")], label
    text = await page(http, "/agents")
    for label in ("Brier", "Bias", "Outcomes"):
        pair = text[text.index(f"<dt>{label}</dt>") :]
        assert "no data" in pair[: pair.index("</div>")], label
    assert "No data: no block of outcomes is complete" in text
    assert "No data: no bar" in await page(http, "/symbols")
    assert "No data" in await page(http, "/signals")
    text = await page(http, "/risk")
    assert "No data: nothing has changed yet" in text


async def test_pages_load_nothing_from_elsewhere(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """A strict policy, no inline script or style, and only addresses of this engine."""
    await fed(daemon, client, bars)
    for path in PAGES:
        async with http.get(path, headers=HTML) as answer:
            policy = answer.headers["Content-Security-Policy"]
            text = await answer.text()
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text), path
        assert all(
            re.match(r"<script src=\"/static/", one) for one in re.findall(r"<script[^>]*>", text)
        )
        for address in LOADED.findall(text):
            if address == "https://www.tradingview.com/":  # a link, which its licence asks for
                continue
            assert address.startswith(("/", "#")) or address == "", (path, address)
        for loaded in re.findall(r"(?:src|href)=\"(/static/[^\"]+)\"", text):
            async with http.get(loaded) as answer:
                assert answer.status == 200, loaded


async def test_the_overview_says_what_the_process_did(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L08, L09: its figures are those of status, metrics and the stream of signals."""
    await fed(daemon, client, bars)
    signals = await published(client)
    text = await page(http, "/")
    assert f"{len(bars)} since the start" in text
    for signal in signals[-16:]:
        assert f'data-key="{signal["id"]}"' in text
    assert signals[-17]["id"] not in text
    assert "No data: no signal" not in text


async def test_a_symbol_is_html_for_a_browser_and_json_for_others(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L53: bars and signals of one series, joined by their times."""
    await fed(daemon, client, bars)
    own = [bar for bar in bars if bar.symbol == "BTCUSDT"]
    said = [one for one in await published(client) if one["symbol"] == "BTCUSDT"]
    series = await asked(http, "/symbols/BTCUSDT")
    assert (series["symbol"], series["interval"], series["bars_seen"]) == (
        "BTCUSDT",
        "1m",
        len(own),
    )
    assert [bar["open_time"] for bar in series["bars"]] == [bar.open_time for bar in own[-128:]]
    assert [bar["close"] for bar in series["bars"]] == [bar.close for bar in own[-128:]]
    first = own[-128:][0].open_time
    assert [s["id"] for s in series["signals"]] == [
        s["id"] for s in said if s["close_time"] > first
    ]
    assert series["signal"]["id"] == said[-1]["id"]
    text = await page(http, "/symbols/BTCUSDT?interval=1m")
    for vote in said[-1]["votes"]:
        assert vote["agent"] in text
    for abstained in said[-1]["abstained"]:
        assert abstained["agent"] in text
    assert said[-1]["id"] in text
    for path in ("/symbols/NOPE", "/symbols/BTCUSDT?interval=5m", "/symbols/%3Cb%3E"):
        assert "was seen" in (await asked(http, path, 404))["error"]
        assert "Not found" in await page(http, path, 404)


async def test_the_ledger_finds_what_was_published(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L08: of the very stream that subscribers read, newest first, in pages that join up."""
    await fed(daemon, client, bars)
    signals = (await published(client))[::-1]
    everything = [s["id"] for s in signals]
    found = await asked(http, "/signals?limit=500")
    assert [s["id"] for s in found["signals"]] == everything[:500]
    btc = [s["id"] for s in signals if s["symbol"] == "BTCUSDT"]
    found = await asked(http, "/signals?symbol=BTCUSDT&limit=500")
    assert [s["id"] for s in found["signals"]] == btc
    assert found["complete"] is True
    for stance in ("long", "short", "flat"):
        found = await asked(http, f"/signals?stance={stance}&limit=500")
        expected = [s["id"] for s in signals if s["stance"] == stance]
        assert [s["id"] for s in found["signals"]] == expected[:500]
    one = signals[7]
    found = await asked(http, f"/signals?q={one['row_hash'].upper()}+normal")
    assert one["id"] in [s["id"] for s in found["signals"]]
    pages, before = list[str](), ""
    while True:
        found = await asked(http, f"/signals?limit=150{before}")
        pages += [s["id"] for s in found["signals"]]
        if found["complete"]:
            break
        before = f"&before={found['next']}"
    assert pages == everything
    for path in PAGES[4], "/signals?symbol=BTCUSDT":
        assert "BTCUSDT" in await page(http, path)


async def test_what_a_person_typed_is_never_markup(daemon: Daemon, http: ClientSession) -> None:
    """Templates escape by default: a search is shown as the text that it is."""
    for path in ("/signals?q=%3Cscript%3Ealert(1)%3C/script%3E", "/symbols?q=%22%3E%3Cb%3E"):
        text = await page(http, path)
        assert "<script>alert" not in text
        assert '"><b>' not in text
        assert "&lt;" in text


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"symbol": "A B"}, "symbol 'A B'"),
        ({"stance": "up"}, "stance 'up' is not one of long, short, flat"),
        ({"limit": "0"}, "limit is not a number from 1 to 500"),
        ({"limit": "1e3"}, "limit"),
        ({"limit": "99999999999999999999"}, "limit"),
        ({"before": "yesterday"}, "before is not an entry id"),
        ({"q": "x" * 201}, "q is longer than 200"),
    ],
)
def test_a_search_that_cannot_be_is_refused_by_its_field(query: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words.split(" ", maxsplit=1)[0]) as caught:
        wanted_of(query)
    assert words in str(caught.value)


async def test_events_tell_every_signal_live_and_after_a_reconnect(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """Each once and in order, whether it came while the browser was there or while it was gone."""
    events = Events(http, "page=overview")
    is_fed = asyncio.Event()
    reading = asyncio.create_task(
        events.until(lambda: is_fed.is_set() and len(events.ids) >= daemon.status.signals)
    )
    await until(lambda: http_browsers(daemon) == 1)
    await fed(daemon, client, bars[:400])
    is_fed.set()
    await reading
    assert set(events.panels) == {"strip", *PANELS["overview"]}
    await until(lambda: http_browsers(daemon) == 0)
    await fed(daemon, client, bars[400:])
    signals = [s["id"] for s in await published(client)]
    await events.until(lambda: len(events.ids) >= len(signals))
    assert events.ids == signals
    assert signals[-1] in events.panels["latest"]


def http_browsers(daemon: Daemon) -> float:
    """How many browsers follow, by the metric."""
    [metric] = daemon.metrics.browsers.collect()
    return metric.samples[0].value


async def test_events_refuse_what_they_cannot_tell(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """An unknown page is 400; more browsers than `http.max_browsers` are 503, with the key."""
    async with (
        serving(changed(settings, "http", max_browsers=1)) as daemon,
        ClientSession(daemon.http_address) as http,
    ):
        await until(lambda: daemon.status.ready)
        for query in (
            "page=nope",
            "page=symbol&symbol=NOPE&interval=1m",
            "page=agents&partition=9",
        ):
            assert "page must be" in (await asked(http, f"/events?{query}", 400))["error"]
        async with http.get("/events") as first:
            assert first.status == 200
            refused = await asked(http, "/events", 503)
            assert "http.max_browsers" in refused["error"]


async def test_the_token_is_shown_nowhere(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    await fed(daemon, client, bars[:300])
    for path in (*PAGES, "/metrics", "/health", "/agents/history"):
        async with http.get(path, headers=HTML) as answer:
            assert TOKEN not in await answer.text(), path


async def test_a_restart_shows_what_was_said_before_it(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L43: the first look brings signals and changes back, once, from their own streams."""
    async with serving(settings) as daemon, ClientSession(daemon.http_address) as http:
        await fed(daemon, client, bars)
        async with http.post("/control/halt", headers=BEARER) as answer:
            assert answer.status == 200
        judgement = daemon.rounds[0].engine.state.judgement
        await until(lambda: judgement.rulings[-1].risk.state == "HALTED")
    last = [s["id"] for s in await published(client)][-1]
    async with serving(settings) as daemon, ClientSession(daemon.http_address) as http:
        await until(lambda: daemon.status.ready)
        assert last in await page(http, "/")
        text = await page(http, "/risk")
        assert len(re.findall(r'data-key="\d+\.risk\.[^"]*HALTED"', text)) == 1


async def test_a_feed_that_stops_looks_stale(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L07: after its bound, by the engine's own account; the age is that of the last bar."""
    await fed(daemon, client, bars)
    assert "stale after" in await page(http, "/")
    events = Events(http, "page=overview")
    await events.until(lambda: "strip" in events.panels)
    assert "fresh" in events.panels["strip"]
    daemon.status.worked_at = time.monotonic() - daemon.status.patience_s - 30.0
    await events.until(lambda: "stale" in events.panels["strip"])
    assert "idle" in events.panels["strip"]
    assert "The engine is idle: no bar has come for" in events.panels["problems"]


async def test_agents_are_shown_with_what_is_known_of_them(
    daemon: Daemon, http: ClientSession, client: Client, bars: list[Bar]
) -> None:
    """L08: the figures of the page are those of the judgement, and the JSON is as it was."""
    await fed(daemon, client, bars)
    (judged,) = await asked(http, "/agents")
    (gru,) = judged["agents"]
    text = await page(http, "/agents")
    assert f"{gru['score']['brier']:.4f}" in text
    assert f"{gru['score']['count']:.0f}" in text.replace("\u202f", "")
    assert gru["bundle"] in text
    daemon._history.update(time.monotonic(), daemon._engines())
    history = await asked(http, "/agents/history?partition=0")
    assert history["at_ms"][-1] == judged["as_of"]
    assert history["agents"][0]["brier"][-1] == gru["recent"]["brier"]
    assert history["agents"][0]["trust"][-1] == gru["trust"]
    assert (await asked(http, "/agents/history?partition=7", 404))["error"]


async def test_each_partition_is_shown_by_itself(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """Where one process serves several: each has its agents, its risk, and its symbols."""
    async with (
        serving(changed(settings, "redis", partitions=2)) as daemon,
        ClientSession(daemon.http_address) as http,
    ):
        await until(lambda: daemon.status.ready)
        newest = {bar.symbol: bar for bar in bars}
        assert len({partition_of(symbol, 2) for symbol in newest}) == 2
        for bar in newest.values():
            keys = daemon.rounds[partition_of(bar.symbol, 2)].keys
            await feed(client, [bar], keys)
        await until(lambda: daemon.status.processed == len(newest))
        for path in (*PAGES, "/agents?partition=1"):
            await page(http, path)
        assert "Partition 1" in await page(http, "/agents")
        assert "partition 1" in await page(http, "/")
        assert "partition 2 is not served here" in await page(http, "/agents?partition=2", 404)
        shown = [one["symbol"] for one in (await asked(http, "/symbols"))["rows"]]
        assert shown == sorted(newest)


async def test_redis_that_is_gone_is_said(
    daemon: Daemon, http: ClientSession, redis: Any, client: Client, bars: list[Bar]
) -> None:
    """L02: the page stays, and says what is wrong; the ledger is 503 with the reason."""
    await fed(daemon, client, bars[:50])
    text = await page(http, "/symbols/BTCUSDT")
    assert "no signal of it since the start; it needs 0 bars" in text
    daemon.status.partitions[0].redis_error = "Connection refused"
    text = await page(http, "/")
    assert "The engine is degraded: Redis cannot serve: Connection refused." in text
