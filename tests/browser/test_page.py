"""Tests of the live page in a real Chromium, against a running engine and a real Redis.

With `SCREENSHOTS` set to a directory, what was seen is kept there.
"""

import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

from ..daemon.test_app import BARS, changed, feed, published, serving, until, with_one_agent
from .seen import AXE, PATIENCE_MS, kept_at

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

TOKEN = "correct-horse-battery-staple"
PATHS = {
    "overview": "/",
    "agents": "/agents",
    "symbols": "/symbols",
    "symbol": "/symbols/BTCUSDT?interval=1m",
    "signals": "/signals?limit=10",
    "risk": "/risk",
}
SIZES = {"wide": (1280, 860), "phone": (390, 844)}


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return changed(with_one_agent(settings, tmp_path), "http", token=TOKEN)


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


@pytest.fixture
async def daemon(settings: Settings) -> AsyncIterator[Daemon]:
    async with serving(settings) as daemon:
        await until(lambda: daemon.status.ready)
        yield daemon


class Look:
    """A page of a daemon in a browser, and everything that it complained of or asked for."""

    def __init__(self, page: "Page", daemon: Daemon) -> None:
        self.page = page
        self.address = daemon.http_address
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    async def at(self, path: str) -> None:
        await self.page.goto(self.address + path)
        await self.page.wait_for_selector("#live[data-live=on]")

    async def sees(self, where: str, text: str) -> None:
        """Wait until a part of the page holds a text."""
        await self.page.wait_for_function(
            "([where, text]) => document.querySelector(where)?.innerText.includes(text)",
            arg=[where, text],
        )

    async def keep(self, name: str) -> None:
        """A screenshot, where somebody wants one."""
        if place := kept_at(f"{name}.png"):
            await self.page.screenshot(path=place, full_page=True)


@contextlib.asynccontextmanager
async def looking(
    chromium: "Browser", daemon: Daemon, scheme: Any = "light", size: str = "wide"
) -> AsyncIterator[Look]:
    """A look that must end without a complaint, and without a request to any other host."""
    width, height = SIZES[size]
    context = await chromium.new_context(
        color_scheme=scheme, viewport={"width": width, "height": height}
    )
    look = Look(await context.new_page(), daemon)
    yield look
    await context.close()
    assert look.complaints == []
    assert look.hosts == {urlsplit(daemon.http_address).netloc}


async def fed(daemon: Daemon, client: Client, bars: list[Bar]) -> str:
    """All bars have been processed; the id of the last signal."""
    before = daemon.status.processed
    await feed(client, bars)
    await until(lambda: daemon.status.processed == before + len(bars))
    return str((await published(client))[-1]["id"])


async def test_signals_arrive_live_and_a_stop_is_seen(
    daemon: Daemon, chromium: "Browser", client: Client, bars: list[Bar]
) -> None:
    """L07: without a reload; a feed that stops looks stale, an engine that is gone looks gone."""
    await fed(daemon, client, bars[:500])
    async with looking(chromium, daemon) as look:
        await look.at("/")
        await look.page.evaluate("window.sameAsBefore = true")
        await look.page.focus("nav a[href='/agents']")
        for part in (bars[500:550], bars[550:]):
            last = await fed(daemon, client, part)
            await look.page.wait_for_selector(f"tr[data-key='{last}']")
        assert await look.page.evaluate("window.sameAsBefore")
        assert await look.page.evaluate("document.activeElement.innerText") == "Agents"
        await look.sees("#strip", "fresh")
        daemon.status.worked_at = time.monotonic() - daemon.status.patience_s - 30.0
        await look.sees("#strip", "stale")
        await look.sees("#problems", "no bar has come for")
        await look.keep("stale")
        daemon.stop.set()
        await look.sees("#connection", "No word from the engine")
        await look.sees("#live", "Not live")
        # The browser itself complains of each attempt to come back.
        look.complaints = [one for one in look.complaints if "net::ERR" not in one]


async def test_a_halted_engine_looks_halted(
    daemon: Daemon, chromium: "Browser", client: Client, bars: list[Bar]
) -> None:
    """By the keyboard alone: the button, the dialog, a wrong token, the right one."""
    await fed(daemon, client, bars[:300])
    async with looking(chromium, daemon) as look:
        page = look.page
        await look.at("/")
        await page.focus("button[data-command=halt]")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("dialog[open]")
        assert await page.evaluate("document.activeElement.id") == "control-token"
        await look.keep("halt-dialog")
        await page.keyboard.press("Escape")
        await page.wait_for_selector("dialog:not([open])", state="attached")
        await page.keyboard.press("Enter")
        await page.keyboard.type("not-the-token-at-all")
        await page.keyboard.press("Enter")
        await look.sees("#control-error", "not the token")
        await page.keyboard.type(TOKEN)
        await page.keyboard.press("Enter")
        await look.sees("#strip", "HALTED")
        await look.sees("#problems", "Risk is HALTED, all targets are flat")
        await look.sees("#announce", "Risk is now HALTED")
        await look.keep("halted")
        # The browser itself complains of the answer to the wrong token.
        look.complaints = [one for one in look.complaints if "403" not in one]


@pytest.mark.parametrize(
    ("scheme", "size"), [("light", "wide"), ("dark", "wide"), ("light", "phone")]
)
async def test_every_page_is_accessible(
    daemon: Daemon, chromium: "Browser", client: Client, bars: list[Bar], scheme: str, size: str
) -> None:
    """No finding of axe, no page wider than the screen, and the first tab stop is a way past."""
    await fed(daemon, client, bars)
    daemon._history.update(time.monotonic(), daemon._engines())
    async with looking(chromium, daemon, scheme, size) as look:
        for name, path in PATHS.items():
            await look.at(path)
            await look.page.evaluate(AXE.read_text())
            found = await look.page.evaluate("axe.run()")
            told = [
                (one["id"], one["nodes"][0]["html"], one["nodes"][0]["failureSummary"])
                for one in found["violations"]
            ]
            assert told == [], (name, scheme, size)
            assert len(found["passes"]) > 20
            wide = await look.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= SIZES[size][0], name
            await look.keep(f"{name}-{scheme}-{size}")
        await look.at("/")
        await look.page.keyboard.press("Tab")
        assert await look.page.evaluate("document.activeElement.className") == "skip"
        await look.page.keyboard.press("Enter")
        await look.page.wait_for_function("document.activeElement.id === 'main'")


async def test_a_symbol_shows_its_bars_and_follows_them(
    daemon: Daemon, chromium: "Browser", client: Client, bars: list[Bar]
) -> None:
    """The chart is drawn, and the newest signal comes without a reload, with its votes."""
    await fed(daemon, client, bars[:500])
    async with looking(chromium, daemon) as look:
        await look.at("/symbols/BTCUSDT?interval=1m")
        await look.page.wait_for_selector("#bars-chart canvas")
        await fed(daemon, client, bars[500:])
        last = [one for one in await published(client) if one["symbol"] == "BTCUSDT"][-1]
        await look.page.wait_for_selector(f"#said tr[data-key='{last['id']}']")
        await look.sees("#votes", last["id"])
        await look.sees("#votes", f"{last['probability']:.3f}")
