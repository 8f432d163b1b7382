"""Were the probabilities right: each agent's and the ensemble's, by outcomes of their own bars."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.events import INTERVAL_MS, Bar, Prediction
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.replay.regimes import NAMES, Regimes
from quantum_ai_engine.replay.step import Step
from quantum_ai_engine.replay.streams import Overlapping, Ranking, Stretches
from quantum_ai_engine.state.judgement import closed_hours
from quantum_ai_engine.supervisor.ledger import Known, PredictionLedger, Settled
from quantum_ai_engine.supervisor.scores import CalibrationBin, Score, Scores

ENSEMBLE = "ensemble"
BARS_AT_ONCE = 2_048
STRETCHES = 1_024
_HOUR_MS = 3_600_000
_HOURS = 24

Vector = NDArray[np.float64]


class Voter(NamedTuple):
    """An agent that is audited: its name, its bundle, and the share that rose in its training."""

    name: str
    bundle: str
    base_rate: float = 0.5


class Scored(msgspec.Struct, frozen=True):
    """How right one source was.

    `paired` is the mean of (p − y)² − (base rate − y)², below 0 is skill, and `skill_frac` what
    share of the base rate's Brier score that saves; errors know that outcomes overlap (Newey and
    West 1987). `strong` forecasts are beyond a threshold by `risk.strong_margin`. `long`, `flat`
    and `short` are shares of its forecasts by the thresholds alone.
    """

    name: str
    bundle: str
    count: int
    brier: float
    brier_base_rate: float
    paired: float
    paired_stderr: float
    skill_frac: float
    auc: float | None
    bias: float
    bias_stderr: float
    calibration_error: float
    calibration: tuple[CalibrationBin, ...]
    strong: int
    strong_hit_frac: float | None
    long_frac: float
    flat_frac: float
    short_frac: float


class Grouped(msgspec.Struct, frozen=True):
    """The score of one source on some of the bars: of a symbol, an hour UTC, or a regime."""

    source: str
    group: str
    count: int
    brier: float
    paired: float
    bias: float


class Audited(msgspec.Struct, frozen=True):
    """All that is said of probabilities; see docs/backtest.md.

    `void` predictions have no outcome, by reason; `pending` ones' outcomes lie after the end.
    `unheard` are agents without a single outcome, of which therefore nothing is said.
    """

    horizon_bars: int
    base_rate: float
    rose_frac: float | None
    settled: int
    void: dict[str, int]
    pending: int
    sources: tuple[Scored, ...]
    unheard: tuple[str, ...]
    by_symbol: tuple[Grouped, ...]
    by_hour: tuple[Grouped, ...]
    by_regime: tuple[Grouped, ...]


class Audit:
    """Matches each prediction with the bar at its horizon, by (symbol, close time), and scores it.

    What is scored is what signals say: each agent's vote, of the quarantined ones too, and the
    ensemble's forecast, the last of the sources. Parameters: `voters`, the
    agents; `horizon_bars`, theirs; `settings`, the thresholds; `calendars`, of closed hours.
    """

    def __init__(
        self,
        voters: Sequence[Voter],
        horizon_bars: int,
        settings: RiskSettings,
        calendars: Calendars,
    ) -> None:
        ids = [(voter.name, voter.bundle) for voter in voters]
        self.names = (*(voter.name for voter in voters), ENSEMBLE)
        self._bundles = (*(voter.bundle for voter in voters), "")
        self._settings, self._horizon = settings, horizon_bars
        self._base = float(np.mean([one.base_rate for one in voters])) if voters else 0.5
        self._ledger = PredictionLedger(
            [Known(*one) for one in ids], horizon_bars, closed_hours(calendars)
        )
        self._series: dict[tuple[str, str], int] = {}
        self._newest_ms: list[int] = []
        self._bars: list[tuple[int, Bar]] = []
        self._regimes = Regimes()
        self._regime_of: dict[tuple[int, int], int] = {}
        self._by_symbol, self._by_hour, self._by_regime = (Scores(ids) for _ in range(3))
        self._by_hour.reserve(_HOURS)
        self._by_regime.reserve(len(NAMES))
        sources = len(self.names)
        self._errors: dict[int, Overlapping] = {}
        self._rankings = [Ranking() for _ in range(sources)]
        self._sides = np.zeros((sources, 4))  # long, short, strong, strong and right
        self._rose = np.zeros(2)
        # Of each source how many and the sum of paired losses; of each voter its share of trust.
        self.stretches = Stretches(STRETCHES, sums=3 * sources - 1)

    def take(self, step: Step) -> None:
        """Take the votes and forecasts that were told of a step, and its bars."""
        for signal in step.told.signals:
            told = Prediction(signal.close_time, signal.votes, 0, 0.0, signal.probability)
            self._ledger.note(self._at(signal.symbol, signal.interval), told)
        for bar in step.bars:
            series = self._at(bar.symbol, bar.interval)
            if bar.open_time <= self._newest_ms[series]:
                continue
            self._newest_ms[series] = bar.open_time
            self._bars.append((series, bar))
            slot = bar.close_time // bar.interval_ms
            self._regime_of[series, slot] = self._regimes.update(series, bar)
        if len(self._bars) >= BARS_AT_ONCE:
            self._settle()

    def get(self) -> Audited:
        """All scores; what has no outcome yet is `pending`."""
        self._settle()
        outcomes = float(self._rose[0])
        scored = [(i, self._by_symbol.pooled(i)) for i in range(len(self.names))]
        return Audited(
            self._horizon,
            self._base,
            float(self._rose[1]) / outcomes if outcomes else None,
            self._ledger.settled,
            {void.value: count for void, count in sorted(self._ledger.voids.items())},
            sum(len(self._ledger.open(series)) for series in range(len(self._newest_ms))),
            tuple(self._scored(i, score) for i, score in scored if score is not None),
            tuple(self.names[i] for i, score in scored if score is None),
            self._grouped(self._by_symbol, [f"{s} {i}" for s, i in self._series]),
            self._grouped(self._by_hour, [f"{hour:02d}" for hour in range(_HOURS)]),
            self._grouped(self._by_regime, NAMES),
        )

    def _at(self, symbol: str, interval: str) -> int:
        series = self._series.get((symbol, interval))
        if series is None:
            series = self._series[symbol, interval] = len(self._newest_ms)
            self._newest_ms.append(-1)
            self._ledger.reserve(len(self._newest_ms))
            self._by_symbol.reserve(len(self._newest_ms))
        return series

    def _settle(self) -> None:
        """Match the bars that came with what was predicted, and score that."""
        settled = self._ledger.settle(self._bars)
        self._bars.clear()
        if not len(settled):
            return
        intervals = np.array([INTERVAL_MS[interval] for _, interval in self._series])
        lengths = intervals[settled.series]
        for length in np.unique(lengths).tolist():
            self._score(settled, np.flatnonzero(lengths == length), length)
        oldest = [
            (newest // length) - self._horizon
            for newest, length in zip(self._newest_ms, intervals.tolist(), strict=True)
        ]
        self._regime_of = {k: v for k, v in self._regime_of.items() if k[1] >= oldest[k[0]]}

    def _score(self, settled: Settled, kept: NDArray[np.int64], length_ms: int) -> None:
        """Score the settled predictions of bars of one length."""
        kept = kept[np.argsort(settled.slot[kept], kind="stable")]
        series, slot, rose = settled.series[kept], settled.slot[kept], settled.rose[kept]
        p = np.column_stack((settled.probability, settled.forecast))[kept]  # [n, sources]
        base = np.full(len(kept), self._base)
        regime = np.array(
            [self._regime_of.get(k, 1) for k in zip(series.tolist(), slot.tolist(), strict=True)]
        )
        hour = slot * length_ms // _HOUR_MS % _HOURS
        for scores, place in (
            (self._by_symbol, series),
            (self._by_hour, hour),
            (self._by_regime, regime),
        ):
            scores.update(place, p.T, base, rose)
        residual = p - rose[:, np.newaxis]
        paired = residual**2 - ((base - rose) ** 2)[:, np.newaxis]
        errors = self._errors.get(length_ms)
        if errors is None:
            errors = self._errors[length_ms] = Overlapping(2 * len(self.names), self._horizon)
        errors.update(slot, np.column_stack((paired, residual)))
        self._rose += (len(kept), rose.sum())
        self._count(p, rose)
        given = ~np.isnan(p)
        rows = np.column_stack((given, np.where(given, paired, 0.0), settled.weights[kept, :-1]))
        self.stretches.update(slot * length_ms, rows.astype(np.float64))

    def _count(self, p: Vector, rose: Vector) -> None:
        """Rankings, sides and strong forecasts of each source."""
        s = self._settings
        for source, ranking in enumerate(self._rankings):
            there = ~np.isnan(p[:, source])
            own, y = p[there, source], rose[there]
            ranking.update(own, y)
            strong_long = own >= s.long_threshold + s.strong_margin
            strong_short = own <= s.short_threshold - s.strong_margin
            right = (strong_long & (y == 1.0)) | (strong_short & (y == 0.0))
            strong = strong_long | strong_short
            counts = own >= s.long_threshold, own <= s.short_threshold, strong, right
            self._sides[source] += [np.count_nonzero(one) for one in counts]

    def _scored(self, source: int, score: Score) -> Scored:
        name, bundle = self.names[source], self._bundles[source]
        bins = self._by_symbol.calibration(source)
        off = sum(b.count * abs(b.mean_probability - b.rose) for b in bins) / score.count
        long, short, strong, right = self._sides[source].tolist()
        of_base = score.brier - score.paired
        return Scored(
            name=name,
            bundle=bundle,
            count=int(score.count),
            brier=score.brier,
            brier_base_rate=of_base,
            paired=score.paired,
            paired_stderr=self._stderr(source),
            skill_frac=-score.paired / of_base if of_base else 0.0,
            auc=self._rankings[source].get(),
            bias=score.bias,
            bias_stderr=self._stderr(len(self.names) + source),
            calibration_error=off,
            calibration=bins,
            strong=int(strong),
            strong_hit_frac=right / strong if strong else None,
            long_frac=long / score.count,
            flat_frac=(score.count - long - short) / score.count,
            short_frac=short / score.count,
        )

    def _stderr(self, column: int) -> float:
        """Of all lengths of bars together, which are taken for independent of each other."""
        total = squares = 0.0
        for errors in self._errors.values():
            count, _, stderr = (float(part[column]) for part in errors.get())
            if count:
                total += count
                squares += (stderr * count) ** 2
        return float(np.sqrt(squares)) / total if total else 0.0

    def _grouped(self, scores: Scores, names: Sequence[str]) -> tuple[Grouped, ...]:
        return tuple(
            _group(self.names[source], name, score)
            for source in range(len(self.names) - 1, -1, -1)
            for place, name in enumerate(names)
            if (score := scores.of(source, place)) is not None
        )


def _group(source: str, name: str, score: Score) -> Grouped:
    return Grouped(source, name, int(score.count), score.brier, score.paired, score.bias)
