"""Tests of reading settings again while the engine serves: all of them, or none."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from quantum_ai_engine.config import ConfigError, Loaded, Settings, config_hash, flatten
from quantum_ai_engine.daemon import app as app_module
from quantum_ai_engine.daemon import door
from quantum_ai_engine.daemon import reload as reload_module
from quantum_ai_engine.daemon.app import Daemon, reload_on_hangup
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.daemon.notify import Notifier
from quantum_ai_engine.daemon.reload import (
    KEYS,
    MEASURED_BY,
    ROOMS,
    Reloaded,
    ReloadRefusedError,
    changes,
    may_change,
)
from quantum_ai_engine.daemon.tasks import end
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

from .lives import at_the_end, named, nervous, restless, state_of, told
from .test_app import PATIENCE_S, changed, feed, published, until, with_one_agent

BARS = 400


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return nervous(with_one_agent(settings, tmp_path))


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "run"
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(directory))
    return directory


class File:
    """Stands for the layers of the settings: what they say can change, and be wrong."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.wrong = ""

    def read(self) -> Loaded:
        if self.wrong:
            raise ConfigError(self.wrong)
        return Loaded(self.settings, {})


@contextlib.asynccontextmanager
async def reloadable(
    file: File, client: Client | None = None, notifier: Notifier | None = None
) -> AsyncIterator[Daemon]:
    """A daemon that reads its settings from a file; with a client it is cut off at the end."""
    daemon = Daemon(file.read(), notifier or Notifier(None), file.read)
    task = asyncio.create_task(daemon.run())
    try:
        await until(lambda: daemon.ready.is_set() or task.done())
        yield daemon
    finally:
        if client is None:
            daemon.stop.set()
            async with asyncio.timeout(PATIENCE_S):
                await task
        else:
            await end([task])
            await client.hset(Keys.of(daemon.settings.redis).state, "lease_until", 1)


async def reload(daemon: Daemon) -> Reloaded:
    async with asyncio.timeout(PATIENCE_S):
        return await daemon.reloads.reload()


def metric(daemon: Daemon, name: str) -> float | None:
    return daemon.metrics.registry.get_sample_value(name)


def bolder(settings: Settings) -> Settings:
    """The same with another threshold, other limits and another breaker."""
    return changed(
        changed(settings, "risk", short_threshold=0.46, strong_margin=0.02, gross_cap=0.6),
        "trust",
        min_outcomes=20,
        memory_outcomes=100,
    )


def test_what_may_change_is_known() -> None:
    """Each name in the lists is a key, and nothing of Redis, HTTP or the agents is among them."""
    known = flatten(Settings())
    assert known.keys() >= KEYS | MEASURED_BY
    allowed = {key for key in known if may_change(key)}
    assert {key.partition(".")[0] for key in allowed} == {*ROOMS, "engine", "ingest", "log"}
    assert not allowed & MEASURED_BY


def test_a_changed_secret_is_seen() -> None:
    """What is masked when it is shown differs all the same."""
    one, other = (changed(Settings(), "redis", password=word) for word in ("a", "b"))
    assert changes(one, other) == ("redis.password",)


