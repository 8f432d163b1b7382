"""The core: the same signals however bars arrive, and every bar accounted for."""

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import Agent, Past
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.agents.panel import Inquiry, inquire
from quantum_ai_engine.agents.pool import AgentPool
from quantum_ai_engine.config import BREAKERS, EngineSettings, RiskSettings, Settings, TrustSettings
from quantum_ai_engine.engine import Engine, Identity, Now, Round, Unheard
from quantum_ai_engine.events import (
    Abstained,
    Abstention,
    Bar,
    Forecast,
    Reason,
    Signal,
    Stance,
)
from quantum_ai_engine.features.schema import KERNEL_HASH, SETS
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.features.store import DEPTH
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.risk.sizing import Limit
from quantum_ai_engine.risk.stance import Level, next_level, stance_of

Floats = NDArray[np.float64]
MINUTE_MS = 60_000
WORKERS = max(1, min(3, len(os.sched_getaffinity(0))))
BRISK = RiskSettings(
    long_threshold=0.505,
    short_threshold=0.495,
    exit_hysteresis=0.0,
    add_hysteresis=0.0,
    dead_band=0.0,
)


class Momentum:
    """An agent that follows the newest return: P(up) rises with it."""

    bundle, horizon_bars, interval, clamped = "0" * 12, 5, "1m", 0
    feature_set = SETS["gru9"]
    unavailable: str | None = None
    past = Past()

    def __init__(self, name: str = "momentum", slope: float = 1000.0) -> None:
        self.name = name
        self.seen: list[Floats] = []
        self._slope = slope

    def warm_up(self) -> None: ...

    def predict(self, windows: Floats) -> Floats:
        self.seen.append(windows)
        return 1.0 / (1.0 + np.exp(-self._slope * windows[:, -1, 0]))


class Broken(Momentum):
    def predict(self, windows: Floats) -> Floats:
        raise ZeroDivisionError(f"broken by {len(windows)} windows")


class Lost(Momentum):
    def predict(self, windows: Floats) -> Floats:
        return np.full(len(windows), np.nan)


