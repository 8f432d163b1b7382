"""Tests of restarts: wherever it was cut off, the engine is what it would have been."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon import pulse
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import Ledger
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.records import decode_round
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

from .lives import (
    Event,
    at_the_end,
    cut_off,
    disordered,
    memory_of,
    named,
    nervous,
    restless,
    restored,
    state_of,
    told,
    uninterrupted,
)
from .test_app import (
    KEYS,
    changed,
    feed,
    run_through,
    said,
    serving,
    until,
    with_one_agent,
)

KILLS = 12
BARS = 360


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return nervous(with_one_agent(settings, tmp_path))


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """What is logged."""
    with capture_logs() as entries:
        yield entries


@pytest.mark.parametrize(("seed", "snapshot_bars"), [(1, 1), (2, 2), (3, 5)])
async def test_cut_off_anywhere_it_goes_on_as_if_nothing_had_happened(
    settings: Settings,
    client: Client,
    bars: list[Bar],
    events: list[Event],
    seed: int,
    snapshot_bars: int,
) -> None:
    """L43: the state and each field of each signal are those of a twin that never died, with bars
    that are late, doubled and revised, and with stances that depend on the ones before.
    """
    stream, chance = disordered(bars, seed), random.Random(seed)
    often = restless(settings, snapshot_bars)
    signals, state = await uninterrupted(often, client, stream)
    assert {"flat", "short"} <= {signal["stance"] for signal in signals}
    assert any("amends" in signal for signal in signals)
    fed = 0
    for life in range(1, KILLS + 1):
        async with cut_off(often, client) as daemon:
            upto = life * len(stream) // KILLS
            await feed(client, stream[fed:upto])
            enough, fed = chance.randrange(upto - fed), upto
            await until(lambda d=daemon, e=enough: d.status.seen >= e)
    async with serving(often) as daemon:
        await at_the_end(daemon, client)
        assert state_of(daemon) == state
    assert await told(client) == signals
    assert len([one for one in restored(events) if one["snapshot"] != "none"]) >= KILLS // 2
    assert named(events, "position_trimmed") == named(events, "snapshot_refused") == []


async def cut_off_after(
    settings: Settings, client: Client, bars: list[Bar], snapshot_at: int
) -> None:
    """Serve the bars, cut off at their end; the last snapshot is that of the first of them."""
    async with serving(settings) as daemon:
        await feed(client, bars[:snapshot_at])
        await at_the_end(daemon, client)
    async with cut_off(settings, client) as daemon:
        await feed(client, bars[snapshot_at:])
        await at_the_end(daemon, client)


async def test_lost_replies_do_not_undo_what_was_learnt(
    settings: Settings,
    client: Client,
    bars: list[Bar],
    events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """L43, L47: a state of many small rounds is rebuilt though every other page fails to come."""
    small = changed(changed(settings, "ingest", batch=2), "engine", snapshot_bars=1_000)
    await cut_off_after(small, client, bars, 60)
    commands, xrange = 0, Client.xrange

    async def lossy(self: Client, *args: Any, **kwargs: Any) -> Any:
        nonlocal commands
        if len(args) == 4 and (commands := commands + 1) % 2:  # a page
            raise RedisConnectionError("the reply was lost")
        return await xrange(self, *args, **kwargs)

    monkeypatch.setattr(Client, "xrange", lossy)
    async with serving(small) as daemon:
        await until(lambda: daemon.status.ready)
    last = restored(events)[-1]
    assert last["bars"] == BARS - 60
    assert last["records"] > 100 > commands > 0
    assert named(events, "redis_down") == []


async def test_a_clean_stop_leaves_nothing_to_learn(
    settings: Settings, client: Client, bars: list[Bar], events: list[Event]
) -> None:
    """L43: the state is saved at the end, and nothing is saved twice."""
    for _ in range(3):
        async with serving(settings) as daemon:
            await feed(client, bars if not await client.exists(KEYS.bars) else [])
            await at_the_end(daemon, client)
            state = state_of(daemon)
    assert [one["bars"] for one in restored(events)] == [0, 0, 0]
    first, *others = restored(events)
    [(newest, _)] = await client.xrevrange(KEYS.bars, count=1)
    assert first["snapshot"] == "none"
    assert {one["snapshot"] for one in others} == {newest.decode()}
    assert {one["state_hash"] for one in others} == {state}
    assert daemon.metrics.registry.get_sample_value("qae_snapshots_total") == 0


async def test_after_a_kill_only_what_came_since_is_learnt(
    settings: Settings, client: Client, bars: list[Bar], events: list[Event]
) -> None:
    """L43: and what was recorded of decisions since, whatever is left of the signals."""
    await cut_off_after(settings, client, bars, 300)
    written = await client.xlen(KEYS.signals)
    since = await records_in(client)
    async with serving(settings) as daemon:
        await until(lambda: daemon.status.ready)
    last = restored(events)[-1]
    assert (last["bars"], last["records"]) == (BARS - 300, since)
    assert since > 0
    assert await client.xlen(KEYS.signals) == written


@pytest.mark.parametrize("damage", ["damaged", "missing", "venues", "after"])
async def test_a_snapshot_that_cannot_be_used_is_refused_aloud(
    settings: Settings, client: Client, bars: list[Bar], events: list[Event], damage: str
) -> None:
    """L43, L08: bars and records bring features and levels back, and the log says why.

    The evidence begins anew: the records from before the snapshot are gone.
    """
    signals, state = await uninterrupted(settings, client, bars, memory_of)
    await cut_off_after(settings, client, bars[:300], 200)
    [part] = [name for name in await client.hkeys(KEYS.state) if name.endswith(b":1")]
    match damage:
        case "damaged":
            await client.hset(KEYS.state, part, b"x" + await client.hget(KEYS.state, part))
        case "missing":
            await client.hdel(KEYS.state, part)
        case "venues":
            venues = ("AAPL America/New_York 09:30 16:00",)
            settings = changed(settings, "sessions", venues=venues)
        case "after":
            entries = await client.xrange(KEYS.bars, count=100)
            await client.hset(KEYS.state, "offset", entries[-1][0])
    async with serving(settings) as daemon:
        await feed(client, bars[300:])
        await at_the_end(daemon, client)
        assert memory_of(daemon) == state
    counted = "qae_snapshot_failures_total", {"kind": "refused"}
    assert daemon.metrics.registry.get_sample_value(*counted) == 1
    [refused] = named(events, "snapshot_refused")
    words = {"damaged": "damaged", "missing": "missing", "venues": "venues", "after": "after the"}
    assert words[damage] in refused["detail"]
    assert restored(events)[-1]["snapshot"] == "none"
    if damage != "after":  # signals after a position that was moved by hand are there already
        again = await told(client)
        assert said(again) == said(signals)
        assert [one["votes"] for one in again] == [one["votes"] for one in signals]
        assert any(one["target"] for one in again)


async def test_bars_trimmed_since_the_snapshot_are_an_alarm(
    settings: Settings, client: Client, bars: list[Bar], events: list[Event]
) -> None:
    """L40: the position is in the stream, but not all that has to be learnt again is."""
    seldom = changed(settings, "engine", snapshot_bars=1_000)
    await cut_off_after(seldom, client, bars[:300], 200)
    await client.xtrim(KEYS.bars, maxlen=50, approximate=False)
    async with serving(settings) as daemon:
        await feed(client, bars[300:])
        await at_the_end(daemon, client)
        assert daemon.metrics.registry.get_sample_value("qae_position_trimmed_total") == 1
    assert len(named(events, "position_trimmed")) == 1
    assert restored(events)[-1]["bars"] == 50


async def test_what_a_restart_needs_is_not_trimmed_by_time(
    settings: Settings,
    client: Client,
    bars: list[Bar],
    events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """L42, L43: bars past their retention go, but for those since the snapshot."""
    monkeypatch.setattr(pulse, "TRIM_EVERY_S", 0.0)
    await client.config_set("stream-node-max-entries", 10)
    brief = changed(settings, "redis", bars_retention_hours=1e-9)
    brief = changed(brief, "engine", snapshot_bars=10_000)
    signals, state = await uninterrupted(brief, client, bars)
    async with serving(brief) as daemon:
        for part in (bars[:190], bars[190:200]):  # entries of one millisecond go together
            await feed(client, part)
            await at_the_end(daemon, client)
    async with cut_off(brief, client) as daemon:
        await feed(client, bars[200:300])
        await at_the_end(daemon, client)
        await until(lambda: has_at_most(client, 130))
    async with serving(brief) as daemon:
        await feed(client, bars[300:])
        await at_the_end(daemon, client)
        assert state_of(daemon) == state
    assert restored(events)[-1]["bars"] == 100
    assert named(events, "position_trimmed") == []
    assert await told(client) == signals


async def has_at_most(client: Client, entries: int) -> bool:
    return bool(await client.xlen(KEYS.bars) <= entries)


async def test_an_idle_engine_whose_state_is_lost_saves_it_at_once(
    settings: Settings, client: Client, bars: list[Bar], events: list[Event]
) -> None:
    """L06, L43: no bar need come for it to be found and made good; memory serves meanwhile."""
    signals, state = await uninterrupted(settings, client, bars)
    async with cut_off(settings, client) as daemon:
        await feed(client, bars[:300])
        await at_the_end(daemon, client)
        before = await told(client)
        await client.flushall()
        await until(lambda: client.hget(KEYS.state, "snapshot"))
        assert len(named(events, "state_lost")) == 1
        await until(lambda: daemon.status.ready)
    async with serving(settings) as daemon:
        await feed(client, bars[300:])
        await at_the_end(daemon, client)
        assert state_of(daemon) == state
    assert before + await told(client) == signals


async def test_a_step_in_hand_survives_the_loss_of_the_state(
    settings: Settings, client: Client, bars: list[Bar], events: list[Event]
) -> None:
    """L43: what was computed when the state went is written once, whether its bars are left."""
    signals, state = await uninterrupted(settings, client, bars)
    async with serving(settings) as daemon:
        for start in range(0, len(bars), 60):
            await feed(client, bars[start : start + 60])
            await at_the_end(daemon, client)
            async with client.pipeline(transaction=True) as pipe:
                pipe.delete(KEYS.state)
                await pipe.execute()
        assert state_of(daemon) == state
    assert await told(client) == signals
    assert named(events, "snapshot_refused") == []


async def test_foreign_entries_of_the_records_end_no_start(
    settings: Settings, client: Client, bars: list[Bar], events: list[Event]
) -> None:
    """L47: whatever somebody put there, what is ours is recalled, and the rest told of."""
    settings = changed(settings, "engine", snapshot_bars=1_000)
    await cut_off_after(settings, client, bars[:300], 200)
    recorded = await records_in(client)
    for entry in ({"b": b"\x91"}, {"x": b"\xff"}):
        await client.xadd(KEYS.records, entry)
    async with serving(settings) as daemon:
        await until(lambda: daemon.status.ready)
        position, state = daemon.rounds[0].position, state_of(daemon)
    assert len(named(events, "foreign_record")) == 2
    [(last, _)] = await client.xrevrange(KEYS.bars, count=1)
    assert (position, restored(events)[-1]["state_hash"]) == (last.decode(), state)
    assert restored(events)[-1]["records"] == recorded > 0


async def records_in(client: Client) -> int:
    """How many records there are since the snapshot."""
    entries = await client.xrange(KEYS.records)
    return sum(len(decode_round(fields).records) for _, fields in entries[1:])


async def test_records_that_are_gone_are_an_alarm(
    settings: Settings, client: Client, bars: list[Bar], events: list[Event]
) -> None:
    """L40: what was decided since the snapshot is part of the state."""
    await run_through(settings, client, bars[:300])
    await client.delete(KEYS.records)
    async with serving(settings) as daemon:
        await until(lambda: daemon.status.ready)
    assert [event["log_level"] for event in named(events, "records_gone")] == ["error"]


async def test_a_snapshot_makes_the_records_before_it_needless(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L42: they are trimmed, but for the one that it names; without one none is."""
    settings = changed(settings, "engine", snapshot_bars=1_000)
    settings = changed(settings, "ingest", batch=20)
    async with cut_off(settings, client) as daemon:
        await feed(client, bars[:200])
        await at_the_end(daemon, client)
        assert await client.xlen(KEYS.records) > 1
    async with serving(settings) as daemon:
        await feed(client, bars[200:300])
        await at_the_end(daemon, client)
    [(kept, _)] = await client.xrange(KEYS.records)
    assert kept == await client.hget(KEYS.state, "record")
    snapshot = await Ledger(client, KEYS, 5_000, Holder.here()).load()
    assert snapshot is not None
    assert snapshot.record == kept.decode()


async def test_signals_that_are_gone_change_nothing(
    settings: Settings, client: Client, bars: list[Bar], events: list[Event]
) -> None:
    """L43: they are for who listens; a restart needs the records alone."""
    signals, state = await uninterrupted(settings, client, bars)
    await cut_off_after(settings, client, bars[:300], 200)
    before = await told(client)
    await client.delete(KEYS.signals)
    async with serving(settings) as daemon:
        await feed(client, bars[300:])
        await at_the_end(daemon, client)
        assert state_of(daemon) == state
    assert before + await told(client) == signals
    assert named(events, "records_gone") == []
