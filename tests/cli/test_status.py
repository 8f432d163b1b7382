"""`ctl status`: a real engine is shown by HTTP and by Redis alone, and its absence is said."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from quantum_ai_engine.cli.status import Report, by_http, by_redis, screen
from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

from ..daemon.lives import at_the_end, nervous
from ..daemon.test_app import changed, feed, serving, until, with_one_agent
from ..following import Engine, signal

BARS = 300


def shown(report: Report) -> str:
    console = Console(width=120, force_terminal=False)
    with console.capture() as captured:
        console.print(screen(report))
    return captured.get()


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return nervous(with_one_agent(settings, tmp_path))


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


def at_port(settings: Settings, address: str) -> Settings:
    return changed(settings, "http", port=int(address.rpartition(":")[2]))


async def test_both_ways_say_the_same(settings: Settings, client: Client, bars: list[Bar]) -> None:
    """L05, L08: counts, risk and version are the engine's own, by whichever way they come."""
    async with serving(settings) as daemon:
        await feed(client, bars)
        await at_the_end(daemon, client)
        signals = daemon.status.signals
        await until(lambda: has_beaten(client, signals))
        web = await asyncio.to_thread(by_http, at_port(settings, daemon.http_address))
        plain = await by_redis(settings)
    assert web is not None
    assert plain is not None
    assert (web.heard, plain.heard) == ("http", "redis")
    for name in ("serving", "engine", "bars", "signals", "effective_votes", "last_bar_close_time"):
        assert getattr(web, name) == getattr(plain, name), name
    assert (web.bars, web.signals, web.serving) == (BARS, signals, True)
    assert {**plain.config} == {**web.config}
    assert [(one.state, one.mode) for one in web.risk] == [
        (one.state, one.mode) for one in plain.risk
    ]
    [agent] = web.agents
    assert (agent.agent, agent.answers) == ("gru", "active")
    assert agent.settled is not None
    assert agent.brier is not None
    # Scores are told by HTTP alone; here they are no data, not 0.
    assert [(one.agent, one.brier) for one in plain.agents] == [("gru", None)]
    assert "no data" in shown(plain)
    for text in (shown(web), shown(plain)):
        assert "serving: " in text
        assert f"{BARS} bars, {signals} signals" in text
        assert "settings 1 (hash " in text


async def has_beaten(client: Client, signals: int) -> bool:
    """Whether the heartbeat has the counts of all that was done."""
    text: Any = await client.get("quantum:heartbeat")
    return text is not None and json.loads(text)["signals"] == signals


async def test_a_breaker_is_named_with_its_reason(redis: EmbeddedRedis, client: Client) -> None:
    """L50: what halts is on the screen, and one partition that is not heard is no success."""
    from quantum_ai_engine.config import load
    from quantum_ai_engine.events import Risk

    settings = load(
        None, environ={}, overrides={"redis.url": redis.url, "redis.partitions": 2}
    ).settings
    engine = Engine(client, Keys("quantum", 2))
    halted = Risk("HALTED", ("drawdown",), ("drawdown: 0.12 is at or above 0.1",))
    one = signal(target=0.0, risk=halted)
    await engine.write(one)
    home = engine.of("BTCUSDT")
    await client.set(home.heartbeat, json.dumps(BEAT))
    report = await by_redis(settings)
    assert report is not None
    assert not report.serving
    text = " ".join(shown(report).split())
    assert f"no heartbeat in partition {1 - home.partition}" in text
    assert "HALTED" in text
    assert "drawdown is open" in text
    assert "drawdown: 0.12 is at or above 0.1" in text
    assert "patchtst" in text
    assert "deadline" in text


BEAT = {
    "state": "ok",
    "partition": 0,
    "last_bar_close_time": 120_000,
    "bars": 1,
    "signals": 1,
    "effective_votes": 1.0,
    "lag_ms": 0,
    "lag_bars": 0,
    "loop_lag_ms": 0.1,
    "stale": 1,
    "stale_series": ["ETHUSDT 1m"],
}


