"""The parity certificate: a real daemon's signals come out of a replay to the bit, and what does
not is found where it is.
"""

import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.cli.certify import CERTIFICATE, STREAM, Certified, certify
from quantum_ai_engine.cli.common import CommandError
from quantum_ai_engine.config import Loaded, Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.engine import Engine, Identity, Now
from quantum_ai_engine.events import Abstained, Bar
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.replay.certificate import Certificate, Counts
from quantum_ai_engine.replay.certifier import Again, Certifier, Inputs, Scripted, SeenBar
from quantum_ai_engine.replay.inline import Inline
from quantum_ai_engine.replay.published import Published
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.options import TrainOptions

from ..conftest import START_MS
from ..daemon.lives import disordered, restless, unbroken
from ..daemon.test_app import (
    KEYS,
    changed,
    published,
    run_through,
    with_one_agent,
)

BARS = 600
Signals = list[dict[str, Any]]


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return with_one_agent(settings, tmp_path)


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


async def certified(settings: Settings, out: Path, **values: Any) -> Certificate:
    """What is certified of streams, or of files where they are named."""
    what = Certified(**({"signals": STREAM, "bars": STREAM} | values))
    certificate = await certify(Loaded(settings, {}), None, what, out)
    written = msgspec.json.decode((out / CERTIFICATE).read_bytes(), type=Certificate)
    assert written == certificate
    return certificate


def lines(path: Path, values: Sequence[Any]) -> str:
    """A file of JSON lines."""
    path.write_bytes(b"".join(msgspec.json.encode(value) + b"\n" for value in values))
    return str(path)


