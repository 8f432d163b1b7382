"""The core: bars in, signals out. Shared by the live daemon and by replay.

It is deterministic: it reads no clock, no environment and no random source. Time is the bars' own,
or handed in with each batch. Stages: features → predict → decide.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.panel import Predictor, Question, Unheard, ask
from quantum_ai_engine.config import Settings
from quantum_ai_engine.events import (
    SIGNAL_SCHEMA,
    Abstention,
    Bar,
    Forecast,
    Policy,
    Risk,
    Signal,
    Stance,
    Thresholds,
    signal_id,
)
from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.order import whole_runs
from quantum_ai_engine.features.schema import KERNEL_HASH, FeatureSet
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.features.store import Windows
from quantum_ai_engine.risk.positions import Said
from quantum_ai_engine.risk.stance import next_stance, target_of
from quantum_ai_engine.state.batch import Due, Part, Taken
from quantum_ai_engine.state.state import EngineState

HALTED = Risk("HALTED", ("manual",), ("halted",))
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
    holds the abstentions of bars for which no agent voted.
    """

    signals: list[Signal] = field(default_factory=list)
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


class Engine:
    """State, agents and decisions of all series.

    `learn` only moves state; `process` also predicts and decides. Bars are given in stream order.
    """

    def __init__(
        self, settings: Settings, predictor: Predictor, identity: Identity, calendars: Calendars
    ) -> None:
        self._settings = settings.engine
        self._risk = settings.risk
        self._predictor = predictor
        self._identity = identity
        self._calendars = calendars
        self._ingest = settings.ingest
        self._sets = {agent.feature_set.name: agent.feature_set for agent in predictor.agents}
        self.forget()

    def forget(self) -> None:
        """Begin anew, with nothing known."""
        sets = tuple(self._sets.values())
        self.state = EngineState(sets, self._calendars, self._settings, self._ingest)

    def learn(self, bars: Sequence[Bar]) -> None:
        """Take bars into the state, and nothing else."""
        for _ in self.state.take(bars, Taken()):
            pass

    def recall(self, signals: Sequence[Signal]) -> None:
        """Take note of signals that were published; of series that are not known there is none."""
        for signal in signals:
            series = self.state.find(signal.symbol, signal.interval)
            if series is not None:
                self.state.positions.update(series, Said.of(signal))

    async def process(self, bars: Sequence[Bar], now: Now, stage: Stage) -> Round:
        """Take a batch of bars through all stages.

        `stage(name)` is entered around each stage, for those who measure.
        """
        done = Round()
        with stage("features"):
            due, windows = self._due(bars, now, done)
        with stage("predict"):
            questions = [Question(one.bar.interval, one.seen, one.whole) for one in due]
            forecasts = await ask(self._predictor, questions, windows)
        with stage("decide"):
            for one, forecast in zip(due, forecasts, strict=True):
                if isinstance(forecast, Forecast):
                    self._decide(one, forecast, now, done)
                elif one.is_arrival:
                    done.silent["no_effective_vote"] += 1
                    done.unheard += forecast
        return done

    async def forecast(self, symbol: str, interval: str) -> Forecast | Unheard:
        """What the ensemble says now of a known series; changes nothing."""
        series, features = self.state.at(symbol, interval), self.state.features
        at, count = np.array([series]), np.array([features.count(series)])
        # Copied: bars may arrive while the agents have yet to read.
        windows = {
            name: Windows.of(features.windows(name, at, count).array()) for name in self._sets
        }
        question = Question(interval, int(count[0]), self.state.whole(series))
        return (await ask(self._predictor, [question], windows))[0]

    async def forecast_of(self, bars: Sequence[Bar]) -> Forecast | Unheard:
        """What the ensemble says after these bars of one series alone; changes nothing."""
        rows = self._rows_of(bars)
        windows = {
            name: Windows.of(rows[np.newaxis, -s.window :, s.indices])
            for name, s in self._sets.items()
        }
        newest, times = bars[-1], np.array([bar.open_time for bar in bars])
        holes = self._calendars.of(newest.symbol).holes(times, newest.interval_ms)
        question = Question(newest.interval, len(bars), int(whole_runs(holes)[-1]))
        return (await ask(self._predictor, [question], windows))[0]

    def series(self) -> list[tuple[str, str, int, int | None]]:
        """Symbol, interval, bars seen and newest close time of every known series."""
        listed = []
        for symbol, interval in self.state.names():
            series = self.state.at(symbol, interval)
            newest = self.state.newest(series)
            count = self.state.features.count(series)
            listed.append((symbol, interval, count, newest.close_time if newest else None))
        return listed

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

    def recent_of(
        self, bars: Sequence[Bar], names: Sequence[str], length: int
    ) -> dict[str, list[float]]:
        """The same, for several names, after these bars of one series alone."""
        rows, values = self._rows_of(bars)[-length:], {}
        for name in names:
            if name in kernel.FIELDS:
                values[name] = [getattr(bar, name) for bar in bars[-length:]]
            else:
                owner, column = self._owner(name)
                values[name] = rows[:, owner.indices[owner.columns.index(column)]].tolist()
        return values

    def _owner(self, name: str) -> tuple[FeatureSet, str]:
        """The set that a name belongs to, and the column's name there."""
        set_name, mark, column = name.rpartition(".")
        if mark:
            return self._sets[set_name], column
        return next(s for s in self._sets.values() if name in s.columns), name

    def _rows_of(self, bars: Sequence[Bar]) -> NDArray[np.float64]:
        return kernel.matrix(np.array([self._calendars.row(bar) for bar in bars]))

    def _due(
        self, bars: Sequence[Bar], now: Now, done: Round
    ) -> tuple[list[Due], dict[str, Windows]]:
        """Take the bars into the state; those that are to be asked about, and their windows by set.

        Windows are views, unless there is more than one part: the next would overwrite them.
        """
        newest = _newest(bars) if now.lags else None
        asked: list[Due] = []
        parts: list[dict[str, Windows]] = []
        for part in self.state.take(bars, done):
            if part.too_old:
                done.silent["expired"] += part.too_old
            due = self._fresh(part, now, newest, done)
            windows = self._windows(due)
            if parts or not part.is_last:
                windows = {name: Windows.of(views.array()) for name, views in windows.items()}
            asked += due
            parts.append(windows)
        parts = parts or [self._windows([])]
        return asked, {name: Windows.joined([part[name] for part in parts]) for name in self._sets}

    def _windows(self, due: Sequence[Due]) -> dict[str, Windows]:
        series = np.array([one.series for one in due], dtype=np.int64)
        counts = np.array([one.seen for one in due], dtype=np.int64)
        return {name: self.state.features.windows(name, series, counts) for name in self._sets}

    def _fresh(
        self, part: Part, now: Now, newest: Mapping[tuple[str, str], int] | None, done: Round
    ) -> list[Due]:
        """The bars of a part that are to be asked about; arrivals that are not count as silent."""
        fresh = []
        for one in part.due:
            bar, reason = one.bar, None
            if one.seen < self._settings.burn_in_bars:
                reason = "burn_in"
            elif self._now_ms(one, now) > self._valid_until(bar):
                reason = "expired"
            elif newest is not None and bar.open_time < newest[bar.symbol, bar.interval]:
                reason = "lagging"
            if reason is None:
                fresh.append(one)
            elif one.is_arrival:
                done.silent[reason] += 1
        return fresh

    def _now_ms(self, one: Due, now: Now) -> int:
        return one.newest_close if now.wall_ms is None else now.wall_ms

    def _valid_until(self, bar: Bar) -> int:
        return bar.close_time + round(self._settings.valid_intervals * bar.interval_ms)

    def _decide(self, one: Due, forecast: Forecast, now: Now, done: Round) -> None:
        """Decide on a forecast; what is new in it becomes a signal."""
        positions, close_time = self.state.positions, one.bar.close_time
        earlier = positions.said(one.series, close_time)
        version = earlier.version + 1 if earlier else 0
        before = positions.stance_before(one.series, close_time)
        signal = self._signal(one, forecast, version, before, self._now_ms(one, now))
        said = Said.of(signal)
        if earlier is None or not said.agrees(earlier):
            positions.update(one.series, said)
            done.again += not one.is_arrival
            done.signals.append(signal)
        elif one.is_arrival:
            done.silent["unchanged"] += 1

    def _signal(
        self, one: Due, forecast: Forecast, version: int, before: Stance, now_ms: int
    ) -> Signal:
        """Everything that a subscriber needs to know, given the stance before the bar."""
        bar, risk = one.bar, self._risk
        is_halted = self.state.is_halted
        stance = Stance.FLAT if is_halted else next_stance(before, forecast.probability, risk)
        capped = stance is not Stance.FLAT and forecast.confidence > risk.exposure_cap
        amends = signal_id(bar.symbol, bar.interval, bar.close_time) if version else None
        return Signal(
            schema=SIGNAL_SCHEMA,
            id=signal_id(bar.symbol, bar.interval, bar.close_time, version),
            environment=self._identity.environment,
            symbol=bar.symbol,
            interval=bar.interval,
            close_time=bar.close_time,
            produced_at=now_ms,
            valid_until=self._valid_until(bar),
            horizon_bars=self._predictor.agents[0].horizon_bars,
            probability=forecast.probability,
            confidence=forecast.confidence,
            stance=stance,
            target=target_of(stance, forecast.confidence, risk.exposure_cap),
            votes=forecast.votes,
            abstained=forecast.abstained,
            effective_votes=forecast.effective_votes,
            thresholds=Thresholds(risk.long_threshold, risk.short_threshold),
            policy=Policy("NORMAL", risk.exposure_cap),
            risk=HALTED if is_halted else Risk("ACTIVE", (), ("exposure_cap",) if capped else ()),
            schema_hash=KERNEL_HASH,
            row_hash=blake2b(one.row.tobytes(), digest_size=8).hexdigest(),
            engine=self._identity.engine,
            config_hash=self._identity.config_hash,
            latency_us={},
            amends=amends,
            filled=one.filled,
        )


def _newest(bars: Sequence[Bar]) -> dict[tuple[str, str], int]:
    """When the newest bar of each series of a batch opened."""
    newest: dict[tuple[str, str], int] = {}
    for bar in bars:
        key = (bar.symbol, bar.interval)
        newest[key] = max(newest.get(key, 0), bar.open_time)
    return newest
