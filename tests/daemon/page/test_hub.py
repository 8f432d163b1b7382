"""Tests of the hub: built once, shared by all, and nobody who is slow holds anybody up."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import ClientSession, web
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.daemon.page import hub as hub_module
from quantum_ai_engine.daemon.page.hub import TICK_S, Browser, Full, Hub, Panels, Topic
from quantum_ai_engine.daemon.page.ring import Place, Ring
from quantum_ai_engine.daemon.tasks import end
from quantum_ai_engine.events import Change

from ...following import signal
from ..test_app import until

HALTED = Change("risk", 60_000, "", "ACTIVE", "HALTED", ("manual: a person's halt",))


class House:
    """A hub over a ring, with panels that show how often they were asked for."""

    def __init__(self, most: int = 256, kept: int = 5000) -> None:
        self.ring = Ring(kept, kept)
        self.calls = Counter[Topic]()
        self.failures = 0
        self.hub = Hub(self.ring, self.build, most, self.failed)
        self.minute = 0

    def build(self, topic: Topic) -> Panels:
        self.calls[topic] += 1
        return {"count": f"<b>{self.calls[topic]}</b>", "same": "<i>as it was</i>"}

    def failed(self) -> None:
        self.failures += 1

    def say(self, count: int = 1) -> list[str]:
        """Add signals; their ids."""
        said = [signal(minute=self.minute + i) for i in range(count)]
        self.minute += count
        self.ring.add(said, [])
        return [one.id for one in said]


def heard(data: bytes | None) -> dict[str, object]:
    """What an update holds."""
    assert data is not None
    return msgspec.json.decode(data.split(b"\ndata: ", 1)[1])  # type: ignore[no-any-return]


def ids(update: dict[str, object]) -> list[str]:
    return [one["id"] for one in update["said"]["signals"]]  # type: ignore[index]


async def test_an_update_is_built_once_and_shared_by_all() -> None:
    """Browsers of one page are sent the same bytes, not equal ones."""
    house, hub = House(), None
    hub = house.hub
    async with contextlib.AsyncExitStack() as stack:
        place = house.ring.place
        browsers = [
            await stack.enter_async_context(hub.joined(("overview",), place)) for _ in "abc"
        ]
        house.say(2)
        await hub.tick()
        sent = [hub.next(browser) for browser in browsers]
        assert house.calls == {("overview",): 1}
        assert sent[0] is sent[1] is sent[2]
        assert hub.next(browsers[0]) is None


async def test_nothing_is_built_while_nobody_looks_on() -> None:
    """However much is said: it is in the ring, and that is all."""
    house = House()
    task = asyncio.create_task(house.hub.run())
    house.say(100)
    for _ in range(10):
        await asyncio.sleep(0)
    assert house.hub.built == 0
    async with house.hub.joined(("overview",), house.ring.place):
        await until(lambda: house.hub.built)
    await end([task])
    assert house.hub.browsers == 0


async def test_only_panels_that_changed_are_sent() -> None:
    """Who has missed an update is given all of them."""
    house = House()
    async with house.hub.joined(("risk",), house.ring.place) as browser:
        await house.hub.tick()
        assert heard(house.hub.next(browser))["panels"].keys() == {"count", "same"}  # type: ignore[attr-defined]
        await house.hub.tick()
        assert heard(house.hub.next(browser))["panels"].keys() == {"count"}  # type: ignore[attr-defined]
        await house.hub.tick()
        await house.hub.tick()
        assert heard(house.hub.next(browser))["panels"] == {  # type: ignore[comparison-overlap]
            "count": "<b>4</b>",
            "same": "<i>as it was</i>",
        }


steps = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 40)),
        st.tuples(st.just("tick"), st.just(0)),
        st.tuples(st.just("read"), st.integers(0, 2)),
    ),
    max_size=40,
)


@given(steps)
def test_each_browser_is_told_each_signal_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    """However slow it is; what the ring has lost by then is counted as missed, never skipped."""
    asyncio.run(_told(steps))


async def _told(steps: list[tuple[str, int]]) -> None:
    house, said = House(kept=60), list[str]()
    async with contextlib.AsyncExitStack() as stack:
        joined = [house.hub.joined(("signals",), Place()) for _ in range(3)]
        readers = [Reader(house.hub, await stack.enter_async_context(one)) for one in joined]
        for what, n in [*steps, ("tick", 0)]:
            if what == "say":
                said += house.say(n)
            elif what == "tick":
                await house.hub.tick()
            else:
                readers[n].read()
        for reader in readers:
            while reader.browser.place != house.ring.place:
                reader.read()
                await house.hub.tick()
    for reader in readers:
        assert reader.told == [one if one in reader.told else None for one in said]


class Reader:
    """Reads for one browser; None stands for a signal that it was told it has missed."""

    def __init__(self, hub: Hub, browser: Browser) -> None:
        self.hub, self.browser = hub, browser
        self.told: list[str | None] = []

    def read(self) -> None:
        data = self.hub.next(self.browser)
        if data is not None:
            update = heard(data)
            missed = update["said"]["missed"]  # type: ignore[index]
            self.told += [*([None] * missed), *ids(update)]


async def test_a_large_round_comes_in_several_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand signals of a minute boundary do not make one update of a megabyte."""
    monkeypatch.setattr(hub_module, "MOST_SIGNALS", 10)
    house = House()
    async with house.hub.joined(("signals",), house.ring.place) as browser:
        said, told = house.say(25), list[str]()
        for length in (10, 10, 5):
            await house.hub.tick()
            update = heard(house.hub.next(browser))
            assert len(ids(update)) == length
            told += ids(update)
    assert told == said