async def test_what_a_daemon_published_comes_out_the_same(
    settings: Settings, bundles: Path, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L11, L43: two agents, late and doubled bars, a restart: every signal, to the bit."""
    settings = restless(changed(settings, "agents", bundles=str(bundles)), 100)
    told = disordered(bars, seed=4)
    await run_through(settings, client, told[:400])
    await run_through(settings, client, told[400:])
    certificate = await certified(settings, tmp_path / "out")
    said = await published(client)
    assert certificate.is_exact, certificate.verdict
    assert certificate.signals == Counts(published=len(said), replayed=len(said), same=len(said))
    assert certificate.bars.count == len(told)
    assert {name for name, _ in certificate.bundles} == {"gru", "patchtst"}
    assert not certificate.not_comparable
    assert any("amends" in one for one in said)


async def test_each_planted_difference_is_found_and_located(
    settings: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L11: a flipped bit, a changed bar, a lost and a doubled signal: a judge that sees them."""
    await run_through(unbroken(settings), client, bars)
    said = await published(client)
    bar_file = lines(tmp_path / "bars.jsonl", bars)

    async def judged(signals: Signals, data: str = bar_file) -> Certificate:
        path = lines(tmp_path / "signals.jsonl", signals)
        return await certified(unbroken(settings), tmp_path / "out", signals=path, bars=data)

    clean = await judged(said)
    assert clean.is_exact
    from_stream = await certified(unbroken(settings), tmp_path / "out")
    assert from_stream.bars == clean.bars  # the same hash, wherever they were kept

    flipped = await judged(altered(said, 100, flip_vote))
    assert (flipped.signals.different, flipped.parts) == (1, {"votes": 1})
    assert flipped.first_difference is not None
    assert flipped.first_difference.signal == said[100]["id"]
    assert flipped.first_difference.agents == ("gru",)
    assert "agent gru: published" in flipped.first_difference.sentence

    forecast = await judged(altered(said, 7, flip_forecast))
    assert forecast.parts == {"probability": 1}
    decided = await judged(altered(said, 8, lambda s: s | {"valid_until": s["valid_until"] + 1}))
    assert decided.parts == {"decision": 1}

    gone = await judged([*said[:50], *said[51:]])
    assert (gone.signals.untold, gone.signals.differences) == (1, 0)  # a file has no records
    assert not gone.is_exact
    assert gone.silent.untold.which == (said[50]["id"],)
    assert any(said[50]["id"] in words for words in gone.examples)
    assert "nothing tells whether it was lost" in gone.verdict
    doubled = await judged([*said[:50], *said[49:]])
    assert (doubled.signals.doubled, doubled.signals.differences) == (1, 1)
    invented = said[50] | {"id": said[50]["id"] + "|1", "amends": said[50]["id"]}
    extra = await judged([*said[:51], invented, *said[51:]])
    assert (extra.signals.extra, extra.signals.differences) == (1, 1)
    swapped = await judged([*said[:50], said[53], *said[51:53], said[50], *said[54:]])
    assert swapped.signals.misplaced
    assert swapped.signals.differences == swapped.signals.misplaced
    part = await judged(said[100:200])
    assert (part.is_exact, part.signals.outside) == (True, len(said) - 100)

    changed_bars = [*bars]
    close = math.nextafter(bars[300].close, bars[300].high)
    changed_bars[300] = msgspec.structs.replace(bars[300], close=close)
    other = await judged(said, lines(tmp_path / "changed.jsonl", changed_bars))
    assert other.first_difference is not None
    assert other.first_difference.signal.startswith(f"{bars[300].symbol}|1m|{bars[300].close_time}")
    assert "features" in other.first_difference.parts
    assert "certify with --rows" in other.first_difference.sentence
    assert other.bars.sha256 != clean.bars.sha256
    assert not other.is_exact


def altered(signals: Signals, i: int, alter: Callable[[dict[str, Any]], dict[str, Any]]) -> Signals:
    return [*signals[:i], alter(signals[i]), *signals[i + 1 :]]


def flip_vote(signal: dict[str, Any]) -> dict[str, Any]:
    """The last bit of the first vote's probability."""
    vote = signal["votes"][0]
    other = vote | {"probability": math.nextafter(vote["probability"], 1.0)}
    return signal | {"votes": [other, *signal["votes"][1:]]}


def flip_forecast(signal: dict[str, Any]) -> dict[str, Any]:
    return signal | {"probability": math.nextafter(signal["probability"], 1.0)}


async def test_the_column_is_named_where_both_rows_are_at_hand(
    settings: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L12: with the rows of the live engine, a difference of features has a column's name."""
    from quantum_ai_engine.cli.features import features

    await run_through(settings, client, bars)
    live = BarTable(*table_columns(bars))
    write_csv(tmp_path / "live.csv", live)
    features(
        data=tmp_path / "live.csv", set_name="gru9", out=tmp_path / "rows.parquet", config=None
    )
    changed_bars = [*bars]
    changed_bars[300] = msgspec.structs.replace(bars[300], volume=bars[300].volume * 2.0)
    data = lines(tmp_path / "changed.jsonl", changed_bars)
    rows = tmp_path / "rows.parquet"
    certificate = await certified(settings, tmp_path / "out", bars=data, rows=rows)
    assert certificate.first_difference is not None
    assert certificate.first_difference.columns
    assert all("volume" in name for name in certificate.first_difference.columns)


def table_columns(bars: Sequence[Bar]) -> tuple[Any, ...]:
    import numpy as np

    symbols = tuple(dict.fromkeys(bar.symbol for bar in bars))
    index = np.array([symbols.index(bar.symbol) for bar in bars], np.int32)
    times = np.array([bar.open_time for bar in bars])
    return symbols, index, bars[0].interval, times, np.array([bar.ohlcv for bar in bars])


def write_csv(path: Path, table: BarTable) -> None:
    rows = ["symbol,interval,open_time,open,high,low,close,volume"]
    for bar in table.bars():
        values = ",".join(repr(value) for value in bar.ohlcv)
        rows.append(f"{bar.symbol},{bar.interval},{bar.open_time},{values}")
    path.write_text("\n".join(rows) + "\n")


async def test_what_does_not_fit_is_refused_and_can_be_forced(
    settings: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L45: other bundles, settings or builds are named; forced, the certificate records them."""
    await run_through(settings, client, bars)
    other = tmp_path / "other"
    market = PaperMarket(8, 3, start_ms=START_MS).table(1_600)
    options = TrainOptions(epochs=1, samples_per_epoch=512, batch=16, seed=1)
    digest = train_bundle("gru", market, other, options, lambda _: None).bundle.digest
    loaded, what = Loaded(settings, {}), Certified(STREAM, STREAM)
    with pytest.raises(CommandError, match=f"votes of gru by bundle .*--bundles has {digest}"):
        await certify(loaded, other, what, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    certificate = await certify(
        loaded, other, Certified(STREAM, STREAM, force=True), tmp_path / "out"
    )
    assert not certificate.is_exact
    assert digest in certificate.forced[0]
    assert certificate.first_difference is not None
    assert certificate.first_difference.agents == ("gru",)

    tuned = changed(settings, "risk", long_threshold=0.7)
    with pytest.raises(CommandError, match="signals were made with settings"):
        await certified(tuned, tmp_path / "out")
    said = [one | {"engine": "0.0.1+old"} for one in await published(client)]
    path = lines(tmp_path / "old.jsonl", said)
    with pytest.raises(CommandError, match=r"made by engine 0\.0\.1\+old"):
        await certified(settings, tmp_path / "out", signals=path)


async def test_commands_are_replayed_where_they_took_effect(
    settings: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L50: halt, reduce and resume come in where signals tell of them and the stream has them."""
    settings = restless(settings, 100)
    await run_through(settings, client, bars[:400])
    for i, command in enumerate(("halt", "resume", "reduce")):
        await client.xadd(KEYS.control, {"command": command})
        await run_through(settings, client, bars[400 + 50 * i : 450 + 50 * i])
    certificate = await certified(settings, tmp_path / "out")
    assert certificate.is_exact, certificate.verdict
    assert {name.split()[1]: n for name, n in certificate.taken.items()} == {
        "halt": 1,
        "resume": 1,
        "reduce": 1,
    }
    said = lines(tmp_path / "said.jsonl", await published(client))
    alone = await certified(settings, tmp_path / "out", signals=said)
    assert alone.is_exact
    assert "command halt from signals" in alone.taken
    await client.delete(KEYS.control)
    unheard = await certified(settings, tmp_path / "out")
    assert not unheard.is_exact
    assert set(unheard.parts) == {"decision"}
    assert any("the control stream has no such command" in words for words in unheard.examples)


async def test_reported_equity_is_replayed_or_named(
    settings: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L36: reports of equity come in at their places; without them no decision is compared."""
    settings = restless(settings, 10_000)
    await run_through(settings, client, bars[:300])
    report = {"time": str(bars[299].close_time), "equity": "10250.5"}
    await client.xadd(KEYS.equity, report)
    await run_through(settings, client, bars[300:])
    said = await published(client)
    assert said[-1]["policy"]["equity"] == "reported"
    certificate = await certified(settings, tmp_path / "out")
    assert certificate.is_exact, certificate.verdict
    assert certificate.taken["report of equity"] == 1
    data = lines(tmp_path / "bars.jsonl", bars)
    path = lines(tmp_path / "said.jsonl", said)
    files = await certified(settings, tmp_path / "out", signals=path, bars=data)
    [(reason, count)] = files.not_comparable.items()
    assert "equity that execution reported" in reason
    assert count + files.signals.same == len(said)
    assert count > 0
    assert files.signals.differences == 0


async def test_under_a_wall_clock_what_was_said_is_compared_and_silence_is_named(
    settings: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L39: which bars were still fresh only the live clock knew: what has no signal is counted."""
    now_ms = time.time_ns() // 1_000_000
    shift = (now_ms - bars[-1].close_time) // 60_000 * 60_000
    moved = [msgspec.structs.replace(bar, open_time=bar.open_time + shift) for bar in bars]
    wall = changed(settings, "engine", clock="wall", valid_intervals=40.0)
    wall = changed(wall, "ingest", lagging_ms=3_600_000)
    await run_through(wall, client, moved)
    said = await published(client)
    assert 0 < len(said) < BARS / 2
    certificate = await certified(wall, tmp_path / "out")
    assert certificate.is_exact, certificate.verdict
    assert certificate.signals.same == len(said)
    [(reason, count)] = certificate.not_comparable.items()
    assert "wall clock" in reason
    assert count + len(said) == BARS


async def test_under_a_wall_clock_late_bars_amend_what_is_still_valid(
    settings: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L39: a late bar may be too old for a signal itself; those that it amends are compared."""
    now_ms = time.time_ns() // 1_000_000
    shift = (now_ms - bars[-1].close_time) // 60_000 * 60_000
    moved = [msgspec.structs.replace(bar, open_time=bar.open_time + shift) for bar in bars]
    wall = changed(settings, "engine", clock="wall", valid_intervals=2.0)
    wall = changed(wall, "ingest", lagging_ms=3_600_000, late_bars=3)
    symbol = moved[0].symbol
    own = [bar for bar in moved if bar.symbol == symbol]
    late = own[-4]
    told = [bar for bar in moved if bar is not late]
    await run_through(wall, client, told)
    await run_through(wall, client, [late])
    said = await published(client)
    told_of = [one["close_time"] for one in said if one["symbol"] == symbol]
    assert late.close_time not in told_of
    assert own[-1].close_time in told_of  # only then was its window whole
    certificate = await certified(wall, tmp_path / "out")
    assert certificate.is_exact, certificate.verdict
    assert certificate.signals.same == len(said)


async def test_an_agent_that_was_shed_is_shed_again(
    settings: Settings, bundles: Path, bars: list[Bar]
) -> None:
    """L02: an abstention for the machine's sake is taken as it was told, counted, and no more."""
    agents = load_agents(bundles)

    def again() -> Again:
        for agent in agents:
            agent.warm_up()
        scripted, identity = Scripted(Inline(agents)), Identity("live", "0+test", "abc")
        engine = Engine(settings, scripted, identity, Calendars({}))
        return Again(engine, scripted, identity, "bars", 0)

    live = again()
    said: list[bytes] = []
    for i, bar in enumerate(bars):
        live.scripted.silent = {"gru": Abstained.DEADLINE} if i in range(560, 570) else {}
        done = await live.engine.process([bar], Now(), lambda _: nullcontext())
        said += [msgspec.json.encode(signal) for signal in done.signals]
    certifier = Certifier(again(), Published.of(said), Inputs(has_all_signals=True))
    counts = [count async for count in certifier.run(seen(bars))]
    certificate = certifier.get(forced=(), machine={})
    assert counts[-1] == BARS
    assert certificate.is_exact, certificate.verdict
    assert certificate.taken["abstention for deadline"] > 0


async def seen(bars: Sequence[Bar]) -> AsyncIterator[SeenBar]:
    for bar in bars:
        yield SeenBar(bar)


async def test_signals_without_their_bars_are_not_judged(
    settings: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L53: by (symbol, bar) alone: of a bar that is not at hand nothing is said."""
    await run_through(settings, client, bars)
    data = lines(tmp_path / "bars.jsonl", bars[:500])
    certificate = await certified(settings, tmp_path / "out", bars=data)
    [(reason, count)] = certificate.not_comparable.items()
    assert "not at hand" in reason
    assert count == 100
    assert certificate.is_exact


async def test_no_certificate_without_signals(
    settings: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L10: what is missing is said in one sentence."""
    with pytest.raises(CommandError, match="nothing to certify"):
        await certified(settings, tmp_path)
    for text, wrong in (("{", "signal 1 is not JSON"), ('{"id": "x"}', "no field symbol")):
        (tmp_path / "bad.jsonl").write_text(text)
        with pytest.raises(CommandError, match=wrong):
            await certified(
                settings, tmp_path, signals=str(tmp_path / "bad.jsonl"), bars="none.jsonl"
            )
