"""What a Redis server is refused or warned of for, asked of real servers and of facts."""

import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from quantum_ai_engine.config import ConfigError, RedisSettings
from quantum_ai_engine.daemon import checks
from quantum_ai_engine.daemon.checks import (
    CHECKS,
    MIB,
    REQUEST_BYTES,
    Facts,
    Finding,
    Severity,
    check_server,
    examine,
    judge,
    refuses,
)
from quantum_ai_engine.daemon.client import Client, Unreachable, connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis

from .test_app import until

SETTINGS = RedisSettings()
GOOD: dict[str, Any] = {
    "redis_version": "6.2.14",
    "role": "master",
    "cluster_enabled": 0,
    "maxmemory": 0,
    "maxmemory_policy": "noeviction",
    "aof_enabled": 1,
}
SLOTS = 16_384


async def found(client: Client, settings: RedisSettings = SETTINGS) -> list[tuple[str, str]]:
    """Name and severity of what is found at a real server."""
    findings = await check_server(client, settings)
    return [(finding.name, finding.severity.value) for finding in findings]


def of(
    settings: RedisSettings = SETTINGS, config: dict[str, str] | None = None, **info: Any
) -> list[Finding]:
    """The findings of facts that differ from good ones in this."""
    return list(examine(Facts(GOOD | info, config or {}), settings))


class Server(EmbeddedRedis):
    """A server on a port of this machine, with settings that only a start can give."""

    def __init__(self, directory: Path, *words: str) -> None:
        super().__init__(directory)
        self.port = free_port()
        self._words = words

    @property
    def url_by_port(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), "--port", str(self.port), *self._words]


def free_port() -> int:
    """A port that is free, as is the one of the cluster's bus 10,000 above it."""
    while True:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            if port < 55_000 and other.connect_ex(("127.0.0.1", port + 10_000)):
                return port


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Server]:
    """A whole cluster: one node that has all slots."""
    node = Server(tmp_path / "node", "--cluster-enabled", "yes")
    async with node as server, connect(SETTINGS, server.url) as client:
        await client.execute_command("CLUSTER ADDSLOTS", *range(SLOTS))
        await until(lambda: covers_all(client))
        yield server


async def covers_all(client: Client) -> bool:
    """Whether the cluster serves."""
    return bool((await client.execute_command("CLUSTER INFO"))["cluster_state"] == "ok")


async def test_our_own_server_has_no_finding(client: Client) -> None:
    """L42: what we start ourselves passes the strictest of checks."""
    findings = await check_server(client, SETTINGS)
    assert judge(findings, "strict") == []


@pytest.mark.parametrize(
    ("name", "value", "finding", "words"),
    [
        ("maxmemory-policy", "allkeys-lru", ("eviction", "refuse"), "set it to noeviction"),
        ("appendonly", "no", ("persistence", "warn"), "a restart of Redis loses state"),
        ("appendfsync", "no", ("persistence", "warn"), "often 30 s"),
        ("no-appendfsync-on-rewrite", "yes", ("persistence", "warn"), "rewrites its log"),
        ("client-query-buffer-limit", "1mb", ("requests", "refuse"), "no state is ever saved"),
        ("proto-max-bulk-len", "1mb", ("requests", "refuse"), "proto-max-bulk-len 1048576"),
        ("maxmemory", "64mb", ("memory", "warn"), "maxmemory 64 MiB"),
    ],
)
async def test_a_setting_of_the_server(
    client: Client, name: str, value: str, finding: tuple[str, str], words: str
) -> None:
    """L42: each names the setting of Redis, and what is lost with it."""
    await client.config_set(name, value)
    [only] = await check_server(client, SETTINGS)
    assert (only.name, only.severity.value) == finding
    assert words in only.sentence


async def test_dumps_alone(client: Client) -> None:
    """Between two dumps everything is lost, and the sentence says how often they are."""
    await client.config_set("appendonly", "no")
    await client.config_set("save", "3600 1 300 100")
    [finding] = await check_server(client, SETTINGS)
    assert "since its last dump (save 3600 1 300 100)" in finding.sentence


async def test_a_dump_that_failed(client: Client, redis: EmbeddedRedis) -> None:
    """A full or read-only disk is found before the first commit is refused."""
    await client.config_set("dbfilename", "taken")
    (redis.directory / "taken").mkdir()
    await client.bgsave()
    await until(lambda: dump_failed(client))
    assert await found(client) == [("disk", "warn")]


async def dump_failed(client: Client) -> bool:
    """Whether the last dump went wrong."""
    return bool((await client.info("persistence"))["rdb_last_bgsave_status"] == "err")


