"""The core: bars in, signals out. Shared by the live daemon and by replay.

It is deterministic: it reads no clock, no environment and no random source. Time is the bars' own,
or handed in with each batch. Stages: features → predict → decide.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.ensemble import combine
from quantum_ai_engine.agents.normaliser import Standardiser
from quantum_ai_engine.agents.panel import Ballot, Inquiry, Predictor, Question, ask
from quantum_ai_engine.config import Settings
from quantum_ai_engine.events import (
    INTERVAL_MS,
    INTERVALS,
    SIGNAL_SCHEMA,
    Abstained,
    Abstention,
    Bar,
    Change,
    Forecast,
    Prediction,
    Risk,
    Signal,
    Thresholds,
    Vote,
    signal_id,
)
from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.order import whole_runs
from quantum_ai_engine.features.schema import KERNEL_HASH, FeatureSet
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.features.store import LOOKBACK, Windows
from quantum_ai_engine.risk.instruments import holdings
from quantum_ai_engine.risk.positions import Said
from quantum_ai_engine.state.batch import Due, Taken
from quantum_ai_engine.state.decision import Decision, decide
from quantum_ai_engine.state.finality import Moment
from quantum_ai_engine.state.judged import judged_of
from quantum_ai_engine.state.judgement import Judgement
from quantum_ai_engine.state.record import Record
from quantum_ai_engine.state.ruling import Ruling
from quantum_ai_engine.state.state import EngineState
from quantum_ai_engine.supervisor.shift import Come, Comparison, Shifts, Watched

# What stands in a forecast's place when nobody with trust voted.
Unheard: TypeAlias = list[Abstention]
BREATHE_STEPS = 20
BROKEN = frozenset({Abstained.ERROR, Abstained.NON_FINITE})  # an answer that failed; shed is not
Stage = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Identity:
    """What every signal says of the engine that made it."""

    environment: str
    engine: str
    config_hash: str


@dataclass(slots=True)
class Round(Taken):
    """What became of a batch of bars; observers turn it into metrics and logs.

    Of the processed bars each has a signal, or is counted under `silent` with the reason why
    nothing was published for it; `again` signals of bars after a late one come on top. `unheard`
    holds the abstentions of bars for which no agent voted. `records` are what a restart has to know
    of the decisions, `changes` those of modes, states and standings. `shifts` are comparisons of
    agents' features with their training that turned: they inform, and nothing hangs on them.
    """

    signals: list[Signal] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    shifts: list[tuple[str, Comparison]] = field(default_factory=list)
    again: int = 0
    silent: Counter[str] = field(default_factory=Counter)
    unheard: list[Abstention] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Now:
    """By what a bar is judged to be fresh.

    Without `wall_ms`, now is the newest close time seen up to each bar. When the engine `lags`,
    only the newest bar of each series is asked about.
    """

    wall_ms: int | None = None
    lags: bool = False


class _Look(msgspec.Struct, frozen=True, gc=False):
    """A bar that is to be asked about, and how often it was looked at before in its round."""

    due: Due
    before: int


@dataclass(slots=True)
class Begun:
    """A batch on its way: what is to be asked about and judged in it, and what was answered."""

    now: Now
    done: Round
    steps: list[_Look | Moment]
    windows: dict[str, Windows]
    looks: list[_Look]
    ballots: list[Ballot] = field(default_factory=list)


class _Looks:
    """Counts how often each bar of a round is looked at, asked about or not."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], int] = {}

    def next(self, one: Due) -> int:
        """How often this bar was looked at before."""
        key = one.series, one.bar.open_time
        before = self._counts.get(key, 0)
        self._counts[key] = before + 1
        return before