async def test_a_last_event_id_resumes() -> None:
    """After a reconnect the signals and changes that were missed come, and no others."""
    house = House()
    first = house.say(3)
    name = house.hub.name
    later = house.say(2)
    house.ring.add([], [HALTED])
    async with house.hub.joined(("risk",), house.hub.place_of(name)) as browser:
        await house.hub.tick()
        update = heard(house.hub.next(browser))
    assert ids(update) == later
    assert [one["after"] for one in update["said"]["changes"]] == ["HALTED"]  # type: ignore[index]
    assert set(first).isdisjoint(ids(update))


@pytest.mark.parametrize("name", ["0ther.1.1", "nonsense", "a.b", "...", "9.-1.0"])
def test_an_id_of_another_life_is_the_beginning(name: str) -> None:
    """Who was told by an engine that is gone is told all that is known."""
    house = House()
    house.say(3)
    assert house.hub.place_of(name) == Place()
    assert house.hub.place_of("") == house.ring.place
    ahead = house.hub.name.replace(".3.", ".99.")
    assert house.hub.place_of(ahead) == house.ring.place


async def test_no_more_browsers_than_may() -> None:
    """The next one is refused; when one leaves there is room again."""
    hub = House(most=2).hub
    async with hub.joined(("risk",), Place()):
        async with hub.joined(("risk",), Place()):
            with pytest.raises(Full):
                async with hub.joined(("risk",), Place()):
                    pass
        async with hub.joined(("risk",), Place()):
            assert hub.browsers == 2


def test_no_browser_is_told_more_than_five_times_a_second() -> None:
    """The pause between two updates bounds it."""
    assert TICK_S >= 1 / 5


async def test_a_page_that_cannot_be_built_ends_nothing() -> None:
    """L47: the failure is counted, and the hub goes on."""
    house = House()
    task = asyncio.create_task(house.hub.run())
    broken, house.hub._build = house.hub._build, lambda _: {}["no such panel"]
    async with house.hub.joined(("risk",), house.ring.place) as browser:
        await until(lambda: house.failures)
        house.hub._build = broken
        await until(lambda: house.hub.next(browser))
    assert not task.done()
    await end([task])


@contextlib.asynccontextmanager
async def listening(house: House) -> AsyncIterator[str]:
    """A real server whose `/` are the hub's events."""

    async def events(request: web.Request) -> web.StreamResponse:
        return await house.hub.stream(request, ("risk",), house.ring.place)

    app = web.Application()
    app.router.add_get("/", events)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    task = asyncio.create_task(house.hub.run())
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        house.hub.close()
        await end([task])
        await runner.cleanup()


async def test_a_browser_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds no more than a socket's buffer, and others are told all the while."""
    monkeypatch.setattr(hub_module, "SLOW_S", 0.05)
    monkeypatch.setattr(hub_module, "TICK_S", 0.005)
    monkeypatch.setattr(hub_module, "QUIET_S", 0.005)
    house = House()
    large = "x" * 500_000
    house.hub._build = lambda _: {"large": f"{large}{house.hub.built}"}
    async with (
        listening(house) as address,
        ClientSession(read_bufsize=1024) as http,
        http.get(address) as slow,
        http.get(address) as quick,
    ):
        assert slow.status == 200
        await until(lambda: house.hub.browsers == 2)
        while house.hub.browsers == 2:
            assert await quick.content.readany()
        assert house.hub.browsers == 1


async def test_a_stop_ends_all_streams() -> None:
    """A browser that looks on does not hold the engine up."""
    house = House()
    async with listening(house) as address, ClientSession() as http, http.get(address) as answer:
        assert await answer.content.readline() == b"retry: 2000\n"
        house.hub.close()
        await answer.content.read()
        assert answer.content.at_eof()
