"""Judging: order decides nothing, a restart changes nothing, and who is barred goes on unheard."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantum_ai_engine.agents.base import Past
from quantum_ai_engine.agents.manifest import Blocks, HeldOut, ReliabilityBin
from quantum_ai_engine.config import (
    BREAKERS,
    RiskSettings,
    SupervisorSettings,
    TrustSettings,
)
from quantum_ai_engine.daemon.records import decode_round, encode_round
from quantum_ai_engine.engine import Engine, Round
from quantum_ai_engine.events import Bar, Command, Equity, Stance
from quantum_ai_engine.supervisor.standing import State

from .streams import (
    LATE,
    NERVOUS,
    SYMBOLS,
    WRONG,
    Follower,
    bar_at,
    bars_at,
    batched,
    engine_of,
    final,
    process,
    process_all,
    twin_of,
)

EAGER = TrustSettings(min_outcomes=5, memory_outcomes=50)
# Closes scatter around one price: who expects a move to go on is wrong, who does not is right.
WITH = Follower("with", "momentum2", 300.0)
AGAINST = Follower("against", "momentum2", -300.0)
CALM = tuple(f"{name} {b.trip} {b.clear} {b.dwell_ms} off" for name, b in BREAKERS.items())
UNBROKEN = msgspec.structs.replace(NERVOUS, breakers=CALM)
HASTY = SupervisorSettings(
    block_bars=5, warmup_blocks=2, false_alarm_bars=1_000, watch_bars=10, quarantine_factor=1.0
)
SKILLED = HeldOut(
    samples=10_000,
    brier=0.2,
    brier_base_rate=0.25,
    bias=0.0,
    paired=-0.05,
    paired_stderr=0.001,
    auc=0.7,
    calibration_error=0.0,
    reliability=(ReliabilityBin(0.0, 1.0, 10_000, 0.5, 0.5),),
    blocks=Blocks(5, 5, 100, (0.05, 0.5, 0.95), (0.1, 0.2, 0.3), (-0.1, 0.0, 0.1), (-0.1,) * 3),
)


def eager(*agents: Follower, risk: RiskSettings = NERVOUS, **changes: Any) -> Engine:
    return engine_of(*(agents or (WITH, AGAINST)), trust=EAGER, risk=risk, **changes)


@dataclass(frozen=True)
class Comings:
    """Bars in order and as they come, none later than by `LATE` intervals of time."""

    in_order: list[Bar]
    as_they_come: list[Bar]
    cuts: list[int]

    def batches(self) -> list[list[Bar]]:
        return batched(self.as_they_come, self.cuts)


@st.composite
def comings(draw: st.DrawFn) -> Comings:
    """Two symbols from their first bar on, with holes, late bars and revisions."""
    chance, count = Random(draw(st.integers(0, 2**20))), draw(st.integers(40, 90))
    in_order, told = list[Bar](), list[tuple[float, Bar]]()
    for minute in range(count):
        for symbol in SYMBOLS[:2]:
            if chance.random() < 0.06:
                continue
            bar, late = bar_at(minute, symbol), chance.choice([0, 0, 0, 0, 1, LATE])
            in_order.append(bar)
            if chance.random() < 0.1:
                wrong = WRONG[chance.choice(["close", "volume"])](bar, bar)
                told.append((minute + 0.5 * (late > 0), wrong))
            told.append((minute + late + 0.5 * (late > 0), bar))
    told.sort(key=lambda one: one[0])
    cuts = draw(st.lists(st.sampled_from([1, 2, 7, 30]), min_size=1, max_size=3))
    return Comings(in_order, [bar for _, bar in told], cuts)


def judged(engine: Engine) -> tuple[Any, ...]:
    """Evidence, weights and rulings."""
    judgement, names = engine.state.judgement, sorted(engine.state.names())
    at = [engine.state.at(*name) for name in names]
    return (
        judgement.saved(),
        judgement.saved_places(at),
        judgement.trust.weights.tolist(),
        judgement.saved_rulings(at),
    )


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(comings())
def test_any_order_within_the_late_time_is_judged_the_same(stream: Comings) -> None:
    """L33, L53: the same evidence, trust, rulings and signals, with many outcomes settled."""
    straight, other = eager(), eager()
    expected = final(process_all(straight, [[bar] for bar in stream.in_order]))
    got = final(process_all(other, stream.batches()))
    assert judged(other) == judged(straight)
    assert got == expected
    assert other.state.digest() == straight.state.digest()


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(comings(), st.integers(0, 500), st.integers(0, 500), st.sampled_from([None, 97.0]))
def test_restarted_anywhere_it_judges_the_same(
    stream: Comings, one: int, other: int, reported: float | None
) -> None:
    """L31, L43: evidence, weights and rulings are those of a twin that was never stopped."""
    batches = stream.batches()
    saved_at, killed_at = sorted((one % (len(batches) + 1), other % (len(batches) + 1)))
    twin = eager()
    process_all(twin, batches[:saved_at])
    if reported is not None:
        twin.state.judgement.report(Equity(twin.state.newest_close, reported))
    parts = twin.state.snapshot()
    rounds = [(batch, process(twin, batch)) for batch in batches[saved_at:killed_at]]
    engine = twin_of(twin)
    engine.state.restore(parts)
    for batch, done in rounds:
        engine.learn(batch, _from_the_wire(done))
    assert judged(engine) == judged(twin)
    assert process_all(engine, batches[killed_at:]) == process_all(twin, batches[killed_at:])
    assert judged(engine) == judged(twin)
    assert engine.state.digest() == twin.state.digest()


def _from_the_wire(done: Round) -> Sequence[Any]:
    return decode_round({b"b": encode_round("0-0", "1-0", done.records, ())}).records


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(comings())
def test_trust_sums_to_1(stream: Comings) -> None:
    """L31: in each signal, over those that voted, and beside the base rate in each ruling."""
    engine = eager()
    for signal in process_all(engine, stream.batches()):
        assert sum(vote.trust for vote in signal.votes) == pytest.approx(1.0, abs=1e-9)
    for ruling in engine.state.judgement.rulings:
        for awake in ((True, True), (True, False), (False, True)):
            shares = ruling.shares(awake)
            assert shares.trust.sum() == pytest.approx(1.0, abs=1e-9)
            assert [bool(t > 0.0) for t in shares.trust] == [*awake]
            assert 0.0 <= shares.base <= 1.0


def test_who_was_right_is_trusted_more() -> None:
    """L32: by realised outcomes alone; both had the same say at first."""
    engine = eager()
    signals = process_all(engine, [[bar] for bar in bars_at(range(200))])
    assert [vote.trust for vote in signals[0].votes] == [0.5, 0.5]
    votes = {vote.agent: vote.trust for vote in signals[-1].votes}
    assert votes["against"] > 0.55 > votes["with"]
    assert engine.state.judgement.ledger.settled > 100


def test_without_outcomes_trust_is_that_of_the_priors() -> None:
    """L32: bars that nobody was asked about move no trust, however many there are."""
    engine = eager()
    engine.learn(bars_at(range(300)))
    (signal,) = process(engine, [bar_at(300)]).signals
    assert [vote.trust for vote in signal.votes] == [0.5, 0.5]
    assert engine.state.judgement.ledger.settled == 0


@pytest.mark.parametrize("late", [1, 2, LATE])
def test_a_halt_holds_for_a_bar_that_comes_late(late: int) -> None:
    """L50: what closed before the halt and comes after it is halted, too; so it is resumed."""
    engine = eager(AGAINST, risk=UNBROKEN)
    bars = bars_at(range(150))
    lost = bars[149 - late]
    process_all(engine, [[*bars[: 149 - late], *bars[150 - late :]]])
    twin = twin_of(engine)
    twin.state.restore(engine.state.snapshot())
    [change] = engine.state.apply(Command.HALT)
    assert (change.room, change.before, change.after) == ("risk", "ACTIVE", "HALTED")
    signals = process(engine, [lost]).signals
    assert signals[0].close_time == lost.close_time
    assert all((s.stance, s.target) == (Stance.FLAT, 0.0) for s in signals)
    assert {s.risk.state for s in signals} == {"HALTED"}
    assert {s.risk.breakers for s in signals} == {("manual",)}
    engine.state.apply(Command.RESUME)
    twin.state.apply(Command.HALT)
    twin.state.apply(Command.RESUME)
    resumed = process(twin, [lost]).signals
    assert {s.risk.state for s in resumed} == {"ACTIVE"}


def test_a_reduced_engine_takes_nothing_on() -> None:
    """L50: targets may shrink and go, none grows or begins, until a person resumes."""
    engine = eager(AGAINST, risk=UNBROKEN)
    process_all(engine, [bars_at(range(100))])
    [change] = engine.state.apply(Command.REDUCE)
    assert change.after == "REDUCING"
    held = process(engine, [bar_at(100)]).signals[-1].target
    for minute in range(101, 160):
        [signal] = process(engine, [bar_at(minute)]).signals
        assert signal.risk.state == "REDUCING"
        assert abs(signal.target) <= abs(held)
        assert signal.target * held >= 0.0
        held = signal.target
    [change] = engine.state.apply(Command.RESUME)
    assert change.after == "ACTIVE"
    assert any(s.target for s in process_all(engine, [bars_at(range(160, 200))]))
    assert engine.state.apply(Command.RESUME) == []


class Liar(Follower):
    """An agent that was good when it was held out, and is sure of the opposite now."""

    past = Past(held_out=SKILLED)


LIAR = Liar("liar", "momentum2", 3_000.0)


def quarantined(*agents: Follower) -> tuple[Engine, list[Round], int]:
    """An engine until its first agent is quarantined, and the minute after that."""
    engine = engine_of(*agents, trust=EAGER, supervisor=HASTY, risk=UNBROKEN)
    rounds = []
    for minute in range(600):
        rounds.append(process(engine, [bar_at(minute)]))
        if engine.state.judgement.states[0] is State.QUARANTINED:
            return engine, rounds, minute + 1
    raise AssertionError("it was never quarantined")


def test_a_quarantined_agent_goes_on_in_shadow() -> None:
    """L33, L34: it predicts the same bars as the others, without trust, and is settled as they."""
    engine, rounds, minute = quarantined(LIAR, AGAINST)
    changes = [change for done in rounds for change in done.changes]
    told = [(c.subject, c.after) for c in changes if c.room == "supervisor"]
    assert told.count(("liar", "quarantined")) == 1
    standing = engine.state.judgement.standings[0]
    assert standing is not None
    tested, settled = standing.tested, engine.state.judgement.ledger.settled
    for later in range(minute, minute + 60):
        done = process(engine, [bar_at(later)])
        [signal] = done.signals
        assert [(v.agent, v.trust) for v in signal.votes] == [("liar", 0.0), ("against", 1.0)]
        [record] = done.records
        assert [v.agent for v in record.prediction.votes] == ["liar", "against"]
    assert engine.state.judgement.ledger.settled == settled + 60
    assert standing.tested > tested


def test_where_all_are_quarantined_evidence_goes_on() -> None:
    """L02, L34: there is no signal then, and yet each prediction is kept and settled."""
    engine, _, minute = quarantined(LIAR)
    before = engine.state.judgement.ledger.settled
    for later in range(minute, minute + 40):
        done = process(engine, [bar_at(later)])
        assert (done.signals, done.silent["no_effective_vote"]) == ([], 1)
        assert [v.trust for v in done.records[0].prediction.votes] == [0.0]
        assert done.records[0].prediction.probability is None
    assert engine.state.judgement.ledger.settled == before + 40


def test_a_restart_keeps_a_quarantine() -> None:
    """L30: only another bundle begins anew; the same one is what it was."""
    engine, _, minute = quarantined(LIAR, AGAINST)
    twin = twin_of(engine)
    twin.state.restore(engine.state.snapshot())
    assert twin.state.judgement.states == engine.state.judgement.states
    assert process(twin, [bar_at(minute)]) == process(engine, [bar_at(minute)])
    other = Liar("liar", "momentum2", 3_000.0)
    other.bundle = "1" * 12
    fresh = twin_of(engine, other, AGAINST)
    fresh.state.restore(engine.state.snapshot())
    assert fresh.state.judgement.states[0] is State.WARMUP
    column = fresh.state.judgement.agents.index(("against", AGAINST.bundle))
    before = engine.state.judgement.trust.rounds[column]
    assert fresh.state.judgement.trust.rounds.tolist()[:2] == [0, before]
    assert np.isfinite(fresh.state.judgement.trust.weights).all()


@pytest.mark.parametrize(("jumping", "is_common"), [(1, False), (2, True), (3, True)])
def test_half_of_the_feeds_in_quarantine_at_once_is_a_common_cause(
    jumping: int, is_common: bool
) -> None:
    """L51: prices of most symbols in another unit are their source's doing, and said as such."""
    calm = (Follower("calm", "momentum2", 1.0), Follower("bold", "momentum2", 2.0))
    engine, changes = eager(*calm), []
    for minute in range(400):
        times = [100.0 if 60 <= minute < 90 and i < jumping else 1.0 for i in range(len(SYMBOLS))]
        bars = [
            scaled(bar_at(minute, symbol=symbol), by)
            for symbol, by in zip(SYMBOLS, times, strict=True)
        ]
        changes += process(engine, bars).changes
    told = [(c.before, c.after) for c in changes if c.subject == "all feeds"]
    apart, together = "each by itself", "common cause: data"
    assert told == ([(apart, together), (together, apart)] if is_common else [])
    assert sum(c.after == "quarantined" for c in changes) >= jumping


def scaled(bar: Bar, by: float) -> Bar:
    """The same bar with prices in another unit."""
    prices = {name: getattr(bar, name) * by for name in ("open", "high", "low", "close")}
    return msgspec.structs.replace(bar, **prices)
