"""`partitions`: the state of real bars moves to other partitions, by the command."""

import asyncio
from collections.abc import Sequence

import pytest
from click.testing import Result
from typer.testing import CliRunner

from quantum_ai_engine.cli.common import CommandError
from quantum_ai_engine.cli.partitions import app
from quantum_ai_engine.config import EngineSettings, IngestSettings, Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import START, Ledger
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.partitions import all_keys
from quantum_ai_engine.daemon.saved import Snapshot
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.state.batch import Taken
from quantum_ai_engine.state.judgement import Judgement
from quantum_ai_engine.state.state import EngineState

BEFORE, AFTER = 2, 3


@pytest.fixture(scope="module")
def bars() -> list[Bar]:
    return list(PaperMarket(5, 12, start_ms=1_735_689_600_000).table(40).bars())


def state_of(bars: Sequence[Bar]) -> EngineState:
    state = empty()
    for _ in state.take(bars, Taken()):
        pass
    return state


def empty() -> EngineState:
    calendars = Calendars({})
    judgement = Judgement([], 1, Settings(), calendars)
    return EngineState((), calendars, EngineSettings(), IngestSettings(), judgement)


def home(bars: Sequence[Bar], partition: int, partitions: int) -> list[Bar]:
    return [bar for bar in bars if partition_of(bar.symbol, partitions) == partition]


async def leave(client: Client, keys: Keys, bars: Sequence[Bar]) -> None:
    """What an engine that was stopped leaves of these bars."""
    ledger = Ledger(client, keys, 5000, Holder.here())
    await ledger.acquire()
    end = (await client.xadd(keys.bars, {"b": "1"})).decode()
    await ledger.commit(START, end, [], [])
    await ledger.save(Snapshot(end, START, tuple(state_of(bars).snapshot())))
    await ledger.release()


async def qae(redis: EmbeddedRedis, *arguments: str) -> Result:
    """A command's outcome, run beside this event loop."""
    options = ["--set", f"redis.url={redis.url}", "--set", f"redis.partitions={BEFORE}"]
    return await asyncio.to_thread(CliRunner().invoke, app, [*arguments, *options])


async def test_real_state_moves(redis: EmbeddedRedis, client: Client, bars: list[Bar]) -> None:
    """L43: every partition knows of its symbols what it would know had it always had them."""
    for keys in all_keys("quantum", BEFORE):
        await leave(client, keys, home(bars, keys.partition, BEFORE))
    outcome = await qae(redis, "move", "--to", str(AFTER))
    assert outcome.exit_code == 0, outcome.output
    for keys in all_keys("quantum", AFTER):
        snapshot = await Ledger(client, keys, 5000, Holder.here()).load()
        assert snapshot is not None
        state = empty()
        state.restore(snapshot.parts)
        assert state.digest() == state_of(home(bars, keys.partition, AFTER)).digest()
    assert (await qae(redis, "delete-old")).exit_code == 0
    assert not await client.keys("quantum:old:*")


async def test_a_refusal_is_one_sentence(redis: EmbeddedRedis, client: Client) -> None:
    await client.xadd("quantum:{1}:bars", {"b": "1"})
    outcome = await qae(redis, "move", "--to", "4")
    assert isinstance(outcome.exception, CommandError)
    assert "stop the producers" in str(outcome.exception)


async def test_a_snapshot_of_another_version_is_one_sentence(
    redis: EmbeddedRedis, client: Client
) -> None:
    keys = Keys("quantum", BEFORE, 0)
    ledger = Ledger(client, keys, 5000, Holder.here())
    await ledger.acquire()
    await ledger.save(Snapshot(START, START, (b"nothing",)))
    await ledger.release()
    outcome = await qae(redis, "move", "--to", "4")
    assert isinstance(outcome.exception, CommandError)


async def test_a_server_that_cannot_serve_is_one_sentence(
    redis: EmbeddedRedis, client: Client
) -> None:
    await client.config_set("maxmemory", 1)
    outcome = await qae(redis, "move", "--to", "4")
    assert isinstance(outcome.exception, CommandError)
    assert "give the same command again" in str(outcome.exception)