async def test_a_replica(client: Client, redis: EmbeddedRedis, tmp_path: Path) -> None:
    """Nothing can be committed to it; `warn` waits until it is the primary."""
    async with Server(tmp_path / "primary") as other:
        await client.replicaof("127.0.0.1", other.port)
        findings = await check_server(client, SETTINGS)
    assert [finding.name for finding in findings] == ["role"]
    assert f"replica of 127.0.0.1:{other.port}" in findings[0].sentence
    assert judge(findings, "warn") == findings


async def test_a_primary_that_could_be_cut_off(client: Client, tmp_path: Path) -> None:
    """With replicas and nothing that needs them, a failover may throw commits away."""
    async with (
        Server(tmp_path / "primary", "--repl-diskless-sync-delay", "0") as primary,
        connect(SETTINGS, primary.url) as its_client,
    ):
        await client.replicaof("127.0.0.1", primary.port)
        await until(lambda: has_replica(its_client))
        assert await found(its_client) == [("replicas", "warn")]
        await its_client.config_set("min-replicas-to-write", "1")
        assert await found(its_client) == []


async def has_replica(client: Client) -> bool:
    """Whether a replica has connected."""
    return bool((await client.info("replication"))["connected_slaves"])


async def test_a_cluster_is_asked_node_by_node(node: Server) -> None:
    """Each primary has settings of its own; the sentence says whose they are."""
    settings = RedisSettings(cluster=True, partitions=4, partition="1-3")
    async with connect(settings, node.url_by_port) as client:
        assert await check_server(client, settings) == []
        await client.config_set("maxmemory-policy", "volatile-ttl")
        await client.config_set("maxmemory", 600 * MIB)
        eviction, memory = await check_server(client, settings)
    assert eviction.sentence.startswith("Partition 1, 2, 3: Redis has maxmemory-policy")
    assert "may need 885 more" in memory.sentence


async def test_a_cluster_where_none_was_meant(node: Server) -> None:
    """The other way round as well: neither could serve, whatever is set."""
    async with connect(SETTINGS, node.url) as client:
        [finding] = await check_server(client, SETTINGS)
    assert "set redis.cluster = true" in finding.sentence
    assert finding.severity is Severity.UNUSABLE


async def test_no_cluster_where_one_was_meant(tmp_path: Path) -> None:
    """A node that is none is told from one that cannot be reached."""
    settings = RedisSettings(cluster=True, partitions=4)
    async with (
        Server(tmp_path / "single") as server,
        connect(settings, server.url_by_port) as client,
    ):
        [finding] = await check_server(client, settings)
    assert "set redis.cluster = false" in finding.sentence
    assert finding.severity is Severity.UNUSABLE


async def test_what_may_not_be_asked(client: Client) -> None:
    """A server that hides its settings is warned of, and serves."""
    await client.acl_setuser(
        "default", enabled=True, categories=["+@all"], commands=["-config", "-info"]
    )
    [finding] = await check_server(client, SETTINGS)
    assert (finding.name, finding.severity) == ("permission", Severity.WARN)
    assert "INFO and CONFIG GET" in finding.sentence
    await client.acl_setuser("default", commands=["-time"])
    [finding] = await check_server(client, SETTINGS)
    assert "TIME" in finding.sentence


async def test_a_renamed_command_is_no_failure(tmp_path: Path) -> None:
    """Managed servers take CONFIG away by another name; INFO still tells the worst."""
    managed = Server(tmp_path / "managed", "--rename-command", "CONFIG", "")
    async with managed as server, connect(SETTINGS, server.url) as client:
        assert await found(client) == [("permission", "warn")]


async def test_a_server_that_cannot_answer_is_no_finding(tmp_path: Path, client: Client) -> None:
    """L48: down, or without the password, it is a fault to wait for, not a setting to refuse."""
    async with connect(SETTINGS, f"unix://{tmp_path}/nobody.sock") as nobody:
        with pytest.raises(Unreachable):
            await check_server(nobody, SETTINGS)
    await client.config_set("requirepass", "right")
    await client.connection_pool.disconnect()
    with pytest.raises(RedisConnectionError):
        await check_server(client, SETTINGS)


def test_a_busy_server_is_no_finding() -> None:
    """A script that runs for long is no missing permission."""
    with pytest.raises(ResponseError):
        checks._not_allowed("INFO", ResponseError("BUSY Redis is busy running a script"))


@pytest.mark.parametrize(
    ("ahead_s", "severity", "side"),
    [
        (0.9, None, ""),
        (-0.9, None, ""),
        (2.0, Severity.WARN, "2.0 s ahead of ours"),
        (-29.0, Severity.WARN, "29.0 s behind ours"),
        (31.0, Severity.REFUSE, "31.0 s ahead of ours"),
    ],
)
async def test_the_clocks(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    ahead_s: float,
    severity: Severity | None,
    side: str,
) -> None:
    """The server's clock, which makes entry ids and leases, against ours."""
    ours = SimpleNamespace(time=lambda: time.time() - ahead_s, perf_counter=time.perf_counter)
    monkeypatch.setattr(checks, "time", ours)
    findings = await check_server(client, SETTINGS)
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
    assert all(side in finding.sentence for finding in findings)