Start = Callable[..., AgentPool]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts pools of agents; all are closed at the end."""
    pools = []

    def started(*agents: Agent) -> AgentPool:
        pool = AgentPool(agents, WORKERS, 60.0, lambda *_: None, lambda *_: None)
        pools.append(pool)
        asyncio.run(pool.start())
        for agent in agents:
            if isinstance(agent, Momentum):
                agent.seen.clear()  # what the pool measured it by
        return pool

    yield started
    for pool in pools:
        pool.close()


@pytest.fixture(scope="module")
def real(start: Start, bundles: Path) -> AgentPool:
    """The trained agents, warmed up."""
    return start(*load_agents(bundles))


@pytest.fixture(scope="module")
def bars(history: BarTable) -> list[Bar]:
    """Interleaved bars of all symbols, long enough for every window of two of them."""
    return list(history.rows(1400, 1900).bars())


def engine_of(
    pool: AgentPool,
    risk: RiskSettings = BRISK,
    trust: TrustSettings | None = None,
    **values: Any,
) -> Engine:
    engine_settings = EngineSettings(clock="bars", **({"burn_in_bars": 0} | values))
    settings = Settings(engine=engine_settings, risk=risk, trust=trust or TrustSettings())
    return Engine(settings, pool, Identity("live", "0.1.0+test", "abc"), Calendars({}))


def unmeasured(_: str) -> AbstractContextManager[None]:
    return nullcontext()


def forecast_of(engine: Engine, pool: AgentPool, inquiry: Inquiry) -> Forecast | Unheard:
    """What the ensemble says of one series."""
    return engine.heard(asyncio.run(inquire(pool, [inquiry]))[0])


def process(engine: Engine, bars: Sequence[Bar], now_ms: int | None = None) -> Round:
    return asyncio.run(engine.process(bars, Now(now_ms), unmeasured))


def signals_of(engine: Engine, batches: Sequence[Sequence[Bar]]) -> list[Signal]:
    return [signal for batch in batches for signal in process(engine, batch).signals]


def at(minute: int, close: float = 100.0, symbol: str = "BTCUSDT", interval: str = "1m") -> Bar:
    moves = 0.1 * (minute % 3)  # a feed in which nothing moves would not be believed
    prices = 100.0 + moves, 120.0 + moves, 80.0 + moves
    return Bar(symbol, interval, minute * MINUTE_MS, *prices, close, 1.0 + minute % 7)


def walk(count: int, symbol: str = "BTCUSDT", start: int = 0) -> list[Bar]:
    """Bars whose closes rise and fall."""
    moves = np.random.default_rng(3).normal(0.0, 0.2, start + count)
    return [at(i, 100.0 + float(moves[i]), symbol) for i in range(start, start + count)]


@pytest.fixture(scope="module")
def one_at_a_time(real: AgentPool, bars: list[Bar]) -> list[Signal]:
    return signals_of(engine_of(real), [[bar] for bar in bars])


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, 500), max_size=20))
def test_batching_changes_no_bit(
    real: AgentPool, bars: list[Bar], one_at_a_time: list[Signal], cuts: list[int]
) -> None:
    """Bars one at a time and in batches of any size give the same signals, bit for bit."""
    edges = [0, *sorted(min(cut, len(bars)) for cut in cuts), len(bars)]
    batches = [bars[i:j] for i, j in itertools.pairwise(edges)]
    assert signals_of(engine_of(real), batches) == one_at_a_time


def test_a_neighbour_symbol_changes_no_bit(
    real: AgentPool, bars: list[Bar], one_at_a_time: list[Signal]
) -> None:
    """L53: what agents say of a symbol is what they say of it without the others.

    Trust and caps are shared.
    """

    def said(signals: Sequence[Signal]) -> list[Any]:
        return [(s.id, s.row_hash, [v.probability for v in s.votes], s.abstained) for s in signals]

    for symbol in {bar.symbol for bar in bars}:
        alone = signals_of(engine_of(real), [[bar for bar in bars if bar.symbol == symbol]])
        assert said(alone) == said([s for s in one_at_a_time if s.symbol == symbol])


def test_later_bars_change_nothing_before_them(
    real: AgentPool, bars: list[Bar], one_at_a_time: list[Signal]
) -> None:
    """L16: with other bars after a moment, even in one batch, the signals up to it are the same."""
    other = [
        msgspec.structs.replace(bar, close=bar.low, volume=bar.volume * 9) for bar in bars[350:]
    ]
    got = signals_of(engine_of(real), [[*bars[:350], *other]])
    until = bars[349].close_time
    known = [s for s in one_at_a_time if s.close_time < until]
    assert [s for s in got if s.close_time < until] == known
    assert got[-1].row_hash != one_at_a_time[-1].row_hash


def test_a_signal_names_who_voted(real: AgentPool, one_at_a_time: list[Signal]) -> None:
    """L01: every agent is in each signal, as a vote with its weight or with its reason."""
    bundles = {agent.name: agent.bundle for agent in real.agents}
    kinds = Counter(len(signal.votes) for signal in one_at_a_time)
    assert kinds[1] > 50
    assert kinds[2] > 50
    for signal in one_at_a_time:
        assert {v.agent for v in signal.votes} | {a.agent for a in signal.abstained} == set(bundles)
        assert all(vote.bundle == bundles[vote.agent] for vote in signal.votes)
        assert sum(vote.trust for vote in signal.votes) == pytest.approx(1.0, abs=1e-12)
        squares = sum(vote.trust**2 for vote in signal.votes)
        assert signal.effective_votes == pytest.approx(1.0 / squares)
        assert {a.reason for a in signal.abstained} <= {Abstained.WARMING_UP}


def test_every_figure_is_inside_its_band(one_at_a_time: list[Signal]) -> None:
    """L51: a target is a fraction inside the cap, all figures are finite."""
    for signal in one_at_a_time:
        assert 0.0 < signal.probability < 1.0
        assert abs(signal.target) <= BRISK.exposure_cap
        assert signal.valid_until - signal.close_time == 2 * MINUTE_MS
        assert signal.schema_hash == KERNEL_HASH
    with pytest.raises(ValueError, match="outside the cap"):
        msgspec.structs.replace(one_at_a_time[0], stance=Stance.LONG, target=8.99)


def test_confidence_only_falls(real: AgentPool, bars: list[Bar]) -> None:
    """L04: a signal has the forecast's own confidence, and its target is at most that and cap."""
    risk = msgspec.structs.replace(BRISK, exposure_cap=0.001)
    reasons = Counter[str]()
    for signal in signals_of(engine_of(real, risk), [bars]):
        assert signal.confidence == 2.0 * abs(signal.probability - 0.5)
        assert abs(signal.target) <= min(signal.confidence, 0.001)
        limits = {reason for reason in signal.risk.reasons if ":" not in reason}
        assert limits <= {*Limit}
        if 0.0 < abs(signal.target) < risk.weak_size * signal.confidence:
            assert limits  # what held it there is named
        reasons.update(limits)
    assert reasons["symbol_cap"] > 50


