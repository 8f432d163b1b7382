"""The core: bars in, signals out. Shared by the live daemon and by replay.

It is deterministic: it reads no clock, no environment and no random source. Time is the bars' own,
or handed in with each batch. Stages: order → features → predict → decide.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.ensemble import combine, equal_trust
from quantum_ai_engine.agents.pool import Answer, Request
from quantum_ai_engine.config import EngineSettings, RiskSettings
from quantum_ai_engine.events import (
    INTERVAL_MS,
    SIGNAL_SCHEMA,
    Abstained,
    Abstention,
    Bar,
    Forecast,
    Policy,
    Reason,
    Refused,
    Risk,
    Signal,
    Stance,
    Thresholds,
    Vote,
    signal_id,
)
from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.order import Arrival, Sequencer
from quantum_ai_engine.features.schema import KERNEL_HASH, FeatureSet
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.features.store import DEPTH, FeatureStore, Rows, Windows
from quantum_ai_engine.risk.stance import next_stance, target_of

Stage = Callable[[str], AbstractContextManager[None]]
Unheard = list[Abstention]  # what stands in a forecast's place when every agent abstained


class Predictor(Protocol):
    """Who answers for the agents: the pool, live; anything of this shape in a replay."""

    @property
    def agents(self) -> tuple[Agent, ...]:
        """All agents, in their declared order."""

    async def predict(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer per request, in order."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What every signal says of the engine that made it."""

    environment: str
    engine: str
    config_hash: str


@dataclass(slots=True)
class Round:
    """What became of a batch of bars; observers turn it into metrics and logs.

    `refused` holds (position in the batch, why). Every bar is in exactly one of processed,
    duplicates and refused; of the processed ones each has a signal, or is counted under
    `silent` with the reason why nothing was published for it. `unheard` holds the abstentions
    of bars for which no agent voted, `longest_interval_ms` the longest interval processed.
    """

    processed: int = 0
    longest_interval_ms: int = 0
    duplicates: int = 0
    gaps: int = 0
    refused: list[tuple[int, Refused]] = field(default_factory=list)
    signals: list[Signal] = field(default_factory=list)
    silent: Counter[str] = field(default_factory=Counter)
    unheard: list[Abstention] = field(default_factory=list)


