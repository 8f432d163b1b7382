"""The ledger of predictions: each is settled once, by the bar at its horizon, or void."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import Bar, Prediction


class Void(StrEnum):
    """Why a prediction has no outcome."""

    MISSING = "missing"
    SESSION = "session"
    UNMOVED = "unmoved"
    LATE = "late"


class Settled(NamedTuple):
    """Predictions that were settled together, n of them, by A agents.

    `probability` [n, A] is NaN where an agent abstained; `weights` [n, A + 1] are the shares of
    trust by which each was decided, the base rate's last; `forecast` [n] is the ensemble's, NaN
    where nobody with trust had voted; `rose` [n] is 1 where the close at the horizon was higher.
    `series` [n] and `slot` [n] say whose and when: close time by interval.
    """

    series: NDArray[np.int64]
    slot: NDArray[np.int64]
    probability: NDArray[np.float64]
    weights: NDArray[np.float64]
    forecast: NDArray[np.float64]
    rose: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.series)

    def shares(self) -> NDArray[np.float64]:
        """The weights of those who are heard [n, A + 1], so that each row sums to 1.

        Where none of them had any, the base rate has all.
        """
        rows = self.weights.copy()
        rows[:, :-1][np.isnan(self.probability)] = 0.0
        total = np.add.reduce(rows, axis=1, keepdims=True)
        alone = ~(total[:, 0] > 0.0)
        if alone.any():
            rows[alone], total[alone] = 0.0, 1.0
            rows[alone, -1] = 1.0
        return rows / total


class Known(msgspec.Struct, frozen=True, array_like=True):
    """An agent by what it is: another bundle of the same name is another agent.

    Moves of at most `dead_zone` in |ln| were masked in its training, so they are in its scores.
    """

    name: str
    bundle: str
    dead_zone: float = 0.0

    @property
    def id(self) -> tuple[str, str]:
        return self.name, self.bundle


class Open(msgspec.Struct, array_like=True):
    """A prediction without an outcome yet; `entry` is its own bar's close, once that is final."""

    prediction: Prediction
    entry: float | None = None


class _Done(NamedTuple):
    series: int
    slot: int
    prediction: Prediction
    move: float
    rose: bool


class PredictionLedger:
    """Keeps each prediction until the bar `horizon_bars` intervals later is final.

    Outcomes are matched by the identity of bars: (series, close time). A prediction is void when
    its own bar or its outcome's never came, or falls into closed hours, when its bar was final as
    it came, and when the close did not move (L21: never class 0). `is_closed(bar, open_time)` tells
    whether a series does not trade then.
    """

    def __init__(
        self,
        agents: Sequence[Known],
        horizon_bars: int,
        is_closed: Callable[[Bar, int], bool],
    ) -> None:
        self.settled = 0
        self.voids: Counter[Void] = Counter()
        self._agents = tuple(agents)
        self._column = {known.id: i for i, known in enumerate(agents)}
        self._dead_zone = np.array([known.dead_zone for known in agents])
        self._horizon_bars = horizon_bars
        self._is_closed = is_closed
        self._open: list[dict[int, Open]] = []

    def reserve(self, series: int) -> None:
        """Make room for `series` series, with nothing predicted."""
        self._open += [{} for _ in range(series - len(self._open))]

    def note(self, series: int, prediction: Prediction) -> None:
        """Take a prediction; one of the same bar, made anew, takes the place of the earlier one."""
        kept, at = self._open[series], prediction.close_time
        is_in_order = not kept or at in kept or at > next(reversed(kept))
        kept[at] = Open(prediction, kept[at].entry if at in kept else None)
        if not is_in_order:
            self._open[series] = dict(sorted(kept.items()))

    def of(self, series: int, close_time: int) -> Prediction | None:
        """What was predicted of a bar, while it has no outcome."""
        one = self._open[series].get(close_time)
        return one.prediction if one else None

    def open(self, series: int) -> list[Open]:
        """The predictions of a series that have no outcome yet, oldest first."""
        return list(self._open[series].values())

    def restore(self, series: int, kept: Iterable[Open]) -> None:
        """Give a series its open predictions back."""
        self._open[series] = {one.prediction.close_time: one for one in kept}

    def settle(self, bars: Iterable[tuple[int, Bar]]) -> Settled:
        """What these final bars settle, in their order."""
        done: list[_Done] = []
        for series, bar in bars:
            kept = self._open[series]
            if not kept:
                continue
            close_time, interval_ms = bar.close_time, bar.interval_ms
            if close_time in kept:
                kept[close_time].entry = bar.close
            due = close_time - self._horizon_bars * interval_ms
            if due in kept and (entry := kept[due].entry) is not None:
                one = kept.pop(due)
                if bar.close == entry:
                    self.voids[Void.UNMOVED] += 1
                else:
                    move = math.log(bar.close) - math.log(entry)
                    rose = bar.close > entry
                    done.append(_Done(series, due // interval_ms, one.prediction, move, rose))
            while kept and (oldest := next(iter(kept))) <= due:
                del kept[oldest]
                self.voids[self._why_void(bar, oldest)] += 1
        self.settled += len(done)
        return self._joined(done)

    def _why_void(self, bar: Bar, predicted_at: int) -> Void:
        outcome_opens = predicted_at + (self._horizon_bars - 1) * bar.interval_ms
        return Void.SESSION if self._is_closed(bar, outcome_opens) else Void.MISSING

    def _joined(self, done: Sequence[_Done]) -> Settled:
        n, agents = len(done), len(self._agents)
        nobody, nothing = [math.nan] * agents, [0.0] * agents
        given, shares, forecasts = list[float](), list[float](), list[float]()
        for one in done:
            prediction = one.prediction
            base, heard, weight = prediction.base, nobody.copy(), nothing.copy()
            for vote in prediction.votes:
                column = self._column.get((vote.agent, vote.bundle))
                if column is not None:
                    heard[column] = vote.probability
                    weight[column] = vote.trust * (1.0 - base)
            given += heard
            shares += weight
            shares.append(base)
            forecast = prediction.probability
            forecasts.append(math.nan if forecast is None else forecast)
        probability = np.array(given).reshape(n, agents)
        weights = np.array(shares).reshape(n, agents + 1)
        if n:
            moves = np.abs(np.array([one.move for one in done]))
            probability[moves[:, np.newaxis] <= self._dead_zone] = np.nan
        return Settled(
            np.array([one.series for one in done], dtype=np.int64),
            np.array([one.slot for one in done], dtype=np.int64),
            probability,
            weights,
            np.array(forecasts),
            np.array([float(one.rose) for one in done]),
        )