def test_thresholds_move_the_stance(start: Start) -> None:
    """L38: each signal holds the thresholds in force, and other thresholds give other stances."""
    pool, path = start(Momentum(slope=200.0)), walk(300)
    prior = TrustSettings(min_outcomes=1_000_000)
    calm = tuple(f"{name} {b.trip} {b.clear} {b.dwell_ms} off" for name, b in BREAKERS.items())
    counts = []
    for edge in (0.02, 0.1, 0.2, 0.4):
        risk = RiskSettings(
            long_threshold=0.5 + edge,
            short_threshold=0.5 - edge,
            exit_hysteresis=0.0,
            dead_band=0.01,
            breakers=calm,
        )
        signals, level = signals_of(engine_of(pool, risk, prior), [path]), Level.FLAT
        for signal in signals:
            assert (signal.thresholds.long, signal.thresholds.short) == (0.5 + edge, 0.5 - edge)
            level = next_level(level, signal.probability, risk)
            assert signal.stance is stance_of(level)
        counts.append(sum(signal.stance is Stance.FLAT for signal in signals))
    assert counts == sorted(set(counts))


def test_neutral_is_an_answer(start: Start) -> None:
    """L10: a flat stance is published as a signal like any other."""
    (*_, signal) = signals_of(engine_of(start(Momentum(slope=0.0))), [walk(100)])
    assert (signal.stance, signal.target, signal.probability) == (Stance.FLAT, 0.0, 0.5)


@pytest.mark.parametrize(
    ("bad", "reason"), [(Broken("bad"), Abstained.ERROR), (Lost("bad"), Abstained.NON_FINITE)]
)
def test_a_failed_agent_is_no_vote(start: Start, bad: Momentum, reason: Abstained) -> None:
    """L02: an agent that fails is named with its reason; the forecast is that of the others."""
    both = signals_of(engine_of(start(bad, Momentum())), [walk(100)])
    alone = signals_of(engine_of(start(Momentum())), [walk(100)])
    assert [signal.probability for signal in both] == [signal.probability for signal in alone]
    for signal in both:
        assert [(a.agent, a.reason) for a in signal.abstained] == [("bad", reason)]
        assert [(v.agent, v.trust) for v in signal.votes] == [("momentum", 1.0)]


def test_without_a_vote_there_is_no_signal(start: Start) -> None:
    """L03: when all agents fail nothing stands in for them, and the round says who and why."""
    done = process(engine_of(start(Broken("broken"), Lost("lost"))), walk(100))
    assert done.signals == []
    assert done.silent == {"no_effective_vote": 100}
    reasons = Counter((a.agent, a.reason) for a in done.unheard)
    ready_at = SETS["gru9"].window_ready_at
    assert reasons["broken", Abstained.WARMING_UP] == ready_at - 1
    assert reasons["broken", Abstained.ERROR] == 101 - ready_at
    assert reasons["lost", Abstained.NON_FINITE] == 101 - ready_at


def test_an_unavailable_agent_is_named_and_never_asked(start: Start) -> None:
    """L02: an agent whose library is missing abstains from every bar, in every signal."""
    missing = Momentum("missing")
    missing.unavailable = "torch is not installed"
    done = process(engine_of(start(Momentum(), missing)), walk(100))
    assert done.signals
    for signal in done.signals:
        assert [(a.agent, a.reason) for a in signal.abstained] == [
            ("missing", Abstained.UNAVAILABLE)
        ]
        assert signal.effective_votes == 1.0
    assert missing.seen == []


def test_no_agent_sees_a_row_that_is_not_ready(start: Start) -> None:
    """L13: until its window is whole an agent abstains; then every value it sees is finite."""
    agent = Momentum()
    done = process(engine_of(start(agent)), walk(100))
    seen = np.concatenate(agent.seen)
    assert len(seen) == len(done.signals) == 101 - agent.feature_set.window_ready_at
    assert np.isfinite(seen).all()


