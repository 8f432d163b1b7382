"""Commands of an operator: when they take effect, and that a restart repeats them."""

import json
from pathlib import Path
from typing import Any

import pytest

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import START, Controls, Followed, Ledger
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.events import Bar, Command, Control
from quantum_ai_engine.market.table import BarTable

from .lives import brain_of, unbroken
from .test_app import BARS, KEYS, changed, feed, published, serving, until, with_one_agent

HALTED = {
    "state": "HALTED",
    "breakers": ["manual"],
    "reasons": ["manual: a person's halt", "halted"],
}


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    brisk = changed(
        settings,
        "risk",
        long_threshold=0.505,
        short_threshold=0.495,
        exit_hysteresis=0.0,
        add_hysteresis=0.0,
        dead_band=0.0,
    )
    # What little is left of its prior would be nothing, since it was hardly trained.
    untried = changed(unbroken(brisk), "trust", min_outcomes=1_000_000)
    return with_one_agent(untried, tmp_path)


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


async def tell(client: Client, command: str) -> None:
    await client.xadd(KEYS.control, {"command": command})


async def serve_part(
    settings: Settings, client: Client, bars: list[Bar], command: str | None = None
) -> list[dict[str, Any]]:
    """Serve some bars, after a command that has been taken; what was published for them."""
    before = len(await published(client))
    async with serving(settings) as daemon:
        await until(lambda: daemon.status.ready)
        if command is not None:
            await tell(client, command)
            await until(lambda: is_followed(client))
        await feed(client, bars)
        await until(lambda: daemon.status.seen == len(bars))
    return (await published(client))[before:]


async def is_followed(client: Client) -> bool:
    """Whether the engine has read all commands."""
    [(newest, _)] = await client.xrevrange(KEYS.control, count=1)
    return bool(await client.hget(KEYS.state, "control") == newest)


@pytest.mark.parametrize("snapshot_bars", [1, 1_000])
async def test_a_halted_engine_is_flat_until_it_is_told_otherwise(
    settings: Settings, client: Client, bars: list[Bar], snapshot_bars: int
) -> None:
    """L43, L50: also after restarts, whether a snapshot holds the command or the ledger alone."""
    settings = changed(settings, "engine", snapshot_bars=snapshot_bars)
    before = await serve_part(settings, client, bars[:300])
    halted = await serve_part(settings, client, bars[300:350], "halt")
    again = await serve_part(settings, client, bars[350:400])
    resumed = await serve_part(settings, client, bars[400:450], "resume")
    assert any(signal["target"] for signal in before)
    assert all(signal["risk"]["state"] == "ACTIVE" for signal in [*before, *resumed])
    for signal in (*halted, *again):
        assert (signal["stance"], signal["target"], signal["risk"]) == ("flat", 0.0, HALTED)
    assert len(halted) == len(again) == len(resumed) == 50
    assert any(signal["target"] for signal in resumed)


async def test_a_command_is_kept_with_its_position(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L40: a restart takes bars and commands in the order in which they took effect."""
    await serve_part(settings, client, bars[:100])
    position = await client.hget(KEYS.state, "offset")
    async with serving(settings) as daemon:
        await tell(client, "halt")
        await until(lambda: is_followed(client))
        controls = await daemon.rounds[0].ledger.controls()
    assert [(c.at, c.command) for c in controls.applied] == [(str(position, "ascii"), Command.HALT)]


async def test_an_unknown_command_is_a_dead_letter(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L41, L50: it changes nothing, and says why; so does an entry without a command."""
    async with serving(settings) as daemon:
        await tell(client, "explode")
        await client.xadd(KEYS.control, {"comand": "halt"})
        await feed(client, bars[:1])
        await until(lambda: daemon.status.processed == 1)
        assert brain_of(daemon) == ("ACTIVE", ())
    letters = [fields for _, fields in await client.xrange(KEYS.dead)]
    assert [letter[b"reason"] for letter in letters] == [b"unknown_command", b"missing_field"]
    assert letters[0][b"detail"] == b"command 'explode' is not one of halt, reduce, resume"


async def test_a_lost_reply_repeats_no_command(client: Client) -> None:
    """L43: a step that moves in the control stream alone may be sent again, too."""
    ledger = Ledger(client, KEYS, 5_000, Holder.here())
    await ledger.acquire()
    after = Controls("5-0", (Control(START, Command.HALT, "5-0"),))
    for _ in range(2):
        await ledger.commit(START, START, [], [], Followed(START, after))
    assert await ledger.controls() == after
    assert json.loads(await client.hget(KEYS.state, "holder"))["id"]
