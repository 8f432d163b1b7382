"""Where signals were stopped on their way to a target, and what only held them smaller."""

from collections import Counter, defaultdict

import msgspec

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import Signal, Stance
from quantum_ai_engine.risk.sizing import Limit
from quantum_ai_engine.state.decision import DATA_QUALITY

DEAD_BAND, THRESHOLD, TURN = "dead_band", "threshold", "turn"
PASSED = "passed"
_LIMITS = {DATA_QUALITY, *(limit.value for limit in Limit)}
# In the order in which a signal meets them; the first that gives 0 has stopped it.
GATES = (DEAD_BAND, THRESHOLD, TURN, DATA_QUALITY, *(limit.value for limit in Limit))


class Sides(msgspec.Struct, frozen=True):
    """How many signals were long, flat and short."""

    long: int
    flat: int
    short: int

    @property
    def total(self) -> int:
        return self.long + self.flat + self.short

    @property
    def one_sided_frac(self) -> float:
        """The larger of both sides' shares of all signals that had one; 0 where none had."""
        sided = self.long + self.short
        return max(self.long, self.short) / sided if sided else 0.0


class Passage(msgspec.Struct, frozen=True):
    """What became of bars and signals.

    `silent` bars had no signal, by reason. `stopped` signals have a target of 0, by the first gate
    that made it 0; `limited` ones were held there by this limit, at 0 or above it, and `breakers`
    counts the signals told while each was open. `abstained` is by agent and reason.
    """

    bars: int
    signals: int
    amended: int
    passed: int
    silent: dict[str, int]
    stopped: dict[str, int]
    limited: dict[str, int]
    breakers: dict[str, int]
    states: dict[str, int]
    modes: dict[str, int]
    sides: Sides
    sides_by_symbol: dict[str, Sides]
    abstained: dict[str, dict[str, int]]


class Gates:
    """Counts signals by the gates that they passed; `settings` hold the thresholds."""

    def __init__(self, settings: RiskSettings) -> None:
        self._settings = settings
        self._bars = self._amended = 0
        self._silent: Counter[str] = Counter()
        self._ends: Counter[str] = Counter()
        self._limited: Counter[str] = Counter()
        self._breakers: Counter[str] = Counter()
        self._states: Counter[str] = Counter()
        self._modes: Counter[str] = Counter()
        self._sides: dict[str, Counter[Stance]] = defaultdict(Counter)
        self._abstained: dict[str, Counter[str]] = defaultdict(Counter)

    def update(self, told: Round, bars: int) -> None:
        """Take what was told of so many bars."""
        self._bars += bars
        if told.silent:
            self._silent.update(told.silent)
        for one in told.unheard:
            self._abstained[one.agent][one.reason.value] += 1
        for signal in told.signals:
            self._take(signal)

    def get(self) -> Passage:
        stopped = {name: self._ends[name] for name in GATES if self._ends[name]}
        return Passage(
            self._bars,
            self._ends.total(),
            self._amended,
            self._ends[PASSED],
            dict(sorted(self._silent.items())),
            stopped,
            {name: self._limited[name] for name in GATES if self._limited[name]},
            dict(sorted(self._breakers.items())),
            dict(sorted(self._states.items())),
            dict(sorted(self._modes.items())),
            _sides(sum(self._sides.values(), Counter())),
            {symbol: _sides(self._sides[symbol]) for symbol in sorted(self._sides)},
            {name: dict(sorted(self._abstained[name].items())) for name in sorted(self._abstained)},
        )

    def _take(self, signal: Signal) -> None:
        self._amended += signal.amends is not None
        self._sides[signal.symbol][signal.stance] += 1
        self._states[signal.risk.state] += 1
        self._modes[signal.policy.mode] += 1
        for breaker in signal.risk.breakers:
            self._breakers[breaker] += 1
        limits = [reason for reason in signal.risk.reasons if reason in _LIMITS]
        for limit in limits:
            self._limited[limit] += 1
        self._ends[self._end(signal, limits)] += 1
        for one in signal.abstained:
            self._abstained[one.agent][one.reason.value] += 1

    def _end(self, signal: Signal, limits: list[str]) -> str:
        """Where a signal came to."""
        if signal.target:
            return PASSED
        if abs(signal.probability - 0.5) <= self._settings.dead_band:
            return DEAD_BAND
        if self._settings.short_threshold < signal.probability < self._settings.long_threshold:
            return THRESHOLD
        # A long never follows a short at once: it is flat in between.
        return min(limits, key=GATES.index) if limits else TURN


def _sides(counts: Counter[Stance]) -> Sides:
    return Sides(counts[Stance.LONG], counts[Stance.FLAT], counts[Stance.SHORT])