def test_other_intervals_are_not_answered(real: AgentPool) -> None:
    """L01: agents of one interval abstain from another, and there is no signal."""
    five = [at(5 * i, 100.0 + i % 7, interval="5m") for i in range(200)]
    done = process(engine_of(real), five)
    assert (done.processed, done.signals) == (200, [])
    assert done.silent == {"no_effective_vote": 200}
    assert {a.reason for a in done.unheard} == {Abstained.OTHER_INTERVAL}


@settings(max_examples=30, deadline=None)
@given(
    picks=st.lists(st.tuples(st.integers(0, 90), st.sampled_from("AB"), st.booleans())),
    cut=st.integers(0, 50),
)
def test_every_bar_is_counted_once(picks: list[tuple[int, str, bool]], cut: int) -> None:
    """L41: a bar is processed, a duplicate or refused; a processed one signals or is silent."""
    pool = AgentPool((Momentum(),), 1, 60.0, lambda *_: None, lambda *_: None)
    engine = engine_of(pool, burn_in_bars=3)
    path = [at(minute, 101.0 if odd else 99.0, symbol) for minute, symbol, odd in picks]
    for batch in (path[:cut], path[cut:]):
        done = process(engine, batch)
        assert done.processed + done.duplicates + len(done.refused) == len(batch)
        assert len(done.signals) - done.again + done.silent.total() == done.processed
        positions = [position for position, _ in done.refused]
        assert positions == sorted(set(positions))
    pool.close()


def test_late_and_revised_bars_are_taken_within_the_bound(start: Start) -> None:
    """L41: an older bar is late, or a revision; one that comes too late is refused for that."""
    engine = engine_of(start(Momentum()))
    done = process(engine, [at(1), at(3), at(3), at(2), at(3, 101.0), *map(at, range(4, 8))])
    assert (done.processed, done.late, done.revised, done.duplicates, done.gaps) == (8, 1, 1, 1, 1)
    done = process(engine, [at(7), at(0), at(3, 102.0), at(4, 102.0)])
    assert (done.processed, done.late, done.revised, done.duplicates) == (1, 0, 1, 1)
    (late_at, late), (revised_at, revised) = done.refused
    assert (late_at, late.reason) == (1, Reason.LATE)
    assert (revised_at, revised.reason) == (2, Reason.REVISION)
    assert late.detail.startswith("closes at 60000 and comes after 7 or more later ones")
    assert "ingest.late_bars = 3" in revised.detail


def test_an_amended_signal_names_the_one_whose_place_it_takes(start: Start) -> None:
    """L01: same bar, same schema, an id of its own, and the id of the first; both can be told."""
    engine = engine_of(start(Momentum()))
    path = walk(100)
    said = process(engine, path).signals[-2:]
    done = process(engine, [at(98, 105.0)])
    assert (done.revised, done.again) == (1, 1)
    for first, amended in zip(said, done.signals, strict=True):
        assert (amended.id, amended.amends) == (f"{first.id}|1", first.id)
        assert (amended.schema, amended.valid_until) == (first.schema, first.valid_until)
        assert amended.row_hash != first.row_hash
    assert [s.amends for s in process(engine, [path[98]]).signals] == [s.id for s in said]


def test_series_are_bounded(start: Start) -> None:
    """Bars of more series than the settings allow are refused; the known ones go on."""
    engine = engine_of(start(Momentum()), max_series=1)
    done = process(engine, [at(1), at(1, symbol="ETHUSDT"), at(2)])
    assert done.processed == 2
    assert [refused.reason for _, refused in done.refused] == [Reason.TOO_MANY_SERIES]
    assert "engine.max_series = 1" in done.refused[0][1].detail
    assert [series[:2] for series in engine.series()] == [("BTCUSDT", "1m")]


def test_old_bars_teach_but_do_not_signal(start: Start) -> None:
    """L39: past `valid_until` nothing is published; the state has learned all the same."""
    pool, path = start(Momentum()), walk(100)
    now = path[79].close_time + 2 * MINUTE_MS  # the 80th is just valid
    done = process(engine_of(pool), path, now)
    assert done.silent == {"expired": 79}
    assert [s.close_time for s in done.signals] == [bar.close_time for bar in path[79:]]
    assert {s.produced_at for s in done.signals} == {now}
    fresh = signals_of(engine_of(pool), [path])[-21:]
    assert [s.probability for s in done.signals] == [s.probability for s in fresh]


