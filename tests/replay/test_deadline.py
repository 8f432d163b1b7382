"""Certificates of live engines whose agents missed their deadline, which a replay cannot know."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.events import Abstained, Bar, Prediction, Vote
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.replay.silence import Lacking, Recorded, Silences
from quantum_ai_engine.state.record import Record

from ..daemon.lives import cut_off, unbroken
from ..daemon.test_app import KEYS, changed, due, feed, published, ready_at, serving, until
from .test_certificate import certified

BARS = 600
SLOW = range(300, 308)  # bars at which agents are slow
ALONE = range(SLOW.start, SLOW.stop + 24)  # until they are known to be quick again
DEADLINE_MS = 400
Living = Callable[[Settings, Client], contextlib.AbstractAsyncContextManager[Daemon]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    slow = changed(unbroken(settings), "agents", deadline_ms=DEADLINE_MS)
    return changed(slow, "engine", snapshot_bars=10_000)


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


@contextlib.asynccontextmanager
async def stopped(settings: Settings, _: Client) -> AsyncIterator[Daemon]:
    """A daemon that is stopped in the end: its snapshot makes all records needless but one."""
    async with serving(settings) as daemon:
        yield daemon


class Slow:
    """An agent's `predict`, which takes too long while `is_slow`."""

    def __init__(self, agent: Any) -> None:
        self._predict, self.is_slow = agent.predict, False

    def __call__(self, windows: Any) -> Any:
        if self.is_slow:
            time.sleep(1.2 * DEADLINE_MS / 1000)
        return self._predict(windows)


async def fed(daemon: Daemon, client: Client, bars: Sequence[Bar]) -> None:
    seen = daemon.status.seen + len(bars)
    await feed(client, bars)
    await until(lambda: daemon.status.seen >= seen)


@pytest.fixture
def lived(
    settings: Settings, client: Client, bars: list[Bar], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Living, Sequence[str]], Any]:
    """Lets a daemon live whose agents of some names are slow for a while.

    Gives the ids of bars without a signal, and of those whose signal names a deadline.
    """

    async def live(living: Living, names: Sequence[str]) -> tuple[set[str], set[str]]:
        async with living(settings, client) as daemon:
            slow = []
            for agent in daemon.pool.agents:
                if agent.name in names:
                    slow.append(Slow(agent))
                    monkeypatch.setattr(agent, "predict", slow[-1])
            await fed(daemon, client, bars[: ALONE.start])
            for i in ALONE:
                for one in slow:
                    one.is_slow = i in SLOW
                await fed(daemon, client, [bars[i]])
            for i in range(ALONE.stop, BARS, 20):
                await fed(daemon, client, bars[i : i + 20])
            wanted = due(bars, ready_at(daemon))
        said = await published(client)
        late = {s["id"] for s in said if any(a["reason"] == "deadline" for a in s["abstained"])}
        return {*wanted} - {s["id"] for s in said}, late

    return live


async def test_bars_on_which_all_missed_the_deadline_are_silent_and_no_difference(
    lived: Any, settings: Settings, client: Client, tmp_path: Path
) -> None:
    """L02: while records are at hand they tell a bar without a vote from a signal that was lost."""
    lacking, late = await lived(cut_off, ("gru", "patchtst"))
    assert len(lacking) >= 3
    certificate = await certified(settings, tmp_path / "out")
    assert certificate.is_exact, (certificate.verdict, certificate.examples)
    assert {*certificate.silent.wholly.which} == lacking
    assert {*certificate.silent.partly.which} == late
    assert certificate.silent.inferred.count == certificate.silent.untold.count == 0
    assert f"{len(lacking)} bars without a signal on which, by the engine's" in certificate.verdict
    [entry, *_] = [n for n, s in await client.xrange(KEYS.signals) if b"|1735694" in s[b"json"]]
    await client.xdel(KEYS.signals, entry)
    lost = await certified(settings, tmp_path / "out")
    assert not lost.is_exact
    assert lost.signals.missing == lost.signals.differences == 1
    assert {*lost.silent.wholly.which} == lacking


async def test_bars_on_which_some_missed_the_deadline_are_counted(
    lived: Any, settings: Settings, client: Client, tmp_path: Path
) -> None:
    """L02: in what the others said they are compared; what is not compared is named."""
    lacking, late = await lived(stopped, ("patchtst",))
    assert len(late) >= len(SLOW)
    certificate = await certified(settings, tmp_path / "out")
    assert certificate.signals.differences == 0, certificate.examples
    assert {*certificate.silent.partly.which} == late
    assert f"{len(late)} bars of which some agents missed their deadline" in certificate.verdict
    assert {*certificate.silent.inferred.which, *certificate.silent.untold.which} == lacking


async def test_without_records_later_signals_tell_or_nothing_does(
    lived: Any, settings: Settings, client: Client, tmp_path: Path
) -> None:
    """L02: what was voted moves later signals; where it does not, nothing is certified or found."""
    lacking, _ = await lived(stopped, ("gru", "patchtst"))
    certificate = await certified(settings, tmp_path / "out")
    assert certificate.signals.differences == 0, certificate.examples
    assert {*certificate.silent.inferred.which} == lacking
    assert certificate.is_exact


KEY = ("A", "1m", 60_000)
LACKING = Lacking("A|1m|60000", KEY, (7, 0))
DEADLINE, ERROR = Abstained.DEADLINE, Abstained.ERROR


def record(*voted: str, failed: int = 0, close_time: int = 60_000) -> Record:
    votes = tuple(Vote(name, name, 0.5, 0.0) for name in voted)
    return Record("A", "1m", Prediction(close_time, votes, failed, 1.0, None, None), None)


@pytest.mark.parametrize(
    ("recorded", "known"),
    [
        (None, None),
        (Recorded((7, 0), {}), None),  # the records at hand begin after it
        (Recorded((6, 9), {}), {"x": DEADLINE, "y": DEADLINE}),
        (Recorded((9, 0), {KEY: record("x")}), {"y": DEADLINE}),
        (Recorded((0, 0), {KEY: record(failed=1)}), {"x": ERROR, "y": DEADLINE}),
    ],
)
def test_a_record_tells_who_was_silent(recorded: Recorded | None, known: Any) -> None:
    """L02: nobody but a record says that nobody voted."""
    found = Silences.of([LACKING], recorded, ("x", "y"))
    assert found.known.get(KEY) == known
    assert (KEY in found.untold) is (known is None)
