"""How an agent stands: from its settled predictions to a state, with reasons."""

import math
from collections.abc import Iterator, Sequence
from enum import StrEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.config import SupervisorSettings
from quantum_ai_engine.supervisor.blocks import (
    BASE,
    FORECAST,
    PAIRED,
    RESIDUAL,
    Block,
    Blocks,
    SavedBlocks,
    scores,
)
from quantum_ai_engine.supervisor.evidence import (
    LOOKS,
    Detectors,
    SavedDetectors,
    Window,
    window_threshold,
)

Vector = NDArray[np.float64]
LONG_WINDOWS = 8  # the long window in short ones
LEAST_BLOCKS = 20  # held out: fewer do not tell how windows move


class State(StrEnum):
    """What the supervisor thinks of an agent."""

    WARMUP = "warmup"
    OK = "ok"
    WATCH = "watch"
    DRIFT = "drift"
    QUARANTINED = "quarantined"


class Check(StrEnum):
    """What was tested; `docs/supervisor.md` states each null."""

    DRIFT = "drift"
    SKILL_LOST = "skill_lost"
    BIAS_UP = "bias_up"
    BIAS_DOWN = "bias_down"
    FORECAST_UP = "forecast_up"
    FORECAST_DOWN = "forecast_down"
    HARDER = "harder"
    SHORT_WINDOW = "short_window"
    LONG_WINDOW = "long_window"


GRAVE = (Check.DRIFT, Check.SKILL_LOST, Check.BIAS_UP, Check.BIAS_DOWN)
DETECTED = (*GRAVE, Check.FORECAST_UP, Check.FORECAST_DOWN, Check.HARDER)
WINDOWS = (Check.SHORT_WINDOW, Check.LONG_WINDOW)
TESTS = (*DETECTED, *WINDOWS)
_SCORE = np.array([PAIRED, PAIRED, RESIDUAL, RESIDUAL, FORECAST, FORECAST, BASE])
_SIGN = np.array([1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0])


class Baseline(msgspec.Struct, frozen=True):
    """What an agent was when it was held out: all that it is compared with.

    `paired` is the mean of (p − y)² − (base rate − y)², `paired_stderr` its standard error,
    `mean_probability` the mean forecast. The quantiles at `levels` are of the paired score of
    `block_count` blocks of `block_bars` bars; with fewer than 20 blocks no window judges.
    """

    brier: float
    brier_base_rate: float
    paired: float
    paired_stderr: float
    mean_probability: float
    block_bars: int
    block_count: int
    levels: tuple[float, ...]
    paired_quantiles: tuple[float, ...]

    def __post_init__(self) -> None:
        numbers = (self.brier, self.brier_base_rate, self.paired, self.paired_stderr)
        if not all(map(math.isfinite, (*numbers, self.mean_probability, *self.paired_quantiles))):
            raise ValueError("a baseline must be finite")
        steps = zip((0.0, *self.levels), (*self.levels, 1.0), strict=True)
        is_ascending = all(lower < upper for lower, upper in steps)
        if not is_ascending or not len(self.levels) == len(self.paired_quantiles) >= 2:
            raise ValueError("a baseline needs two quantiles or more at ascending levels in (0, 1)")
        if self.block_bars < 1:
            raise ValueError("a baseline's blocks need a bar or more")

    @property
    def had_skill(self) -> bool:
        """Whether it beat the base rate by more than two standard errors."""
        return self.paired < -2.0 * self.paired_stderr


class Alarm(msgspec.Struct, frozen=True, array_like=True):
    """A test that speaks against an agent since `since_ms`, and how loud it is now.

    Of windows, evidence and threshold are mean paired scores above the one held out; of all others
    they are the evidence of an e-detector.
    """

    test: Check
    evidence: float
    threshold: float
    since_ms: int


class Verdict(msgspec.Struct, frozen=True, array_like=True):
    """The state of an agent with its reasons; `harder` is about the market, not the agent.

    `alarming_since_ms` is the oldest alarm's time, None without one.
    """

    state: State
    alarms: tuple[Alarm, ...]
    harder: Alarm | None
    blocks: int
    left_out: int
    alarming_since_ms: int | None


class SavedStanding(msgspec.Struct, frozen=True, array_like=True):
    """The state of `Standing`; `since_ms` is test by test, −1 without an alarm."""

    at_ms: int
    tested: int
    since_ms: tuple[int, ...]
    is_quarantined: bool
    blocks: SavedBlocks
    against: SavedDetectors
    back: SavedDetectors
    windows: tuple[tuple[tuple[float, int], ...], ...]


