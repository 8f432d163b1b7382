"""What was decided once is decided again: at a restart, by the clock, whatever else is asked."""

import asyncio
from urllib.parse import urlsplit

import numpy as np
import pytest

from quantum_ai_engine.config import ConfigError, Settings, Venue, load
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import BYTES_KEPT, DETAIL_KEPT, START, DeadLetter
from quantum_ai_engine.daemon.feed import BarFeed
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.status import Status
from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import (
    LAST_TIME_MS,
    Abstained,
    Abstention,
    Bar,
    Reason,
    Refused,
    encode_bar,
)
from quantum_ai_engine.features.sessions import Calendar

from .test_app import changed, serving
from .test_status import status, voted

__all__ = ["status"]  # a fixture
KEYS = Keys("quantum")
MADE_AT = 1_700_000_000_000


def closing(after_ms: int) -> Bar:
    """A bar that closes so long after MADE_AT, to the minute."""
    open_time = (MADE_AT + after_ms) // 60_000 * 60_000 - 60_000
    return Bar("BTCUSDT", "1m", open_time, 1.0, 1.0, 1.0, 1.0, 1.0)


async def test_a_bar_of_the_future_stays_refused(client: Client) -> None:
    """L43: refused when it came, a bar is refused at the restart too, long after its close."""
    good, early = closing(0), closing(120_000)
    for place, bar in enumerate((good, early)):
        await client.xadd(KEYS.bars, {"b": encode_bar(bar)}, id=f"{MADE_AT}-{place + 1}")
    feed = BarFeed(client, KEYS, "live")
    long_after = MADE_AT + 86_400_000
    _, _, dead = feed.decode(await feed.read(START, 10, 1), long_after)
    assert [letter.refused.reason for letter in dead] == [Reason.FUTURE_TIME]
    assert await feed.tail(f"{MADE_AT}-2", 10, long_after) == [good]


async def test_repeats_do_not_use_up_the_tail(client: Client) -> None:
    """L43: bars sent ten times each are still as many different bars."""
    bars = [closing(-60_000 * minute) for minute in (3, 2, 1)]
    for place, bar in enumerate(bar for bar in bars for _ in range(10)):
        await client.xadd(KEYS.bars, {"b": encode_bar(bar)}, id=f"{MADE_AT}-{place + 1}")
    tail = await BarFeed(client, KEYS, "live").tail(f"{MADE_AT}-30", 3, MADE_AT)
    assert sorted({bar.open_time for bar in tail}) == [bar.open_time for bar in bars]


def test_a_dead_letter_is_of_bounded_size() -> None:
    """L42: a hostile entry cannot fill Redis or the log through its letter."""
    huge = Refused(Reason.BAD_SYMBOL, "x" * 10**6)
    fields = DeadLetter(huge, b"1-0", {b"json": b"y" * 10**6, b"z" * 10**6: b""}).fields()
    assert len(fields[3]) < DETAIL_KEPT + 20
    assert all(len(field) < BYTES_KEPT + 20 for field in fields)


def test_bars_of_another_interval_say_nothing_of_an_agent(status: Status) -> None:
    """L05, L09: an agent that was not to be asked has not failed."""
    status.update(voted(), 0)
    unheard = [Abstention(name, Abstained.OTHER_INTERVAL) for name in ("gru", "patchtst")]
    status.update(Round(processed=1, unheard=unheard), 0)
    assert status.state() == "ok"
    assert status.effective_votes == 1.0
    assert status.agents["gru"].state() == "active"


def test_a_feed_that_ends_is_not_ok_for_ever(status: Status) -> None:
    """L05: ok ages; when the next bar is overdue the state says so."""
    done = voted()
    done.longest_interval_ms = 60_000
    status.update(done, 0)
    assert status.state() == "ok"
    assert status.worked_at is not None
    status.worked_at -= 1_000.0
    assert status.state() == "idle"
    assert "no bar has come for 1000 s" in str(status.reason())


def test_old_bars_are_named_as_the_reason(status: Status) -> None:
    """L39: whoever feeds recorded bars by the wall clock is told what to set."""
    done = Round(processed=1)
    done.silent["expired"] += 1
    status.update(done, 0)
    assert status.state() == "warming_up"
    assert "engine.clock = bars" in str(status.reason())


@pytest.mark.parametrize("value", ["0", "255"])
def test_a_replay_that_forgets_repeats_is_refused(value: str) -> None:
    """L40: what tells a repeat from a new bar is rebuilt from the replay."""
    with pytest.raises(ConfigError, match=r"engine\.replay_bars"):
        load(None, environ={"QAE_ENGINE__REPLAY_BARS": value})


def test_a_replay_below_the_burn_in_is_refused() -> None:
    with pytest.raises(ConfigError, match="no signals"):
        load(None, environ={"QAE_ENGINE__BURN_IN_BARS": "5000"})


def test_a_bar_at_the_end_of_time_leaves_the_calendar_whole() -> None:
    """L46: the calendar of live bars is as it was after any other bar was looked up."""
    calendar, fresh = Calendar(Venue()), Calendar(Venue())
    now = np.array([MADE_AT])
    before = calendar.rows(now, np.ones((1, 5)), 60_000)
    calendar.of(LAST_TIME_MS)
    assert calendar.rows(now, np.ones((1, 5)), 60_000).tobytes() == before.tobytes()
    for days in (-400, 400, 20_000):
        moment = MADE_AT + days * 86_400_000
        assert calendar.of(moment) == fresh.of(moment)


async def test_an_unfinished_request_does_not_hold_up_the_stop(settings: Settings) -> None:
    """L46: a client that never sends its body is not waited for."""
    async with serving(changed(settings, "http", port=0)) as daemon:
        address = urlsplit(daemon.http_address)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        await asyncio.sleep(0.05)
        daemon.stop.set()
    writer.close()