def test_the_clock_of_the_bars(start: Start) -> None:
    """L07: without a given now, the newest close time seen is now, and it never goes back."""
    pool = start(Momentum())
    engine = engine_of(pool)
    done = process(engine, [*walk(100), *walk(3, "ETHUSDT", start=95)])
    assert [s.produced_at for s in done.signals] == [s.close_time for s in done.signals]
    assert done.silent["expired"] == 2  # ETHUSDT at 95 and 96, now being the end of minute 99
    assert engine.state.newest_close == 100 * MINUTE_MS


def test_learning_asks_nobody_and_says_nothing(start: Start) -> None:
    """L44: warm-up has no publisher: no agent is asked and no stance is taken."""
    agent = Momentum()
    engine = engine_of(start(agent))
    engine.learn(walk(200))
    assert agent.seen == []
    assert engine.series() == [("BTCUSDT", "1m", 200, 200 * MINUTE_MS)]
    assert engine.state.newest_close == 200 * MINUTE_MS


def test_learning_is_processing_without_signals(
    real: AgentPool, bars: list[Bar], one_at_a_time: list[Signal]
) -> None:
    """L43: with what was decided on them, learned bars leave the state of processed ones."""
    engine, twin = engine_of(real), engine_of(real)
    for part in (bars[:200], bars[200:320]):
        engine.learn(part, process(twin, part).records)
    assert engine.state.digest() == twin.state.digest()
    after = signals_of(engine, [bars[320:]])
    assert after == one_at_a_time[-len(after) :]
    assert len(after) > 140  # of 180: some before their windows are whole, some after a gap


def test_burn_in_is_silent(start: Start) -> None:
    """L44: before `burn_in_bars` a series publishes nothing, and then what it would have."""
    pool, path = start(Momentum()), walk(150)
    done = process(engine_of(pool, burn_in_bars=100), path)
    assert done.silent == {"burn_in": 99}
    assert done.signals == signals_of(engine_of(pool), [path])[-51:]
    engine = engine_of(pool, burn_in_bars=100)
    engine.learn(path[:99])
    assert signals_of(engine, [path[99:]]) == done.signals


def test_a_forecast_changes_nothing(real: AgentPool, bars: list[Bar]) -> None:
    """Asking equals what was said, and leaves the engine as it was."""
    engine, twin = engine_of(real), engine_of(real)
    first, second = bars[:400], bars[400:]
    said = {s.symbol: s for s in process(engine, first).signals}
    process(twin, first)
    for symbol, signal in said.items():
        forecast = forecast_of(engine, real, engine.inquiry(symbol, "1m"))
        assert isinstance(forecast, Forecast)
        assert (forecast.probability, forecast.votes) == (signal.probability, signal.votes)
        given = [bar for bar in second if bar.symbol == symbol]
        forecast_of(engine, real, engine.given(given)[0])
    assert process(engine, second).signals == process(twin, second).signals


def test_recent_bars_alone_give_the_live_forecast(real: AgentPool, history: BarTable) -> None:
    """L11: the last 400 bars of a series say what an engine says that has seen them all."""
    path = list(history.only(["BTCUSDT"]).bars())
    engine = engine_of(real)
    engine.learn(path)
    live = forecast_of(engine, real, engine.inquiry("BTCUSDT", "1m"))
    recent = forecast_of(engine, real, engine.given(path[-400:])[0])
    assert isinstance(live, Forecast)
    assert isinstance(recent, Forecast)
    assert recent.probability == pytest.approx(live.probability, abs=1e-6)
    assert [v.agent for v in recent.votes] == [v.agent for v in live.votes] == ["gru", "patchtst"]


def test_series_of_two_engines_are_asked_about_together(real: AgentPool, history: BarTable) -> None:
    """L25: in one round, each as it was when it was looked at, to the bit as if asked alone."""
    engines = [engine_of(real), engine_of(real)]
    engines[0].learn(list(history.only(["BTCUSDT"]).bars()))
    path = list(history.only(["ETHUSDT"]).bars())
    engines[1].learn(path[:500])
    inquiries = [engines[0].inquiry("BTCUSDT", "1m"), engines[1].inquiry("ETHUSDT", "1m")]
    alone = [forecast_of(e, real, one) for e, one in zip(engines, inquiries, strict=True)]
    engines[1].learn(path[500:])
    ballots = asyncio.run(inquire(real, inquiries))
    assert [e.heard(one) for e, one in zip(engines, ballots, strict=True)] == alone
    assert engines[1].progress("ETHUSDT", "1m")[0] > 500
    assert asyncio.run(inquire(real, [])) == []