class Standing:
    """The evidence against one agent, and the state that follows from it.

    Predictions go in as they settle. Each block that ends is tested: by e-detectors, whose grave
    alarms (drift, skill lost, bias) are DRIFT and, with `quarantine_factor` times the evidence,
    QUARANTINED, and by the windows of the WATCH. An alarm of an e-detector stays until an
    e-detector of the opposite null passes the same threshold; that of a window until the window is
    back at the held-out level. No time makes an alarm go. `streams` is how many tests of how many
    agents share the false alarms.

    >>> import numpy as np
    >>> from quantum_ai_engine.config import SupervisorSettings
    >>> held_out = Baseline(0.248, 0.25, -0.002, 0.001, 0.5, 100, 80, (0.05, 0.95), (-0.012, 0.008))
    >>> standing = Standing(held_out, SupervisorSettings(), horizon_bars=5, streams=7)
    >>> standing.update(0, 29_000_000, np.array([0.55]), np.array([1.0]), base_rate=0.5)
    >>> str(standing.get().state)
    'warmup'
    """

    def __init__(
        self, baseline: Baseline, settings: SupervisorSettings, *, horizon_bars: int, streams: int
    ) -> None:
        # At least as long as the horizon: at least half of all predictions are tested.
        self._blocks = Blocks(max(settings.block_bars, horizon_bars), horizon_bars)
        self._settings = settings
        self._baseline = baseline
        self._nulls = _nulls(baseline, settings)
        false_alarm_blocks = settings.false_alarm_bars / self._blocks.period_bars
        self._threshold = max(false_alarm_blocks * streams, 1.0)
        self._against = Detectors(len(DETECTED), self._blocks.block_bars)
        self._back = Detectors(len(DETECTED), self._blocks.block_bars)
        short = max(math.ceil(settings.watch_bars / self._blocks.period_bars), 1)
        self._windows = (Window(short), Window(short * LONG_WINDOWS))
        self._window_thresholds = tuple(self._window_threshold(w.blocks) for w in self._windows)
        self._since_ms = np.full(len(TESTS), -1, dtype=np.int64)
        self._is_quarantined = False
        self._tested = 0
        self._at_ms = 0
        self._conclude()

    def update(
        self, at_ms: int, slot: int, probability: Vector, rose: Vector, base_rate: float
    ) -> None:
        """Take predictions [n] made at the bar `slot` that settled at `at_ms`, which never falls.

        `rose` is 1 or 0. Raises ValueError for anything that is not a probability or an outcome.
        """
        values = scores(probability, rose, base_rate, self._baseline.mean_probability)
        if slot < 0 or at_ms < self._at_ms:
            raise ValueError(f"bar {slot} at {at_ms} ms lies before 0 or what came before")
        self._at_ms = at_ms
        if not len(probability):
            return
        if self._blocks.is_ended_by(slot):
            self._test(self._blocks.get())
        self._blocks.update(slot, values)

    def get(self) -> Verdict:
        """The verdict as of the last block that ended."""
        alarms = tuple(self._alarms())
        harder = next((alarm for alarm in alarms if alarm.test is Check.HARDER), None)
        alarms = tuple(alarm for alarm in alarms if alarm.test is not Check.HARDER)
        since_ms = min((alarm.since_ms for alarm in alarms), default=None)
        return Verdict(self.state, alarms, harder, self._tested, self._blocks.left_out, since_ms)

    @property
    def state(self) -> State:
        """The state of the verdict, without its reasons."""
        return self._concluded[0]

    @property
    def alarming(self) -> tuple[Check, ...]:
        """The tests that speak against the agent."""
        return self._concluded[1]

    @property
    def is_harder(self) -> bool:
        """Whether the market got harder, by its evidence."""
        return self._concluded[2]

    def evidence(self) -> dict[Check, float]:
        """The evidence of every e-detector: what it is and what is left to the threshold."""
        return dict(zip(DETECTED, self._against.evidence.tolist(), strict=True))

    @property
    def baseline(self) -> Baseline:
        """What the agent was when it was held out."""
        return self._baseline

    @property
    def threshold(self) -> float:
        """The evidence at which an e-detector alarms."""
        return self._threshold

    @property
    def tested(self) -> int:
        """How many blocks ended; the verdict changes with this only."""
        return self._tested

    @property
    def embargoed(self) -> int:
        """Predictions that are in no block since their outcomes reach into the next."""
        return self._blocks.embargoed

    def saved(self) -> SavedStanding:
        """All that `restore` needs."""
        return SavedStanding(
            self._at_ms,
            self._tested,
            tuple(self._since_ms.tolist()),
            self._is_quarantined,
            self._blocks.saved(),
            self._against.saved(),
            self._back.saved(),
            tuple(window.saved() for window in self._windows),
        )

    def restore(self, saved: SavedStanding) -> None:
        """Continue where `saved` was taken, with the same baseline and settings."""
        self._at_ms, self._tested = saved.at_ms, saved.tested
        self._since_ms[:] = saved.since_ms
        self._is_quarantined = saved.is_quarantined
        self._blocks.restore(saved.blocks)
        self._against.restore(saved.against)
        self._back.restore(saved.back)
        for window, held in zip(self._windows, saved.windows, strict=True):
            window.restore(held)
        self._conclude()

    def _test(self, block: Block) -> None:
        self._tested += 1
        values, low, high = (_signed(part) for part in (block.value, block.low, block.high))
        excess = values - self._nulls
        lowest, highest = np.minimum(low, high) - self._nulls, np.maximum(low, high) - self._nulls
        self._against.update(excess, np.maximum(-lowest, 0.0))
        self._back.update(-excess, np.maximum(highest, 0.0))
        self._judge_detectors()
        for window in self._windows:
            window.update(block.value[PAIRED])
        self._judge_windows()
        self._conclude()

    def _conclude(self) -> None:
        """State, tests that alarm and whether the market got harder: as of the last block."""
        since_ms = zip(TESTS, self._since_ms.tolist(), strict=True)
        alarming = [test for test, at_ms in since_ms if at_ms >= 0]
        against = tuple(test for test in alarming if test is not Check.HARDER)
        self._concluded = self._state(against), against, Check.HARDER in alarming

    def _judge_detectors(self) -> None:
        since_ms = self._since_ms[: len(DETECTED)]
        if not self._baseline.had_skill:  # what was not there cannot be lost
            self._against.clear(_IS_SKILL)
        was_on = since_ms >= 0
        self._back.clear(~was_on)
        is_refuted = was_on & (self._back.evidence >= self._threshold)
        self._against.clear(is_refuted)
        evidence = self._against.evidence
        since_ms[is_refuted] = -1
        since_ms[~was_on & (evidence >= self._threshold)] = self._at_ms
        grave = evidence[: len(GRAVE)]
        is_grave = bool((since_ms[: len(GRAVE)] >= 0).any())
        is_enough = bool((grave >= self._threshold * self._settings.quarantine_factor).any())
        self._is_quarantined = is_grave and (self._is_quarantined or is_enough)

    def _judge_windows(self) -> None:
        for at, excess in enumerate(self._window_excesses(), start=len(DETECTED)):
            threshold = self._window_thresholds[at - len(DETECTED)]
            is_on = self._since_ms[at] >= 0
            if not is_on and excess >= threshold:
                self._since_ms[at] = self._at_ms
            elif is_on and excess <= 0.0:
                self._since_ms[at] = -1

    def _window_excesses(self) -> Iterator[float]:
        for window in self._windows:
            mean = window.get()
            yield 0.0 if mean is None else mean - self._baseline.paired

    def _window_threshold(self, blocks: int) -> float:
        """The seed's tolerance, or more where healthy windows were seen to move by more.

        What they are compared with was measured, too: three standard errors come on top.
        """
        held_out, settings = self._baseline, self._settings
        if held_out.block_count < LEAST_BLOCKS:
            return math.inf
        draws = max(round(blocks * self._blocks.block_bars / held_out.block_bars), 1)
        looks = LOOKS * settings.false_alarm_bars / (blocks * self._blocks.period_bars)
        moved = window_threshold(held_out.levels, held_out.paired_quantiles, draws, max(looks, 2.0))
        moved += 3.0 * held_out.paired_stderr
        return max(settings.brier_tolerance_frac * held_out.brier, moved)

    def _alarms(self) -> Iterator[Alarm]:
        evidence = (*self._against.evidence.tolist(), *self._window_excesses())
        thresholds = (*[self._threshold] * len(DETECTED), *self._window_thresholds)
        for test, heard, threshold, since_ms in zip(
            TESTS, evidence, thresholds, self._since_ms.tolist(), strict=True
        ):
            if since_ms >= 0:
                yield Alarm(test, heard, threshold, since_ms)

    def _state(self, alarming: Sequence[Check]) -> State:
        if self._is_quarantined:
            return State.QUARANTINED
        if any(test in GRAVE for test in alarming):
            return State.DRIFT
        if alarming:
            return State.WATCH
        return State.WARMUP if self._tested < self._settings.warmup_blocks else State.OK