async def test_a_threshold_takes_effect_and_is_on_the_wire(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L38, L45: signals before carry the old thresholds and hash, those after the new ones."""
    file = File(settings)
    async with reloadable(file) as daemon:
        await feed(client, bars[:300])
        await at_the_end(daemon, client)
        before = await published(client)
        file.settings = bolder(settings)
        with capture_logs() as events:
            done = await reload(daemon)
        [(newest, _)] = await client.xrevrange("quantum:bars", count=1)
        await feed(client, bars[300:])
        await at_the_end(daemon, client)
        after = (await published(client))[len(before) :]
        shown = daemon.metrics.render().decode()
    assert {s["thresholds"]["short"] for s in before} == {0.445}
    assert {s["thresholds"]["short"] for s in after} == {0.46}
    assert {s["config_hash"] for s in before} == {config_hash(settings)}
    assert {s["config_hash"] for s in after} == {done.config_hash} == {config_hash(file.settings)}
    assert {s["stance"] for s in after if 0.456 < s["probability"] <= 0.46} == {"short"}
    assert (done.generation, set(done.changed)) == (
        2,
        {
            "risk.short_threshold",
            "risk.strong_margin",
            "risk.gross_cap",
            "trust.min_outcomes",
            "trust.memory_outcomes",
        },
    )
    [event] = named(events, "config_reloaded")
    assert event["positions"] == {0: newest.decode()}
    assert f'config="{done.config_hash}"' in shown
    assert shown.count("qae_build_info{") == 1
    assert "qae_config_generation 2.0" in shown
    assert "qae_config_last_reload_successful 1.0" in shown


@pytest.mark.parametrize("snapshot_bars", [30, 100_000])
async def test_a_kill_after_a_reload_changes_nothing(
    settings: Settings, client: Client, bars: list[Bar], snapshot_bars: int
) -> None:
    """L43: signals and state are those of an engine that reloaded at the same bar and lived on.

    A restart takes no bar from before through the new settings, whatever was saved earlier.
    """
    settings = restless(settings, snapshot_bars)

    async def run(*, kills: bool) -> tuple[list[dict[str, Any]], str]:
        file = File(settings)
        async with contextlib.AsyncExitStack() as life:
            daemon = await life.enter_async_context(reloadable(file, client))
            await feed(client, bars[:250])
            await at_the_end(daemon, client)
            file.settings = bolder(settings)
            await reload(daemon)
            if kills:
                await life.aclose()
                daemon = await life.enter_async_context(reloadable(file, client))
            await feed(client, bars[250:330])
            await at_the_end(daemon, client)
            if kills:
                await life.aclose()
                daemon = await life.enter_async_context(reloadable(file, client))
            await feed(client, bars[330:])
            await at_the_end(daemon, client)
            result = await told(client), state_of(daemon)
        await client.flushall()
        return result

    signals, state = await run(kills=False)
    again, same = await run(kills=True)
    assert len(signals) > 100
    assert again == signals
    assert same == state


async def test_a_reload_that_changes_nothing_is_no_new_generation(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    file = File(settings)
    async with reloadable(file) as daemon:
        await feed(client, bars[:200])
        await at_the_end(daemon, client)
        before = state_of(daemon)
        assert await reload(daemon) == Reloaded(1, config_hash(settings), ())
        assert state_of(daemon) == before


@pytest.mark.parametrize(
    ("room", "values"),
    [
        ("redis", {"prefix": "other"}),
        ("http", {"port": 9}),
        ("engine", {"environment": "test"}),
        ("agents", {"bundles": "/elsewhere"}),
        ("supervisor", {"block_bars": 30}),
        ("policy", {"error_rate": 0.1}),
        ("risk", {"day_starts_hour": 7}),
    ],
)
async def test_what_cannot_change_refuses_the_whole(
    settings: Settings, client: Client, room: str, values: dict[str, Any]
) -> None:
    """L38: a good change beside a refused one is not half applied; the sentence names the key."""
    file = File(settings)
    async with reloadable(file) as daemon:
        file.settings = changed(bolder(settings), room, **values)
        with pytest.raises(ReloadRefusedError, match=rf"^{room}\.{next(iter(values))} cannot"):
            await reload(daemon)
        assert daemon.settings == settings
        assert daemon.rounds[0].settings == settings
        assert daemon.status.in_force.generation == 1


async def test_a_bad_file_leaves_the_old_settings_and_says_so(
    settings: Settings, client: Client
) -> None:
    """L48: the engine goes on; metric, health and log have the sentence until a good one comes."""
    file = File(settings)
    async with reloadable(file) as daemon:
        file.wrong = "unknown key risk.thresh (engine.toml); did you mean risk.groups?"
        with capture_logs() as events, pytest.raises(ReloadRefusedError, match=r"risk\.thresh "):
            await reload(daemon)
        assert "risk.thresh" in named(events, "config_refused")[0]["event"]
        assert metric(daemon, "qae_config_last_reload_successful") == 0
        assert daemon.status.health().config.refused == file.wrong
        assert daemon.settings == settings
        file.wrong, file.settings = "", bolder(settings)
        assert (await reload(daemon)).generation == 2
        assert metric(daemon, "qae_config_last_reload_successful") == 1
        assert daemon.status.health().config.refused is None


async def test_partitions_change_together(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """Every partition of the process has the new settings, each with its own state."""
    two = changed(settings, "redis", partitions=2)
    file = File(two)
    async with reloadable(file) as daemon:
        for bar in bars[:300]:
            await feed(client, [bar], Keys("quantum", 2, partition_of(bar.symbol, 2)))
        await until(lambda: daemon.status.seen == 300)
        before = {p: state_of(daemon, p) for p in (0, 1)}
        file.settings = changed(two, "risk", short_threshold=0.46, strong_margin=0.02)
        await reload(daemon)
        assert all(one.settings == file.settings for one in daemon.rounds.values())
        assert {p: state_of(daemon, p) for p in (0, 1)} == before


async def test_while_redis_takes_no_round_nothing_changes(
    settings: Settings, client: Client, bars: list[Bar], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that cannot be saved is not handed on: the reload is refused as a whole."""
    file = File(settings)
    async with reloadable(file) as daemon:
        await feed(client, bars[:200])
        await at_the_end(daemon, client)
        monkeypatch.setattr(reload_module, "PAUSE_WITHIN_S", 0.2)
        monkeypatch.setattr(daemon.rounds[0].snapshots, "_ledger", Away())
        file.settings = bolder(settings)
        with pytest.raises(ReloadRefusedError, match="was not saved; reload again when"):
            await reload(daemon)
        async with daemon.rounds[0].paused():
            with pytest.raises(ReloadRefusedError, match="a round is under way"):
                await reload(daemon)
        assert daemon.rounds[0].settings == settings
        assert metric(daemon, "qae_config_generation") == 1


class Away:
    """A ledger whose server is gone."""

    async def position(self) -> str:
        raise ConnectionResetError("gone")


async def test_the_log_level_changes(settings: Settings) -> None:
    file = File(settings)
    levels: list[str] = []
    async with reloadable(file) as daemon:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("quantum_ai_engine.daemon.logs.set_level", levels.append)
            file.settings = changed(settings, "log", level="warning")
            await reload(daemon)
    assert levels == ["warning"]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[Notifier, Callable[[], list[str]]]]:
    """What systemd hears."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.setblocking(False)

        def words() -> list[str]:
            said = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    said.append(heard.recv(4096).decode())
            return said

        yield Notifier(str(tmp_path / "notify")), words


async def test_sighup_reloads_and_the_manager_is_told(
    settings: Settings, manager: tuple[Notifier, Callable[[], list[str]]]
) -> None:
    """RELOADING with the time of the monotonic clock, then READY and the new generation."""
    notifier, words = manager
    file = File(settings)
    async with reloadable(file, notifier=notifier) as daemon:
        words()
        file.settings = bolder(settings)
        with reload_on_hangup(daemon.reloads, daemon.stop):
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: daemon.status.in_force.generation == 2)
        said = [word for word in words() if not word.startswith("STATUS=")]
        assert said[0].startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert said[1] == "READY=1"
        assert not daemon.stop.is_set()


async def test_a_terminal_that_is_gone_ends_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L45: an engine in a window that was closed does not go on unseen."""
    file = File(settings)
    there = iter([True, False])
    monkeypatch.setattr(app_module, "_has_terminal", lambda: next(there))
    async with reloadable(file) as daemon:
        with reload_on_hangup(daemon.reloads, daemon.stop):
            os.kill(os.getpid(), signal.SIGHUP)
            await until(daemon.stop.is_set)
    assert daemon.status.in_force.generation == 1