async def test_a_long_way_to_the_server_is_no_clock_difference(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the round trip hides is not held against the clock."""
    ticks = iter(range(0, 600, 6))  # each call seems to take 6 s, so 3 s are unknown
    ours = SimpleNamespace(time=time.time, perf_counter=lambda: next(ticks))
    monkeypatch.setattr(checks, "time", ours)
    assert await check_server(client, SETTINGS) == []


async def test_memory_already_used_is_not_needed_again(client: Client) -> None:
    """L42: a server that is as full as it will ever be has room enough."""
    await client.config_set("maxmemory", 520 * MIB)
    assert await found(client) == []
    await client.config_set("maxmemory", 300 * MIB)
    [empty] = await check_server(client, SETTINGS)
    assert "may need 492 more" in empty.sentence
    [small] = await check_server(client, RedisSettings(partitions=2), series=100)
    assert "may need 399 more" in small.sentence
    async with client.pipeline(transaction=False) as pipe:
        for _ in range(50_000):
            pipe.xadd("quantum:signals", {"json": b""})
        await pipe.execute()
    await client.config_set("maxmemory", 450 * MIB)
    assert await found(client) == []


@pytest.mark.parametrize(
    ("version", "is_refused"),
    [("6.0.16", True), ("5.0", True), ("6.2.0", False), ("7.4.1", False), ("255.255", False)],
)
def test_the_version(version: str, is_refused: bool) -> None:
    """L42: without XTRIM MINID the bar stream could not be bounded."""
    findings = of(redis_version=version)
    assert [finding.severity for finding in findings] == [Severity.UNUSABLE] * is_refused


def test_a_version_that_is_no_number_is_not_judged() -> None:
    """Servers of other makers name themselves as they like."""
    assert of(redis_version="unstable") == []


def test_facts_that_are_missing_are_not_invented() -> None:
    """What a server does not say is no finding, but for the permission to ask."""
    assert list(examine(Facts({}, {}), SETTINGS)) == []
    [finding] = examine(Facts({}, {}, ("INFO",)), SETTINGS)
    assert finding.name == "permission"


def test_a_log_without_dumps_is_judged_by_its_log() -> None:
    assert of(config={"save": "", "appendfsync": "everysec"}) == []
    assert of(config={"client-query-buffer-limit": str(REQUEST_BYTES)}) == []


def test_every_finding_has_a_known_name() -> None:
    """`doctor` lists the checks that came out well by these names."""
    facts = Facts(
        GOOD
        | {"redis_version": "5.0", "cluster_enabled": 1, "role": "slave", "maxmemory": 1}
        | {"maxmemory_policy": "x", "aof_last_write_status": "err", "connected_slaves": 1},
        {"appendfsync": "no", "min-replicas-to-write": "0", "proto-max-bulk-len": "1"},
        ("TIME",),
        5.0,
        100,
    )
    assert tuple(finding.name for finding in examine(facts, SETTINGS)) == CHECKS


WARN = Finding("a", Severity.WARN, "A is lost; set a")
REFUSE = Finding("b", Severity.REFUSE, "B is lost; set b")
UNUSABLE = Finding("c", Severity.UNUSABLE, "C is missing; get c")


@pytest.mark.parametrize(
    ("checks_", "refusing"),
    [("normal", [REFUSE, UNUSABLE]), ("strict", [WARN, REFUSE, UNUSABLE]), ("warn", [UNUSABLE])],
)
def test_who_is_refused(checks_: str, refusing: list[Finding]) -> None:
    """L48: the setting decides, but for what cannot work at all; all sentences are given."""
    findings = [WARN, REFUSE, UNUSABLE]
    assert [finding for finding in findings if refuses(finding, checks_)] == refusing
    with pytest.raises(ConfigError) as caught:
        judge(findings, checks_)
    assert str(caught.value) == ". ".join(finding.sentence for finding in refusing)


def test_what_lets_it_pass_is_said() -> None:
    """The least that helps."""
    with pytest.raises(ConfigError, match=r"set b\. Or set redis\.checks = warn, to serve"):
        judge([WARN, REFUSE], "normal")
    with pytest.raises(ConfigError, match=r"set a\. Or set redis\.checks = normal, to serve"):
        judge([WARN], "strict")
    assert judge([WARN], "normal") == [WARN]
    assert judge([WARN, REFUSE], "warn") == [WARN, REFUSE]