def ctl(*words: str, runtime: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quantum_ai_engine", "ctl", *words]
    env = os.environ | ({"RUNTIME_DIRECTORY": str(runtime)} if runtime else {})
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=env
    )


async def test_the_command_gives_json_and_0_while_it_serves(
    redis: EmbeddedRedis, client: Client
) -> None:
    await client.set("quantum:heartbeat", json.dumps(BEAT))
    where = ["--set", f"redis.url={redis.url}", "--set", "http.enabled=false"]
    done = await asyncio.to_thread(ctl, "status", "--json", *where)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["heard"], told["serving"], told["stale_series"]) == ("redis", True, ["ETHUSDT 1m"])
    await client.set("quantum:heartbeat", json.dumps(BEAT | {"state": "degraded"}))
    done = await asyncio.to_thread(ctl, "status", *where)
    assert done.returncode == 1
    assert "not serving: degraded" in done.stdout


def test_that_nobody_is_heard_is_said(redis: EmbeddedRedis) -> None:
    """L05: silence is no state of an engine; the sentence says where was listened."""
    done = ctl("status", "--set", f"redis.url={redis.url}", "--set", "http.port=9")
    assert done.returncode == 1
    assert "no engine is heard: http://127.0.0.1:9 does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_an_engine_there_is_nothing_to_reload(tmp_path: Path) -> None:
    """L45: a reload reaches exactly one engine, or it fails."""
    done = ctl("reload", runtime=tmp_path)
    assert done.returncode == 1
    assert f"no engine of this user has a socket in {tmp_path}" in done.stderr
    (tmp_path / "7.sock").touch()
    (tmp_path / "8.sock").touch()
    done = ctl("reload", runtime=tmp_path)
    assert "several engines run here; give --pid, one of 7, 8" in done.stderr
    done = ctl("reload", "--pid", "9", runtime=tmp_path)
    assert "no engine with process id 9" in done.stderr


async def test_a_served_file_is_reloaded_by_the_command(settings: Settings, tmp_path: Path) -> None:
    """L38, L48: as systemd runs them: 0 when it is done, 78 with the key when it is refused."""
    file, runtime = tmp_path / "engine.toml", tmp_path / "r"
    base = (
        f'[redis]\nurl = "{settings.redis.url}"\n[http]\nport = 0\n'
        f'[agents]\nbundles = "{settings.agents.bundles}"\n'
    )
    file.write_text(base)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "quantum_ai_engine", "serve", "--config", str(file)),
        *("--set", f"engine.state_dir={tmp_path}"),
        env=os.environ | {"RUNTIME_DIRECTORY": str(runtime)},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(120):
            await log_line(process.stderr, "ready")
        which = ["--wait", "--pid", str(process.pid)]
        file.write_text(base + "[risk]\nlong_threshold = 0.65\n")
        done = await asyncio.to_thread(ctl, "reload", *which, runtime=runtime)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("settings 2 (")
        assert "risk.long_threshold" in done.stdout
        file.write_text(base + "[risk]\nlong_treshold = 0.65\n")
        done = await asyncio.to_thread(ctl, "reload", *which, runtime=runtime)
        assert done.returncode == 78
        assert "unknown key risk.long_treshold" in done.stderr
        assert "did you mean risk.long_threshold?" in done.stderr
        async with asyncio.timeout(60):
            refused = await log_line(process.stderr, "config_refused")
        assert (refused["level"], refused["generation"]) == ("error", 2)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()
    assert process.returncode == 0


async def log_line(stream: asyncio.StreamReader, event: str) -> dict[str, Any]:
    """The next log line of an event."""
    while line := await stream.readline():
        with contextlib.suppress(ValueError):
            found: dict[str, Any] = json.loads(line)
            if found.get("event") == event:
                return found
    raise AssertionError(f"the log ended without {event}")
