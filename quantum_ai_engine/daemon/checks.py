"""What a Redis server must be like before state is entrusted to it: asked at the start.

The server is asked once for its facts; what follows from them is pure. A finding says which setting
of Redis it is, what can be lost, and what to do. `redis.checks` decides which findings refuse.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from quantum_ai_engine.config import ConfigError, RedisSettings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import DEAD_KEPT, SIGNALS_KEPT
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.snapshots import MOST_BARS

OLDEST_VERSION = (6, 2)
CLOCK_WARN_S, CLOCK_REFUSE_S = 1.0, 30.0
CLOCK_SAMPLES = 3
REQUEST_BYTES = 2 << 20  # a part of a snapshot has up to 1 MiB, and a command around it
SIGNAL_BYTES, DEAD_BYTES = 1_500, 4_096  # of one entry in its stream
RECORDS_BYTES = 300 * MOST_BARS  # of the records between two snapshots
SERIES_BYTES = 2 * 31_000  # of one series in a snapshot; there are two while one is replaced
MIB = 1 << 20
CONFIG_NAMES = (
    "appendfsync",
    "no-appendfsync-on-rewrite",
    "save",
    "client-query-buffer-limit",
    "proto-max-bulk-len",
    "min-replicas-to-write",
)


class Severity(StrEnum):
    """What a finding does to the start; only `unusable` does so whatever is set."""

    WARN = "warn"
    REFUSE = "refuse"
    UNUSABLE = "unusable"


class Finding(NamedTuple):
    """One thing that is not as it should be: its name, how bad it is, and one sentence."""

    name: str
    severity: Severity
    sentence: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What one server said of itself.

    `unasked` names the commands that it does not let us use. `ahead_s` is by how much its clock is
    ahead of ours at least, negative when behind. `coming_bytes` is what our streams may still grow
    by up to their caps; it is known only where the server has a memory limit.
    """

    info: Mapping[str, Any]
    config: Mapping[str, str]
    unasked: tuple[str, ...] = ()
    ahead_s: float = 0.0
    coming_bytes: int = 0


async def check_server(
    client: Client, settings: RedisSettings, series: int = 5000
) -> list[Finding]:
    """What is wrong with the server, or with those of a cluster that serve our partitions.

    `series` is the cap of those that a snapshot holds. Raises what a command raises while Redis
    cannot serve it.
    """
    keys = Keys.of(settings)
    if not settings.cluster:
        everyones = [keys.at(partition) for partition in range(settings.partitions)]
        return list(examine(await ask(client, everyones), settings, series))
    nodes: dict[str, Facts] = {}
    partitions: dict[str, list[int]] = {}
    for partition in settings.served:
        facts = await ask(client.at(partition), [keys.at(partition)])
        name = str(facts.info.get("run_id", partition))
        before = nodes[name].coming_bytes if name in nodes else 0
        nodes[name] = replace(facts, coming_bytes=before + facts.coming_bytes)
        partitions.setdefault(name, []).append(partition)
    return [
        Finding(kind, severity, f"Partition {', '.join(map(str, partitions[name]))}: {sentence}")
        for name, facts in nodes.items()
        for kind, severity, sentence in examine(facts, settings, series)
    ]


def judge(findings: Sequence[Finding], checks: str) -> list[Finding]:
    """The findings to warn of. Raises `ConfigError` with all that refuse, by `redis.checks`."""
    refusing = [finding for finding in findings if refuses(finding, checks)]
    if not refusing:
        return list(findings)
    worst = {finding.severity for finding in refusing}
    words = [finding.sentence for finding in refusing]
    if Severity.UNUSABLE not in worst:
        lenient = "warn" if Severity.REFUSE in worst else "normal"
        words.append(f"Or set redis.checks = {lenient}, to serve all the same")
    raise ConfigError(". ".join(words))


def refuses(finding: Finding, checks: str) -> bool:
    """Whether the engine does not start with this finding."""
    if finding.severity is Severity.UNUSABLE or checks == "strict":
        return True
    return finding.severity is Severity.REFUSE and checks == "normal"


