"""The file that halts the engine: no Redis client is needed, and no bar is dealt with before."""

from pathlib import Path

import pytest

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon import killswitch as killswitch_module
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.killswitch import NAME, KillSwitch
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

from .lives import brain_of, unbroken
from .test_app import KEYS, feed, published, serving, until, with_one_agent

WARM, BARS = 300, 340


@pytest.fixture
def settings(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(killswitch_module, "LOOK_EVERY_S", 0.005)
    return with_one_agent(unbroken(settings), tmp_path)


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


async def test_a_file_that_is_there_at_the_start_halts_before_the_first_bar(
    settings: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L50: one control stream: the file is told as a command, before anything else is read."""
    (tmp_path / NAME).touch()
    await feed(client, bars)
    async with serving(settings) as daemon:
        await until(lambda: daemon.status.seen == len(bars))
        assert brain_of(daemon)[0] == "HALTED"
    signals = await published(client)
    assert signals
    assert {(s["target"], s["risk"]["state"]) for s in signals} == {(0.0, "HALTED")}


async def test_while_the_file_is_there_resume_is_refused(
    settings: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L41, L50: re-arming takes two: the file is removed, then a person resumes."""
    async with serving(settings) as daemon:
        await feed(client, bars[:WARM])
        await until(lambda: daemon.status.seen == WARM)
        (tmp_path / NAME).touch()
        await until(lambda: brain_of(daemon)[0] == "HALTED")
        await client.xadd(KEYS.control, {"command": "resume"})
        await until(lambda: client.xlen(KEYS.dead))
        assert brain_of(daemon)[0] == "HALTED"
        (tmp_path / NAME).unlink()
        await until(lambda: not daemon.rounds[0]._shared.killswitch.is_on)
        assert brain_of(daemon)[0] == "HALTED"
        await client.xadd(KEYS.control, {"command": "resume"})
        await until(lambda: brain_of(daemon)[0] == "ACTIVE")
    [(_, letter)] = await client.xrange(KEYS.dead)
    assert letter[b"reason"] == b"halt_file"
    assert str(tmp_path / NAME) in letter[b"detail"].decode()


async def test_it_sees_the_file_come_and_go(tmp_path: Path) -> None:
    """L09: it says what is there now."""
    killswitch = KillSwitch(tmp_path)
    seen = []
    for change in (lambda: None, (tmp_path / NAME).touch, (tmp_path / NAME).unlink):
        change()
        await killswitch.look()
        seen.append(killswitch.is_on)
    assert seen == [False, True, False]