class _Admitted(NamedTuple):
    """A bar that is new to its series, and the newest close time seen up to it."""

    bar: Bar
    series: int
    newest_close: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A processed bar for which a signal is due.

    `row` [columns] is the kernel's, `count` the bars that its series had then, `now_ms` is now.
    """

    bar: Bar
    series: int
    row: NDArray[np.float64]
    count: int
    now_ms: int


class Engine:
    """Order, feature state, agents and stances of all series.

    `learn` only moves state; `process` also predicts and decides. Bars are given in stream order.
    """

    def __init__(
        self,
        settings: EngineSettings,
        risk: RiskSettings,
        predictor: Predictor,
        identity: Identity,
        calendars: Calendars,
    ) -> None:
        self.newest_close = 0
        self._settings = settings
        self._risk = risk
        self._predictor = predictor
        self._identity = identity
        self._series: dict[tuple[str, str], int] = {}
        self._stances: list[Stance] = []
        self._order = Sequencer()
        self._calendars = calendars
        self._sets = {agent.feature_set.name: agent.feature_set for agent in predictor.agents}
        self._store = FeatureStore(tuple(self._sets.values()))

    def learn(self, bars: Sequence[Bar]) -> None:
        """Take bars into order and feature state, and nothing else."""
        self._step(self._admitted(bars, Round()))

    async def process(self, bars: Sequence[Bar], now_ms: int | None, stage: Stage) -> Round:
        """Take a batch of bars through all stages.

        `now_ms` decides which bars are still fresh; without it, now is the newest close time seen
        up to each bar. `stage(name)` is entered around each stage, for those who measure.
        """
        done = Round()
        with stage("order"):
            admitted = self._admitted(bars, done)
        with stage("features"):
            candidates, windows = self._due(admitted, now_ms, done)
        with stage("predict"):
            forecasts = await self._forecasts(candidates, windows)
        with stage("decide"):
            for candidate, forecast in zip(candidates, forecasts, strict=True):
                if isinstance(forecast, Forecast):
                    done.signals.append(self._signal(candidate, forecast))
                else:
                    done.silent["no_effective_vote"] += 1
                    done.unheard += forecast
        return done

    async def forecast(self, symbol: str, interval: str) -> Forecast | Unheard:
        """What the ensemble says now of a known series; changes nothing."""
        series = self._series[symbol, interval]
        at, count = np.array([series]), np.array([self._store.count(series)])
        # Copied: bars may arrive while the agents have yet to read.
        windows = {
            name: Windows.of(self._store.windows(name, at, count).array()) for name in self._sets
        }
        return await self._forecast_one(interval, int(count[0]), windows)

    async def forecast_of(self, bars: Sequence[Bar]) -> Forecast | Unheard:
        """What the ensemble says after these bars of one series alone; changes nothing."""
        rows = self._rows_of(bars)
        windows = {
            name: Windows.of(rows[np.newaxis, -s.window :, s.indices])
            for name, s in self._sets.items()
        }
        return await self._forecast_one(bars[-1].interval, len(bars), windows)

    def series(self) -> list[tuple[str, str, int, int | None]]:
        """Symbol, interval, bars seen and newest close time of every known series."""
        return [
            (
                symbol,
                interval,
                self._store.count(i),
                self._order.last_close(i, INTERVAL_MS[interval]),
            )
            for (symbol, interval), i in self._series.items()
        ]

    def names(self) -> list[str]:
        """What `recent` can be asked for: bar fields, then the columns of the sets in use.

        A column that two sets have is the first one's; `<set>.<column>` says which.
        """
        columns = [column for s in self._sets.values() for column in s.columns]
        qualified = [f"{s.name}.{column}" for s in self._sets.values() for column in s.columns]
        return [*kernel.FIELDS, *dict.fromkeys(columns), *qualified]

    def recent(self, symbol: str, interval: str, name: str, length: int) -> list[float]:
        """The newest values of a bar field or a set's column, oldest first."""
        series = self._series[symbol, interval]
        if name in kernel.FIELDS:
            bars = self._store.recent_bars(series, length)
            return bars[:, kernel.FIELDS.index(name)].tolist()  # type: ignore[no-any-return]
        owner, column = self._owner(name)
        return self._store.recent_column(series, owner.name, column, length).tolist()  # type: ignore[no-any-return]

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

    def _admitted(self, bars: Sequence[Bar], done: Round) -> list[_Admitted]:
        """Put the bars in order; those that are new."""
        gaps_before = self._order.gaps
        admitted: list[_Admitted] = []
        for position, bar in enumerate(bars):
            try:
                i = self._admit(bar)
            except Refused as refused:
                done.refused.append((position, refused))
                continue
            if i is None:
                done.duplicates += 1
            else:
                self.newest_close = max(self.newest_close, bar.close_time)
                admitted.append(_Admitted(bar, i, self.newest_close))
        done.processed = len(admitted)
        done.longest_interval_ms = max((a.bar.interval_ms for a in admitted), default=0)
        done.gaps = self._order.gaps - gaps_before
        return admitted

    def _step(self, admitted: Sequence[_Admitted]) -> Rows:
        """Take bars into feature state; their rows."""
        series = np.array([a.series for a in admitted], dtype=np.int64)
        values = np.array([self._calendars.row(a.bar) for a in admitted])
        return self._store.step(series, values.reshape(-1, kernel.BAR_WIDTH))

    def _due(
        self, admitted: Sequence[_Admitted], now_ms: int | None, done: Round
    ) -> tuple[list[_Candidate], dict[str, Windows]]:
        """Step the features; the bars for which a signal is due, and their windows by set.

        Windows are views, unless a series has so many bars that the last would overwrite the
        first's.
        """
        parts = list(_parts(admitted)) or [[]]
        candidates: list[_Candidate] = []
        windows: dict[str, list[Windows]] = {name: [] for name in self._sets}
        for part in parts:
            due = self._candidates(part, self._step(part), now_ms, done)
            series = np.array([candidate.series for candidate in due], dtype=np.int64)
            counts = np.array([candidate.count for candidate in due], dtype=np.int64)
            for name, views in windows.items():
                views.append(self._store.windows(name, series, counts))
                if len(parts) > 1:
                    views[-1] = Windows.of(views[-1].array())
            candidates += due
        return candidates, {name: Windows.joined(views) for name, views in windows.items()}

    def _admit(self, bar: Bar) -> int | None:
        """The series of a bar that is new, None for a duplicate; raises `Refused` otherwise."""
        series = self._series_of(bar)
        arrival = self._order.update(series, bar)
        if arrival is Arrival.NEW:
            return series
        if arrival is Arrival.DUPLICATE:
            return None
        newest = self._order.last_close(series, bar.interval_ms)
        if arrival is Arrival.LATE:
            raise Refused(
                Reason.LATE, f"closes at {bar.close_time}, before the newest bar at {newest}"
            )
        raise Refused(
            Reason.REVISION, f"a bar closing at {bar.close_time} with other values was processed"
        )

    def _series_of(self, bar: Bar) -> int:
        key = (bar.symbol, bar.interval)
        if key not in self._series:
            if len(self._series) >= self._settings.max_series:
                raise Refused(
                    Reason.TOO_MANY_SERIES,
                    f"engine.max_series = {self._settings.max_series} series are known already",
                )
            self._series[key] = len(self._series)
            self._stances.append(Stance.FLAT)
            self._order.reserve(len(self._series))
            self._store.reserve(len(self._series))
        return self._series[key]

    def _candidates(
        self, admitted: Sequence[_Admitted], rows: Rows, now_ms: int | None, done: Round
    ) -> list[_Candidate]:
        """The bars that are past burn-in and still fresh; the others are counted as silent."""
        candidates = []
        counts = rows.counts.tolist()
        for i, (bar, series, newest_close) in enumerate(admitted):
            now = newest_close if now_ms is None else now_ms
            if counts[i] < self._settings.burn_in_bars:
                done.silent["burn_in"] += 1
            elif now > self._valid_until(bar):
                done.silent["expired"] += 1
            else:
                candidates.append(_Candidate(bar, series, rows.values[i], counts[i], now))
        return candidates

    def _valid_until(self, bar: Bar) -> int:
        return bar.close_time + round(self._settings.valid_intervals * bar.interval_ms)

    async def _forecasts(
        self, candidates: Sequence[_Candidate], windows: dict[str, Windows]
    ) -> list[Forecast | Unheard]:
        """One forecast per candidate, all agents and all bars batched into one call."""
        intervals = [candidate.bar.interval for candidate in candidates]
        counts = np.array([candidate.count for candidate in candidates], dtype=np.int64)
        return await self._predict(intervals, counts, windows)

    async def _forecast_one(
        self, interval: str, count: int, windows: dict[str, Windows]
    ) -> Forecast | Unheard:
        return (await self._predict([interval], np.array([count]), windows))[0]

    async def _predict(
        self, intervals: Sequence[str], counts: NDArray[np.int64], windows: dict[str, Windows]
    ) -> list[Forecast | Unheard]:
        """Ask every agent for the rows that it can answer, then combine row by row."""
        votes: list[list[tuple[Agent, float]]] = [[] for _ in intervals]
        abstained: list[list[Abstention]] = [[] for _ in intervals]
        requests, asked = [], []
        for agent in self._predictor.agents:
            able = []
            for i, interval in enumerate(intervals):
                if reason := _unable(agent, interval, int(counts[i])):
                    abstained[i].append(Abstention(agent.name, reason))
                else:
                    able.append(i)
            requests.append(Request(agent, windows[agent.feature_set.name].take(able)))
            asked.append(able)
        answers = await self._predictor.predict(requests)
        for request, able, answer in zip(requests, asked, answers, strict=True):
            for i, probability, why in zip(able, answer.probabilities, answer.reasons, strict=True):
                if why is None:
                    votes[i].append((request.agent, float(probability)))
                else:
                    abstained[i].append(Abstention(request.agent.name, why))
        return [combine(_weighted(v), a) or a for v, a in zip(votes, abstained, strict=True)]

    def _signal(self, candidate: _Candidate, forecast: Forecast) -> Signal:
        """Decide on a forecast and say everything that a subscriber needs to know."""
        bar, risk = candidate.bar, self._risk
        stance = next_stance(self._stances[candidate.series], forecast.probability, risk)
        self._stances[candidate.series] = stance
        capped = stance is not Stance.FLAT and forecast.confidence > risk.exposure_cap
        return Signal(
            schema=SIGNAL_SCHEMA,
            id=signal_id(bar.symbol, bar.interval, bar.close_time),
            environment=self._identity.environment,
            symbol=bar.symbol,
            interval=bar.interval,
            close_time=bar.close_time,
            produced_at=candidate.now_ms,
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
            risk=Risk("ACTIVE", (), ("exposure_cap",) if capped else ()),
            schema_hash=KERNEL_HASH,
            row_hash=blake2b(candidate.row.tobytes(), digest_size=8).hexdigest(),
            engine=self._identity.engine,
            config_hash=self._identity.config_hash,
            latency_us={},
        )


def _parts(admitted: Sequence[_Admitted]) -> Iterator[list[_Admitted]]:
    """Bars in order, cut so that after the last of a part the first's window is still there."""
    part: list[_Admitted] = []
    bars = Counter[int]()
    for one in admitted:
        if bars[one.series] == DEPTH:
            yield part
            part, bars = [], Counter()
        bars[one.series] += 1
        part.append(one)
    if part:
        yield part


def _unable(agent: Agent, interval: str, count: int) -> Abstained | None:
    """Why an agent cannot be asked about a bar at all."""
    if agent.unavailable:
        return Abstained.UNAVAILABLE
    if agent.interval != interval:
        return Abstained.OTHER_INTERVAL
    if count < agent.feature_set.window_ready_at:
        return Abstained.WARMING_UP
    return None


def _weighted(votes: Sequence[tuple[Agent, float]]) -> list[Vote]:
    """Votes with equal trust."""
    return [
        Vote(agent.name, agent.bundle, probability, equal_trust(len(votes)))
        for agent, probability in votes
    ]