async def ask(client: Client, keys: Sequence[Keys]) -> Facts:
    """The facts of one server, which holds these keys."""
    unasked: list[str] = []
    info: dict[str, Any] = {}
    config: dict[Any, Any] = {}
    ahead_s = 0.0
    try:
        info = await client.info()
    except ResponseError as error:
        unasked.append(_not_allowed("INFO", error))
    try:
        for name in CONFIG_NAMES:
            config |= await client.config_get(name)
    except ResponseError as error:
        unasked.append(_not_allowed("CONFIG GET", error))
    try:
        ahead_s = await _ahead_s(client)
    except ResponseError as error:
        unasked.append(_not_allowed("TIME", error))
    coming = await _coming_bytes(client, keys) if info.get("maxmemory") else 0
    return Facts(info, config, tuple(unasked), ahead_s, coming)


def _not_allowed(command: str, error: ResponseError) -> str:
    """The command, when the server refuses it to us; a server that is busy is another matter."""
    if str(error).startswith("BUSY"):
        raise error
    return command


async def _ahead_s(client: Client) -> float:
    """By how much the server's clock is ahead of ours, less what the way there and back hides."""
    samples = []
    for _ in range(CLOCK_SAMPLES):
        sent, began = time.time(), time.perf_counter()
        seconds, micros = await client.time()
        half_s = (time.perf_counter() - began) / 2
        samples.append((half_s, seconds + micros / 1e6 - (sent + half_s)))
    half_s, ahead_s = min(samples)
    return float(max(ahead_s - half_s, 0.0) + min(ahead_s + half_s, 0.0))


async def _coming_bytes(client: Client, keys: Sequence[Keys]) -> int:
    """What our streams may still grow by: their caps, less the entries that are there already."""
    coming = 0
    for key in keys:
        coming += SIGNAL_BYTES * max(0, SIGNALS_KEPT - await client.xlen(key.signals))
        coming += RECORDS_BYTES
        coming += DEAD_BYTES * max(0, DEAD_KEPT - await client.xlen(key.dead))
    return coming


def examine(facts: Facts, settings: RedisSettings, series: int = 0) -> Iterator[Finding]:
    """All findings about one server, the worst kinds first."""
    info, config = facts.info, facts.config
    yield from _version(info)
    yield from _cluster(info, settings)
    yield from _role(info)
    yield from _eviction(info)
    yield from _requests(config)
    yield from _clock(facts.ahead_s)
    yield from _persistence(info, config)
    yield from _disk(info)
    yield from _replicas(info, config)
    yield from _memory(info, facts.coming_bytes + series * SERIES_BYTES)
    if facts.unasked:
        yield Finding(
            "permission",
            Severity.WARN,
            f"Redis does not let us use {' and '.join(facts.unasked)}: what they tell is not "
            "checked; allow them to the user of redis.url, or see docs/redis.md for what to set",
        )


# The names of all checks, as `qae doctor` lists them.
CHECKS = (
    "version",
    "cluster",
    "role",
    "eviction",
    "requests",
    "clock",
    "persistence",
    "disk",
    "replicas",
    "memory",
    "permission",
)


def _version(info: Mapping[str, Any]) -> Iterator[Finding]:
    version = str(info.get("redis_version", ""))
    parts = version.split(".")
    if len(parts) < 2 or not all(part.isdigit() for part in parts[:2]):
        return
    if (int(parts[0]), int(parts[1])) < OLDEST_VERSION:
        yield Finding(
            "version",
            Severity.UNUSABLE,
            f"Redis {version} is too old: it has no XTRIM MINID, so the bar stream would grow "
            "without end; upgrade the server to 6.2 or later",
        )


def _cluster(info: Mapping[str, Any], settings: RedisSettings) -> Iterator[Finding]:
    is_cluster = bool(info.get("cluster_enabled", settings.cluster))
    if is_cluster and not settings.cluster:
        yield Finding(
            "cluster",
            Severity.UNUSABLE,
            "Redis is a node of a Redis Cluster, which answers only for its own keys; set "
            "redis.cluster = true and redis.partitions above 1",
        )
    if settings.cluster and not is_cluster:
        yield Finding(
            "cluster",
            Severity.UNUSABLE,
            "redis.cluster is true, but the server at redis.url is not a node of a Redis Cluster; "
            "set redis.cluster = false, or another redis.url",
        )


