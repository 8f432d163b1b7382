"""Tests of two owners-to-be of one partition, whatever they do in any order."""

import contextlib

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import START, Conflict, Ledger, OwnershipLost
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.saved import Snapshot
from quantum_ai_engine.events import Policy, Risk, Signal, Stance, Thresholds, Vote, signal_id

KEYS = Keys("quantum")
OPERATIONS = "acquire acquire commit commit beat keep release save expire flush".split()


def signal(symbol: str, close_time: int) -> Signal:
    """A signal of which only the id matters."""
    return Signal(
        1, signal_id(symbol, "1m", close_time), "live", symbol, "1m", close_time,
        close_time, close_time + 120_000, 5, 0.75, 0.5, Stance.LONG, 0.5,
        (Vote("gru", "abc", 0.75, 1.0),), (), 1.0, Thresholds(0.6, 0.4),
        Policy("NORMAL", 0.7), Risk("ACTIVE"), "s", "r", "0", "c", {},
    )  # fmt: skip


class Model:
    """What two owners-to-be may do to a partition, and what it must then hold."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.ledgers = [Ledger(client, KEYS, 60_000, Holder.here()) for _ in range(2)]
        self.believed = [START, START]
        self.owner: int | None = None
        self.has_ended = False
        self.offset: str | None = None
        self.signals: list[str] = []
        self.snapshot: Snapshot | None = None
        self.steps = 0

    async def acquire(self, who: int) -> None:
        held = await self.ledgers[who].acquire()
        assert (held is None) == (self.owner in (None, who) or self.has_ended)
        if held is None:
            self.owner, self.has_ended = who, False
            self.believed[who] = await self.ledgers[who].position() or START

    async def commit(self, who: int) -> None:
        self.steps += 1
        start, end = self.believed[who], f"{self.steps}-0"
        signals = [
            signal(symbol, self.steps * 60_000) for symbol in ("BTCUSDT", "ETHUSDT")[: who + 1]
        ]
        refused = self.refusal(who) or (Conflict if start != (self.offset or START) else None)
        receipts = []
        for _ in range(1 + self.steps % 2):  # now and then it is sent again
            with expected(refused):
                receipts.append(await self.ledgers[who].commit(start, end, signals, []))
        if refused is None:
            [(newest, _)] = await self.client.xrevrange(KEYS.signals, count=1)
            assert {receipt.signal for receipt in receipts} == {newest.decode()}
            self.offset = self.believed[who] = end
            self.signals += [one.id for one in signals]
            self.has_ended = False

    async def beat(self, who: int) -> None:
        refused = self.refusal(who)
        with expected(refused):
            await self.ledgers[who].beat("{}")
        self.has_ended = self.has_ended and refused is not None

    async def keep(self, who: int) -> None:
        refused = self.refusal(who)
        with expected(refused):
            await self.ledgers[who].keep()
        self.has_ended = self.has_ended and refused is not None

    async def release(self, who: int) -> None:
        refused = self.refusal(who)
        with expected(None if refused is Conflict else refused):
            await self.ledgers[who].release()
        self.owner = None if refused is None else self.owner

    async def save(self, who: int) -> None:
        refused, saved = self.refusal(who), Snapshot(f"{who}-0", "0-0", (b"x",) * (who + 1))
        with expected(refused):
            await self.ledgers[who].save(saved)
        self.snapshot = saved if refused is None else self.snapshot

    async def expire(self, _: int) -> None:
        if self.owner is not None:
            await self.client.hset(KEYS.state, "lease_until", 1)
        self.has_ended = True

    async def flush(self, _: int) -> None:
        await self.client.flushall()
        self.owner = self.offset = self.snapshot = None
        self.signals = []

    def refusal(self, who: int) -> type[Exception] | None:
        if self.owner is None:
            return Conflict
        return None if self.owner == who else OwnershipLost

    async def check(self) -> None:
        entries = await self.client.xrange(KEYS.signals)
        assert [msgspec.json.decode(entry[b"json"])["id"] for _, entry in entries] == self.signals
        offset = await self.client.hget(KEYS.state, "offset")
        assert offset == (None if self.offset is None else self.offset.encode())
        assert await self.ledgers[0].load() == self.snapshot


def expected(refused: type[Exception] | None) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if refused is None else pytest.raises(refused)


@hypothesis_settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(OPERATIONS),
            st.integers(0, 1),
        ),
        max_size=30,
    )
)
async def test_only_the_owner_moves_the_partition(
    client: Client, operations: list[tuple[str, int]]
) -> None:
    """L45: whatever two processes do in any order, the position moves by its owner only, and each
    signal is there once.
    """
    await client.flushall()
    model = Model(client)
    for name, who in operations:
        await getattr(model, name)(who)
        await model.check()