class Engine:
    """State, agents and decisions of all series.

    `learn` only moves state; `process` also predicts and decides. Bars are given in stream order.
    """

    def __init__(
        self, settings: Settings, predictor: Predictor, identity: Identity, calendars: Calendars
    ) -> None:
        self._all = settings
        self._settings = settings.engine
        self._risk = settings.risk
        self._predictor = predictor
        self._identity = identity
        self._calendars = calendars
        self._ingest = settings.ingest
        self._sets = {agent.feature_set.name: agent.feature_set for agent in predictor.agents}
        self._horizon_bars = predictor.agents[0].horizon_bars if predictor.agents else 1
        self._voters = [(agent.name, agent.bundle) for agent in predictor.agents]
        self._everybody = (True,) * len(self._voters)
        valid = settings.engine.valid_intervals
        # From the opening of a bar to the end of what is said of it.
        self._lasts_ms = {name: ms + round(valid * ms) for name, ms in INTERVAL_MS.items()}
        self._families = settings.risk.families()
        self._thresholds = Thresholds(self._risk.long_threshold, self._risk.short_threshold)
        self._ranges = [
            (agent.feature_set.indices, Standardiser(agent.past.normaliser))
            for agent in predictor.agents
            if agent.past.normaliser is not None
        ]
        self.forget()

    def forget(self) -> None:
        """Begin anew, with nothing known."""
        sets, agents = tuple(self._sets.values()), self._predictor.agents
        judged = [judged_of(agent) for agent in agents]
        judgement = Judgement(judged, self._horizon_bars, self._all, self._calendars)
        self.state = EngineState(sets, self._calendars, self._settings, self._ingest, judgement)
        # No part of the state: what was counted is lost with it, and changes nothing.
        self.shifts = Shifts(
            Watched(agent.name, agent.interval, agent.feature_set, agent.past.reference)
            for agent in agents
            if agent.past.reference is not None
        )

    def learn(self, bars: Sequence[Bar], records: Sequence[Record] = ()) -> None:
        """Take bars into the state, with what was decided on them, and nothing else.

        With records both are those of a whole round.
        """
        for _ in self.learning(bars, records):
            pass

    def learning(self, bars: Sequence[Bar], records: Sequence[Record] = ()) -> Iterator[None]:
        """The same, some steps at a time; must be gone through to the end."""
        kept = {
            (one.symbol, one.interval, one.prediction.close_time, one.look): one for one in records
        }
        looks = _Looks()
        steps = (step for part in self.state.take(bars, Taken()) for step in part.steps())
        for i, step in enumerate(steps, start=1):
            if isinstance(step, Moment):
                self.state.settle(step)
            elif kept:
                bar = step.bar
                record = kept.get((bar.symbol, bar.interval, bar.close_time, looks.next(step)))
                if record is not None:
                    self.state.note(step, record, self._valid_until(bar))
            if i % BREATHE_STEPS == 0:
                yield

    def recall(self, records: Sequence[Record]) -> None:
        """Take note of what was said of bars of series that are known."""
        for record in records:
            self.state.recall(record)

    async def process(self, bars: Sequence[Bar], now: Now, stage: Stage) -> Round:
        """Take a batch of bars through all stages.

        `stage(name)` is entered around each stage, for those who measure.
        """
        with stage("features"):
            begun = self.begin(bars, now)
        with stage("predict"):
            await self.ask(begun)
        with stage("decide"):
            return await self.finish(begun)

    def begin(self, bars: Sequence[Bar], now: Now) -> Begun:
        """Take a batch of bars into the state of features; agents are yet to be asked about it.

        A batch may be begun while the one before it has yet to be finished, but not before the
        agents have answered on that one, nor when any bar of it is not the newest of its series.
        """
        done = Round()
        steps, windows = self._steps(bars, now, done)
        return Begun(now, done, steps, windows, [s for s in steps if isinstance(s, _Look)])

    async def ask(self, begun: Begun) -> None:
        """Ask the agents about what is due; of the state it touches nothing."""
        due = [look.due for look in begun.looks]
        questions = [Question(one.bar.interval, one.seen, one.whole) for one in due]
        begun.ballots = await ask(self._predictor, questions, begun.windows)

    async def finish(self, begun: Begun) -> Round:
        """Judge and decide, in the order in which batches were begun."""
        done, looks = begun.done, begun.looks
        rows = np.array([look.due.row for look in looks])
        ballots = zip(begun.ballots, self._clamped(rows), strict=True)
        done.shifts += self.shifts.update(rows, map(self._come, looks))
        for i, step in enumerate(begun.steps, start=1):
            if isinstance(step, Moment):
                done.changes += self.state.settle(step)
            else:
                self._decide(step, *next(ballots), begun.now, done)
            if i % BREATHE_STEPS == 0:
                await asyncio.sleep(0)  # a thousand of them take longer than others can wait
        return done

    def inquiry(self, symbol: str, interval: str) -> Inquiry:
        """What agents have to know to be asked about a known series as it is now."""
        series, features = self.state.at(symbol, interval), self.state.features
        at, count = np.array([series]), np.array([features.count(series)])
        # Copied: bars may arrive while the agents have yet to read.
        windows = {
            name: Windows.of(features.windows(name, at, count).array()) for name in self._sets
        }
        return Inquiry(Question(interval, int(count[0]), self.state.whole(series)), windows)

    def given(
        self, bars: Sequence[Bar], names: Sequence[str] = (), length: int = 1
    ) -> tuple[Inquiry, dict[str, list[float]]]:
        """The same after these bars of one series alone, with what `recent` would be then.

        Of the engine's state it touches nothing, so that it may be called from another thread.
        """
        newest, times = bars[-1], np.array([bar.open_time for bar in bars])
        calendar = self._calendars.of(newest.symbol).apart()
        ohlcv = np.array([bar.ohlcv for bar in bars])
        rows = kernel.matrix(calendar.rows(times, ohlcv, newest.interval_ms))
        values = {name: self._column(name, bars[-length:], rows[-length:]) for name in names}
        whole = int(whole_runs(calendar.holes(times, newest.interval_ms))[-1])
        # Of fewer bars than a window nobody is asked; all windows of a set have one shape.
        missing = np.full((max(0, LOOKBACK - len(rows)), rows.shape[1]), np.nan)
        rows = np.concatenate([missing, rows[-LOOKBACK:]])
        windows = {
            name: Windows.of(rows[np.newaxis, -s.window :, s.indices])
            for name, s in self._sets.items()
        }
        return Inquiry(Question(newest.interval, len(bars), whole), windows), values

    def heard(self, ballot: Ballot) -> Forecast | Unheard:
        """What the answers to an inquiry come to by the newest ruling; changes nothing."""
        votes, _ = self._votes(ballot, self.state.judgement.rulings[-1])
        return combine(votes, ballot.abstained) or ballot.abstained

    def series(self) -> list[tuple[str, str, int, int | None]]:
        """Symbol, interval, bars seen and newest close time of every known series."""
        return [(*name, *self.progress(*name)) for name in self.state.names()]

    def intervals(self, symbol: str) -> list[str]:
        """At which intervals bars of a symbol have come."""
        return [name for name in INTERVALS if self.state.find(symbol, name) is not None]

    def progress(self, symbol: str, interval: str) -> tuple[int, int | None]:
        """Bars seen and newest close time of a known series."""
        series = self.state.at(symbol, interval)
        newest = self.state.newest(series)
        return self.state.features.count(series), newest.close_time if newest else None

    def bars(self, symbol: str, interval: str) -> list[tuple[float, ...]]:
        """The newest bars of a known series (at most `LOOKBACK`), oldest first.

        Each as open time (ms), open, high, low, close, volume.
        """
        rows = self.state.features.recent(self.state.at(symbol, interval))[-LOOKBACK:]
        return [(int(row[5]), *row[:5]) for row in rows.tolist()]

    def names(self) -> list[str]:
        """What `recent` can be asked for: bar fields, then the columns of the sets in use.

        A column that two sets have is the first one's; `<set>.<column>` says which.
        """
        columns = [column for s in self._sets.values() for column in s.columns]
        qualified = [f"{s.name}.{column}" for s in self._sets.values() for column in s.columns]
        return [*kernel.FIELDS, *dict.fromkeys(columns), *qualified]

    def recent(self, symbol: str, interval: str, name: str, length: int) -> list[float]:
        """The newest values of a bar field or a set's column, oldest first."""
        series, features = self.state.at(symbol, interval), self.state.features
        if name in kernel.FIELDS:
            bars = features.recent_bars(series, length)
            return bars[:, kernel.FIELDS.index(name)].tolist()  # type: ignore[no-any-return]
        owner, column = self._owner(name)
        return features.recent_column(series, owner.name, column, length).tolist()  # type: ignore[no-any-return]

    def _column(self, name: str, bars: Sequence[Bar], rows: NDArray[np.float64]) -> list[float]:
        """A bar field or a set's column of bars and their rows."""
        if name in kernel.FIELDS:
            return [getattr(bar, name) for bar in bars]
        owner, column = self._owner(name)
        return rows[:, owner.indices[owner.columns.index(column)]].tolist()  # type: ignore[no-any-return]

    def _owner(self, name: str) -> tuple[FeatureSet, str]:
        """The set that a name belongs to, and the column's name there."""
        set_name, mark, column = name.rpartition(".")
        if mark:
            return self._sets[set_name], column
        return next(s for s in self._sets.values() if name in s.columns), name

    def _steps(
        self, bars: Sequence[Bar], now: Now, done: Round
    ) -> tuple[list[_Look | Moment], dict[str, Windows]]:
        """Take the bars into the state: what is to be asked about, with moments in their places.

        Also their windows by set: views, unless there is more than one part, since the next would
        overwrite them.
        """
        newest = _newest(bars) if now.lags else None
        looks, steps = _Looks(), list[_Look | Moment]()
        parts: list[dict[str, Windows]] = []
        for part in self.state.take(bars, done):
            if part.too_old:
                done.silent["expired"] += part.too_old
            due = []
            for step in part.steps():
                if isinstance(step, Moment):
                    steps.append(step)
                    continue
                look = looks.next(step)
                if self._is_fresh(step, now, newest, done):
                    due.append(step)
                    steps.append(_Look(step, look))
            windows = self._windows(due)
            if parts or not part.is_last:
                windows = {name: Windows.of(views.array()) for name, views in windows.items()}
            parts.append(windows)
        parts = parts or [self._windows([])]
        return steps, {name: Windows.joined([part[name] for part in parts]) for name in self._sets}

    def _windows(self, due: Sequence[Due]) -> dict[str, Windows]:
        series = np.array([one.series for one in due], dtype=np.int64)
        counts = np.array([one.seen for one in due], dtype=np.int64)
        return {name: self.state.features.windows(name, series, counts) for name in self._sets}

    def _is_fresh(
        self, one: Due, now: Now, newest: Mapping[tuple[str, str], int] | None, done: Round
    ) -> bool:
        """Whether a bar is to be asked about; an arrival that is not counts as silent."""
        bar, reason = one.bar, None
        if one.seen < self._settings.burn_in_bars:
            reason = "burn_in"
        elif self._now_ms(one, now) > self._valid_until(bar):
            reason = "expired"
        elif newest is not None and bar.open_time < newest[bar.symbol, bar.interval]:
            reason = "lagging"
        if reason is not None and one.is_arrival:
            done.silent[reason] += 1
        return reason is None

    def _now_ms(self, one: Due, now: Now) -> int:
        return one.newest_close if now.wall_ms is None else now.wall_ms

    def _valid_until(self, bar: Bar) -> int:
        return bar.open_time + self._lasts_ms[bar.interval]

    def _votes(self, ballot: Ballot, ruling: Ruling) -> tuple[tuple[Vote, ...], float]:
        """The votes of a ballot with their trust, and the base rate's share beside them."""
        voters, given, awake = self._voters, ballot.answers, self._everybody
        if len(given) != len(voters):
            answered = {place for place, _ in given}
            awake = tuple(place in answered for place in range(len(voters)))
        shares = ruling.shares(awake)
        trust = shares.trust.tolist()
        votes = [Vote(*voters[place], chance, trust[place]) for place, chance in given]
        return tuple(votes), shares.base

    def _come(self, look: _Look) -> Come:
        """What those who compare features need to know of a bar; it counts once, when it comes."""
        one, bar, close_time = look.due, look.due.bar, look.due.bar.close_time
        said = self.state.positions.said(one.series, close_time)
        is_first = one.is_arrival and look.before == 0 and said is None
        return Come(bar.interval, one.seen, close_time, is_first)

    def _clamped(self, rows: NDArray[np.float64]) -> list[float | None]:
        """Of each row [n, columns], which share lies beyond what an agent knows, at most."""
        if not self._ranges or not len(rows):
            return [None] * len(rows)
        shares = [range_.outside(rows[:, indices]) for indices, range_ in self._ranges]
        return [*np.maximum.reduce(shares).tolist()]

    def _decide(
        self, look: _Look, ballot: Ballot, clamped: float | None, now: Now, done: Round
    ) -> None:
        """Decide on a bar; what is new in it becomes a signal."""
        one, bar, close_time = look.due, look.due.bar, look.due.bar.close_time
        valid_until = self._valid_until(bar)
        ruling = self.state.judgement.ruling(close_time)
        votes, base = self._votes(ballot, ruling)
        forecast, said = combine(votes, ballot.abstained), None
        if forecast is None:
            if one.is_arrival:
                done.silent["no_effective_vote"] += 1
                done.unheard += ballot.abstained
        else:
            earlier = self.state.positions.said(one.series, close_time)
            version = earlier.version + 1 if earlier else 0
            before = self.state.positions.before(one.series, close_time)
            decision = decide(before, forecast, base, ruling.of(one.series), self._risk)
            times = close_time, self._now_ms(one, now), valid_until
            signal = self._signal(one, forecast, version, ruling, decision, times)
            said = Said.of(signal, decision.level, decision.wanted)
            if earlier is not None and said.agrees(earlier):
                done.silent["unchanged"] += one.is_arrival
                said = msgspec.structs.replace(said, version=earlier.version)
                if said == earlier:
                    return  # else the level is another one, which nobody is told
            else:
                done.again += not one.is_arrival
                done.signals.append(signal)
        failed = sum([other.reason in BROKEN for other in ballot.abstained])
        if votes or failed:
            probability = forecast.probability if forecast else None
            prediction = Prediction(close_time, votes, failed, base, probability, clamped)
            record = Record(bar.symbol, bar.interval, prediction, said, look.before)
            done.records.append(record)
            self.state.note(one, record, valid_until)

    def _signal(
        self,
        one: Due,
        forecast: Forecast,
        version: int,
        ruling: Ruling,
        decision: Decision,
        times: tuple[int, int, int],
    ) -> Signal:
        """Everything that a subscriber needs to know; its times are of close, now and end."""
        bar, family, risk = one.bar, self._families.get(one.bar.symbol), ruling.risk
        close_time, now_ms, valid_until = times
        amends = signal_id(bar.symbol, bar.interval, close_time) if version else None
        if decision.reasons:
            risk = Risk(risk.state, risk.breakers, (*risk.reasons, *decision.reasons))
        # By place: 27 names would take longer to be found than all else here.
        return Signal(
            SIGNAL_SCHEMA,
            signal_id(bar.symbol, bar.interval, close_time, version),
            self._identity.environment,
            bar.symbol,
            bar.interval,
            close_time,
            now_ms,
            valid_until,
            self._horizon_bars,
            forecast.probability,
            forecast.confidence,
            decision.stance,
            decision.target,
            forecast.votes,
            forecast.abstained,
            forecast.effective_votes,
            self._thresholds,
            ruling.policy,
            risk,
            KERNEL_HASH,
            blake2b(one.row.data, digest_size=8).hexdigest(),
            self._identity.engine,
            self._identity.config_hash,
            {},
            amends,
            one.filled,
            holdings(decision.level, decision.target, family) if family else (),
        )


def _newest(bars: Sequence[Bar]) -> dict[tuple[str, str], int]:
    """When the newest bar of each series of a batch opened."""
    newest: dict[tuple[str, str], int] = {}
    for bar in bars:
        key = (bar.symbol, bar.interval)
        newest[key] = max(newest.get(key, 0), bar.open_time)
    return newest