def _role(info: Mapping[str, Any]) -> Iterator[Finding]:
    if info.get("role", "master") != "master":
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        yield Finding(
            "role",
            Severity.REFUSE,
            f"Redis is a replica of {primary}: what is written there is refused or lost again; set "
            "redis.url to the primary",
        )


def _eviction(info: Mapping[str, Any]) -> Iterator[Finding]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Finding(
            "eviction",
            Severity.REFUSE,
            f"Redis has maxmemory-policy {policy}: under memory pressure it would drop state and "
            "signals; set it to noeviction",
        )


def _requests(config: Mapping[str, str]) -> Iterator[Finding]:
    for name in ("client-query-buffer-limit", "proto-max-bulk-len"):
        limit = int(config.get(name, REQUEST_BYTES))
        if limit < REQUEST_BYTES:
            yield Finding(
                "requests",
                Severity.REFUSE,
                f"Redis has {name} {limit}: it would cut the connection at each part of a "
                f"snapshot, so that no state is ever saved; set it to {REQUEST_BYTES} or more",
            )


def _clock(ahead_s: float) -> Iterator[Finding]:
    if abs(ahead_s) > CLOCK_WARN_S:
        yield Finding(
            "clock",
            Severity.REFUSE if abs(ahead_s) > CLOCK_REFUSE_S else Severity.WARN,
            f"The clock of Redis is {abs(ahead_s):.1f} s "
            f"{'ahead of' if ahead_s > 0 else 'behind'} ours: entries and leases go by its clock, "
            "freshness by ours, so that good bars may be refused as future_time or expire; let "
            "both machines follow the same time servers",
        )


def _persistence(info: Mapping[str, Any], config: Mapping[str, str]) -> Iterator[Finding]:
    if info.get("aof_enabled", 1):
        yield from _fsync(config)
        return
    saves = config.get("save")
    if saves == "":
        lost = "nothing is written to disk: a restart of Redis loses state, signals and bars"
    else:
        every = f" (save {saves})" if saves else ""
        lost = f"a crash of Redis loses all since its last dump{every}: minutes, or hours"
    yield Finding(
        "persistence",
        Severity.WARN,
        f"Redis has appendonly no: {lost}; set appendonly yes and appendfsync everysec",
    )


def _fsync(config: Mapping[str, str]) -> Iterator[Finding]:
    if config.get("appendfsync") == "no":
        yield Finding(
            "persistence",
            Severity.WARN,
            "Redis has appendfsync no: a crash of its machine loses what the system had not "
            "written yet, often 30 s; set appendfsync everysec, or always to lose nothing",
        )
    elif config.get("no-appendfsync-on-rewrite") == "yes":
        yield Finding(
            "persistence",
            Severity.WARN,
            "Redis has no-appendfsync-on-rewrite yes: while it rewrites its log, a crash of its "
            "machine loses what was written meanwhile; set it to no",
        )


def _disk(info: Mapping[str, Any]) -> Iterator[Finding]:
    for name in ("aof_last_write_status", "rdb_last_bgsave_status"):
        if info.get(name, "ok") != "ok":
            yield Finding(
                "disk",
                Severity.WARN,
                f"Redis says {name} {info[name]}: its last write to disk failed, and it may refuse "
                "commits (MISCONF) until one succeeds; make room, or correct its dir",
            )


def _replicas(info: Mapping[str, Any], config: Mapping[str, str]) -> Iterator[Finding]:
    count = int(info.get("connected_slaves", 0))
    if count and config.get("min-replicas-to-write") == "0":
        yield Finding(
            "replicas",
            Severity.WARN,
            f"Redis has replicas ({count}) and min-replicas-to-write 0: cut off from them it would "
            "go on taking commits that a failover throws away; set min-replicas-to-write 1",
        )


def _memory(info: Mapping[str, Any], coming_bytes: int) -> Iterator[Finding]:
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if limit and used + coming_bytes > limit:
        yield Finding(
            "memory",
            Severity.WARN,
            f"Redis has maxmemory {limit / MIB:.0f} MiB and uses {used / MIB:.0f}; our signals, "
            f"dead letters and snapshots may need {coming_bytes / MIB:.0f} more, and the bars come "
            f"on top: full, it refuses commits; set maxmemory to {(used + coming_bytes) / MIB:.0f} "
            "MiB or more, or lower engine.max_series",
        )