def common_cause(verdicts: Sequence[Verdict], span_ms: int) -> Check | None:
    """The test in which half of all that are judged, two at least, began to alarm together.

    That is within `span_ms`. Of agents or of symbols alike: then a feed or the market changed, not
    each of them by itself. Who is in warm-up is not judged.
    """
    judged = [verdict for verdict in verdicts if verdict.state is not State.WARMUP]
    needed = max(2, (len(judged) + 1) // 2)
    for test in TESTS:
        begun = sorted(a.since_ms for v in judged for a in v.alarms if a.test is test)
        pairs = zip(begun, begun[needed - 1 :], strict=False)
        if any(last - first <= span_ms for first, last in pairs):
            return test
    return None


_IS_SKILL = np.array([test is Check.SKILL_LOST for test in DETECTED])


def _nulls(held_out: Baseline, settings: SupervisorSettings) -> Vector:
    """The largest mean signed score of each test that is no reason for an alarm, [tests, 1]."""
    tolerance, bias = settings.brier_tolerance_frac, settings.bias_tolerance
    drift = held_out.paired + tolerance * held_out.brier
    harder = held_out.brier_base_rate * (1.0 + tolerance)
    return np.array([[drift], [0.0], [bias], [bias], [bias], [bias], [harder]])


def _signed(part: Vector) -> Vector:
    signed: Vector = part[_SCORE] * _SIGN[:, None]  # [tests, bars]
    return signed
