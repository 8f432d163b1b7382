"""`qae replay --certify`: what the live engine published, against a replay of the bars it saw."""

import asyncio
import contextlib
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec
from rich.console import Console

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.budget import bound_loaded
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.agents.pool import AgentPool
from quantum_ai_engine.cli.common import CommandError, UsageError, progress_bar, redis_client, say
from quantum_ai_engine.config import Loaded, Settings, bundle_dir
from quantum_ai_engine.daemon.build import build_id, version
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import SIGNALS_KEPT, START, order_of
from quantum_ai_engine.daemon.decode import decode, decode_command, decode_equity
from quantum_ai_engine.daemon.feed import BarFeed
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.daemon.pages import pages
from quantum_ai_engine.daemon.records import Decided, RecordError, decode_round
from quantum_ai_engine.engine import Engine, Identity
from quantum_ai_engine.events import LAST_TIME_MS, Equity, Refused
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.stream import stream_bars
from quantum_ai_engine.replay.certificate import Certificate, misfits
from quantum_ai_engine.replay.certifier import (
    NOTHING_LACKS,
    Again,
    Certifier,
    Inputs,
    Scripted,
    SeenBar,
)
from quantum_ai_engine.replay.difference import Rows
from quantum_ai_engine.replay.published import Origin, Published, PublishedError
from quantum_ai_engine.replay.silence import Recorded, Silences
from quantum_ai_engine.report.files import write_whole

Found = TypeVar("Found")
STREAM = "stream"
CERTIFICATE = "certificate.json"
PATIENCE_S = 3600.0  # nothing is shed: what a slow machine leaves out would be a difference

Placed: TypeAlias = tuple[tuple[int, int], Equity]


@dataclass(frozen=True, slots=True)
class Certified:
    """What to certify: signals and bars, each `stream` or a file.

    `rows` is a Parquet file of features of the live engine's bars, to name a differing column;
    `partition` which of several in Redis. With `force` what does not fit is recorded, and the
    comparison goes on.
    """

    signals: str
    bars: str
    rows: Path | None = None
    partition: int | None = None
    symbol: str | None = None
    interval: str | None = None
    force: bool = False


async def certify(loaded: Loaded, bundles: Path | None, what: Certified, out: Path) -> Certificate:
    """Compare, and write `certificate.json` into a directory.

    `loaded` must be the settings of the live engine, so that their hash is; its bundles may lie
    elsewhere. Raises `CommandError` where something does not fit, unless forced.
    """
    settings = loaded.settings
    directory = bundles or bundle_dir(settings)
    agents = load_agents(directory, settings.agents.order, settings.sessions.by_symbol())
    if STREAM in (what.signals, what.bars):
        async with redis_client(settings) as client:
            keys = _keys(settings, what.partition)
            certificate = await _certify(loaded, agents, what, (client.at(keys.partition), keys))
    else:
        certificate = await _certify(loaded, agents, what, None)
    try:
        _write(out, certificate)
    except OSError as error:
        raise CommandError(f"cannot write {out / CERTIFICATE}: {error.strerror}") from error
    return certificate


Place: TypeAlias = tuple[Client, Keys]


async def _certify(
    loaded: Loaded, agents: Sequence[Agent], what: Certified, place: Place | None
) -> Certificate:
    settings = loaded.settings
    offset, last = await _ends(place)
    published = await _published(what, place, last)
    inputs = await _inputs(settings, what, place, published)
    identity = Identity(
        settings.engine.environment, f"{version()}+{build_id()}", loaded.config_hash
    )
    forced = misfits(Origin.of(published), identity, agents, is_whole=inputs.is_whole)
    if forced and not what.force:
        raise CommandError(
            f"no certificate: {'; '.join(forced)}. --force compares all the same, and records it"
        )
    bound_loaded()

    async def replayed(silences: Silences) -> Certifier:
        pool = AgentPool(agents, 1, PATIENCE_S, lambda *_: None, lambda *_: None)
        scripted = Scripted(pool)
        engine = Engine(settings, scripted, identity, Calendars(settings.sessions.by_symbol()))
        own = settings.engine
        again = Again(engine, scripted, identity, own.clock, own.burn_in_bars)
        rows = _rows(what.rows)
        certifier = Certifier(again, published, inputs, rows, silences)
        try:
            await pool.start()
            with progress_bar() as bar:
                task = bar.add_task("certify", total=None, note="")
                async for count in certifier.run(_bars(settings, what, place, offset)):
                    bar.update(task, completed=count)
        finally:
            pool.close()
        return certifier

    certifier = await _explained(replayed)
    return certifier.get(forced=forced, machine=machine())