async def test_a_standby_takes_over_with_what_it_reloaded(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L45: it has no state to hand on; that which it takes over goes through its settings."""
    first, second = File(settings), File(settings)
    async with contextlib.AsyncExitStack() as standby:
        async with reloadable(first) as owner:
            await feed(client, bars[:300])
            await at_the_end(owner, client)
            daemon = await standby.enter_async_context(reloadable(second))
            await until(lambda: daemon.status.partitions[0].held_by)
            second.settings = bolder(settings)
            assert (await reload(daemon)).generation == 2
            assert daemon.status.state() == "standby"
        await feed(client, bars[300:])
        await at_the_end(daemon, client)
    hashes = [signal["config_hash"] for signal in await published(client)]
    assert hashes == sorted(
        hashes, key=[config_hash(settings), config_hash(bolder(settings))].index
    )
    assert len({*hashes}) == 2


async def test_the_door_answers_who_asks(settings: Settings, runtime: Path) -> None:
    """The socket is of this process, for its user alone, and gone when it ends."""
    file = File(settings)
    async with reloadable(file):
        path = runtime / f"{os.getpid()}.sock"
        assert door.engines(runtime) == {os.getpid(): path}
        assert os.stat(runtime).st_mode & 0o077 == 0  # noqa: PTH116 (no waiting for it)
        file.settings = bolder(settings)
        answer = await asyncio.to_thread(door.ask, path, "reload", PATIENCE_S)
        assert answer is not None
        assert answer["generation"] == 2
        file.wrong = "cannot read the settings file"
        assert await asyncio.to_thread(door.ask, path, "reload", PATIENCE_S) == {
            "refused": "cannot read the settings file"
        }
        answer = await asyncio.to_thread(door.ask, path, "x", PATIENCE_S)
        assert "not understood" in json.dumps(answer)
    assert door.engines(runtime) == {}


async def test_a_directory_that_others_can_write_has_no_door(tmp_path: Path) -> None:
    """Who could put a socket there could answer in the engine's place."""
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)

    async def never(word: str) -> dict[str, Any]:
        raise AssertionError(word)

    with capture_logs() as events:
        async with door.listening(open_to_all, never) as path:
            assert path is None
    assert len(named(events, "no_control_socket")) == 1


async def test_sockets_of_dead_engines_are_swept(tmp_path: Path) -> None:
    """What a kill leaves behind is not taken for an engine."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    gone = await asyncio.create_subprocess_exec("true")
    await gone.wait()
    (directory / f"{gone.pid}.sock").touch()

    async def never(word: str) -> dict[str, Any]:
        raise AssertionError(word)

    async with door.listening(directory, never):
        assert [*door.engines(directory)] == [os.getpid()]