def test_bars_of_a_caller_touch_nothing_that_is_live(start: Start) -> None:
    """L46: not even the calendar, which odd times would stretch over decades while bars wait."""
    calendars, path = Calendars({}), walk(200)
    engine = Engine(Settings(), start(Momentum()), Identity("a", "b", "c"), calendars)
    engine.learn(path)
    live = calendars.of(path[0].symbol)
    before, covered = engine.state.digest(), len(live._openings)
    odd = msgspec.structs.replace(path[-1], open_time=29_000_000 * MINUTE_MS)  # in 2025
    inquiry, values = engine.given([*path, odd], ["close"], 3)
    assert (inquiry.question.seen, inquiry.question.whole) == (201, 1)
    assert values["close"] == [bar.close for bar in [*path[-2:], odd]]
    assert (engine.state.digest(), len(live._openings)) == (before, covered)


def test_too_few_bars_are_no_forecast(real: AgentPool) -> None:
    """L13: without a whole window every agent abstains with its reason."""
    engine = engine_of(real)
    unheard = forecast_of(engine, real, engine.given(walk(20))[0])
    assert not isinstance(unheard, Forecast)
    assert [a.reason for a in unheard] == [Abstained.WARMING_UP] * 2


def test_a_forecast_of_bars_with_a_hole_is_none_either(start: Start) -> None:
    """L02: live or given, a window with a hole is not answered, and that is the reason."""
    pool, path = start(Momentum()), [*walk(180)[:170], *walk(180)[171:]]
    engine = engine_of(pool)
    engine.learn(path)
    live = forecast_of(engine, pool, engine.inquiry("BTCUSDT", "1m"))
    given_bars = forecast_of(engine, pool, engine.given(path)[0])
    assert live == given_bars == [Abstention("momentum", Abstained.GAP)]


def test_stages_are_entered_in_order(start: Start) -> None:
    """Whoever measures sees each stage once per batch, whatever it holds."""
    entered: list[str] = []

    def stage(name: str) -> AbstractContextManager[None]:
        entered.append(name)
        return nullcontext()

    engine = engine_of(start(Momentum()))
    bars = walk(3 + DEPTH + 1)
    for batch in ([], bars[:3], bars[3:]):  # the last has more bars than windows stay for
        asyncio.run(engine.process(batch, Now(), stage))
        assert entered == ["features", "predict", "decide"]
        entered.clear()


def test_a_long_batch_of_one_series_is_asked_about_at_once(start: Start) -> None:
    """L46: a round has one deadline, however many bars of one series it holds."""
    agent = Momentum()
    engine = engine_of(start(agent))
    bars = walk(SETS["gru9"].window_ready_at + 3 * DEPTH)
    done = asyncio.run(engine.process(bars, Now(), lambda _: nullcontext()))
    assert [len(windows) for windows in agent.seen] == [len(done.signals)] == [3 * DEPTH + 1]


def test_a_family_of_instruments_is_told_how_to_hold_a_target(start: Start) -> None:
    """L51: of all its instruments one is held, for the exposure that the target says."""
    symbol = {bar.symbol for bar in walk(3)}.pop()
    risk = msgspec.structs.replace(BRISK, instruments=(f"{symbol} UP:3 DOWN:-1",))
    signals = signals_of(engine_of(start(Momentum(slope=200.0)), risk), [walk(200)])
    assert {signal.stance for signal in signals} >= {Stance.LONG, Stance.SHORT}
    for signal in signals:
        times = {symbol: 1.0, "UP": 3.0, "DOWN": -1.0}
        assert [held.instrument for held in signal.holdings] == [*times]
        exposure = sum(held.target * times[held.instrument] for held in signal.holdings)
        assert exposure == pytest.approx(signal.target, abs=1e-12)
        assert sum(held.target != 0.0 for held in signal.holdings) == (signal.target != 0.0)