async def _explained(replayed: Callable[[Silences], Awaitable[Certifier]]) -> Certifier:
    """The replay that takes bars without a signal for what they were, as far as anything tells.

    Where no record is left, later signals decide: nobody voted on a bar if only then they come out.
    """
    first = await replayed(NOTHING_LACKS)
    silences = first.silences()
    told = await replayed(silences) if silences.known else first
    told.explain(silences)
    if not silences.untold:
        return told
    inferred = await replayed(silences.infer())
    return inferred if inferred.differences < told.differences else told


def machine() -> dict[str, str]:
    """What the replay ran on: interpreter, processor, and the libraries that compute."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("numpy", "numba", "torch", "xgboost-cpu", "lightgbm"):
        try:
            found[name] = package_version(name)
        except PackageNotFoundError:
            continue
    return found


def _keys(settings: Settings, partition: int | None) -> Keys:
    """The keys of the one partition that is certified."""
    redis = settings.redis
    if partition is None and len(redis.served) == 1:
        return Keys.of(redis)
    if partition is None:
        raise UsageError(
            f"there are {redis.partitions} partitions, each with an engine of its own: name one "
            "with --partition"
        )
    if partition is not None and not 0 <= partition < redis.partitions:
        raise UsageError(f"--partition {partition}: there are {redis.partitions}, counted from 0")
    return Keys(redis.prefix, redis.partitions, partition)


async def _ends(place: Place | None) -> tuple[str, str]:
    """Up to which bar, and which signal, everything is committed, as of one moment."""
    if place is None:
        return "+", "+"
    client, keys = place
    ends: Any = await client.hmget(keys.state, "offset", "signal")
    offset, signal = ends
    if offset is None:
        raise CommandError(
            f"no engine has committed anything to {keys.state}: nothing to certify; give "
            "redis.prefix and redis.partitions as `qae serve` had them"
        )
    return offset.decode(), (signal or START.encode()).decode()


async def _published(what: Certified, place: Place | None, last: str) -> Published:
    raw: list[bytes | str]
    if what.signals == STREAM:
        assert place is not None
        client, keys = place
        raw = [
            fields[b"json"]
            async for entries in pages(client, keys.signals, START, last)
            for _, fields in entries
        ]
    else:
        raw = list(_signals_of(Path(what.signals)))
    if not raw:
        raise CommandError(f"--certify {what.signals}: there are no signals")
    try:
        published = Published.of(raw)
    except PublishedError as error:
        raise CommandError(f"--certify {what.signals}: {error}") from error
    if place is not None:
        _check_home(published, place[1])
    return published


def _check_home(published: Published, keys: Keys) -> None:
    """Refuse signals of another partition: none of their bars is in this one."""
    for symbol in sorted({symbol for symbol, _, _ in published.first}):
        home = partition_of(symbol, keys.partitions)
        if home != keys.partition:
            raise CommandError(
                f"signals of {symbol} are those of partition {home} of {keys.partitions}, not "
                f"{keys.partition}: give another --partition, or redis.partitions as `qae serve` "
                "had it"
            )


def _signals_of(path: Path) -> Iterator[bytes | str]:
    """The signals of a file: JSON lines, or the column `json` of a Parquet file."""
    try:
        if path.suffix == ".parquet":
            from pyarrow import ArrowException, parquet

            try:
                with parquet.ParquetFile(path, pre_buffer=False) as file:
                    for batch in file.iter_batches(columns=["json"]):
                        yield from batch.column(0).to_pylist()
            except (ArrowException, IndexError) as error:
                raise CommandError(
                    f"--certify {path}: no column json of signals can be read: {error}"
                ) from error
            return
        with path.open("rb") as lines:
            yield from (line for line in lines if line.strip())
    except OSError as error:
        raise CommandError(f"--certify {path}: {error.strerror}") from error


async def _bars(
    settings: Settings, what: Certified, place: Place | None, offset: str
) -> AsyncIterator[SeenBar]:
    """The bars in the order in which the live engine saw them."""
    environment = settings.engine.environment
    if what.bars == STREAM:
        assert place is not None
        client, keys = place
        feed = BarFeed(client, keys, environment, settings.ingest.future_tolerance_ms)
        async for entries in pages(client, keys.bars, START, offset):
            bars, accepted, _ = feed.decode(entries, LAST_TIME_MS)
            for bar, entry in zip(bars, accepted, strict=True):
                yield SeenBar(bar, order_of(entry[0].decode()))
        return
    path = Path(what.bars)
    if path.suffix == ".jsonl":
        for seen in _lines(path, environment):
            yield seen
        return
    for table in stream_bars(path, symbol=what.symbol, interval=what.interval):
        for i in range(len(table)):
            try:
                yield SeenBar(table.bar(i))
            except Refused:
                continue  # nor did the live engine take it


def _lines(path: Path, environment: str) -> Iterator[SeenBar]:
    """Bars as JSON on the wire, one a line, in the order in which they came."""
    try:
        with path.open("rb") as lines:
            for line in lines:
                try:
                    yield SeenBar(decode({b"json": line}, environment, LAST_TIME_MS))
                except Refused:
                    continue
    except OSError as error:
        raise CommandError(f"--data {path}: {error.strerror}") from error


async def _inputs(
    settings: Settings, what: Certified, place: Place | None, published: Published
) -> Inputs:
    """What else came to the live engine, as far as Redis still has it."""
    if place is None:
        return Inputs()
    client, keys = place
    decided = await _decoded(client, keys.records, decode_round, RecordError)
    commands, equity, is_whole, has_all_signals = None, None, None, False
    if what.signals == STREAM:
        commands = await _decoded(client, keys.control, decode_command, Refused)
        has_all_signals = await client.xlen(keys.signals) < SIGNALS_KEPT
    if what.bars == STREAM:
        equity = await _equity(client, keys, settings.ingest.future_tolerance_ms, decided)
        is_whole = await _is_whole(client, keys.bars)
    elif what.signals == STREAM and not await client.xlen(keys.equity):
        equity = []
    recorded = _recorded(decided, published)
    return Inputs(commands, equity, is_whole, has_all_signals, recorded)


async def _decoded(
    client: Client, key: str, decoded: Callable[[Any], Found], error: type[Exception]
) -> list[Found]:
    """All entries of a stream, in their order, but for those that cannot be read."""
    found = []
    async for entries in pages(client, key, START):
        for _, fields in entries:
            with contextlib.suppress(error):
                found.append(decoded(fields))
    return found


def _recorded(decided: Sequence[Decided], published: Published) -> Recorded | None:
    """What the records tell of bars without a signal; None where none is left."""
    if not decided:
        return None
    records = (record for one in decided for record in one.records)
    return Recorded.of(order_of(decided[0].start), records, published.first)


async def _equity(
    client: Client, keys: Keys, tolerance_ms: int, decided: Sequence[Decided]
) -> list[Placed]:
    """All reports of equity, each with the entry of the bar stream after which it was heard.

    Records tell it exactly; of reports whose record is gone, the time at which Redis had them does.
    """
    heard: list[Placed] = []
    async for entries in pages(client, keys.equity, START):
        for name, fields in entries:
            try:
                equity = decode_equity(fields)
            except Refused:
                continue
            order = order_of(name.decode())
            if equity.time_ms <= order[0] + tolerance_ms:
                heard.append((order, equity))
    recorded = [(order_of(one.start), equity) for one in decided for equity in one.equity]
    return [*heard[: max(0, len(heard) - len(recorded))], *recorded]


async def _is_whole(client: Client, stream: str) -> bool | None:
    """Whether no entry of a stream is gone; None where the server does not say (before 7.0)."""
    told: Mapping[Any, Any] = await client.xinfo_stream(stream)
    added = told.get("entries-added", told.get(b"entries-added"))
    return None if added is None else int(added) == int(told["length"])


def _rows(path: Path | None) -> Rows | None:
    """Finds the row of a bar in a file that `qae features` has written."""
    if path is None:
        return None
    if not path.is_file():
        raise CommandError(f"--rows {path}: there is no such file")

    def row(symbol: str, close_time: int) -> Mapping[str, float] | None:
        from pyarrow import parquet

        chosen = [("symbol", "=", symbol), ("close_time", "=", close_time)]
        found = parquet.read_table(path, filters=chosen).to_pylist()
        if not found:
            return None
        return {name: value for name, value in found[0].items() if isinstance(value, float)}

    return row


def _write(out: Path, certificate: Certificate) -> None:
    """Whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / CERTIFICATE, msgspec.json.format(msgspec.json.encode(certificate)))


def run_certify(loaded: Loaded, bundles: Path | None, what: Certified, out: Path) -> bool:
    """Certify, say the verdict; whether nothing differs."""
    certificate = asyncio.run(certify(loaded, bundles, what, out))
    to = Console()
    for forced in certificate.forced:
        say(f"passed over: {forced}", to)
    for example in certificate.examples:
        say(example, to)
    say(f"{certificate.verdict} {out / CERTIFICATE}", to)
    return certificate.is_exact
