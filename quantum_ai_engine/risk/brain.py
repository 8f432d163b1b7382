"""The risk brain: ACTIVE, REDUCING or HALTED, from breakers and from what a person commands."""

import math
from enum import StrEnum

import msgspec

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.risk.breakers import Breaker, BreakerName, BreakerState, SavedBreaker

_NAMES = tuple(BreakerName)
_DAY_MS, _HOUR_MS = 86_400_000, 3_600_000


class State(StrEnum):
    """What targets may do: anything within the caps, only shrink, or be flat."""

    ACTIVE = "ACTIVE"
    REDUCING = "REDUCING"
    HALTED = "HALTED"


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What the brain looks at in one moment; None: there is no such figure now.

    `drawdown` is 1 − equity / highest equity; `equity` is in any unit, that of its `source`;
    `equity_age_ms` is how old it is by the bars' time. Shares and weights are fractions.
    """

    drawdown: float | None = None
    equity: float | None = None
    source: str = ""
    equity_age_ms: float | None = None
    volatility_ratio: float | None = None
    stale_share: float | None = None
    base_share: float | None = None
    effective_agents: float | None = None
    failed_share: float | None = None
    harder_share: float | None = None
    quarantined_share: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"figure {name} is {value}, not a finite number")


class RiskVerdict(msgspec.Struct, frozen=True, array_like=True):
    """The state, which breakers are open or hold the halt, why, and since when the state holds.

    `since_ms` is 0 where it never changed.
    Two verdicts differ exactly where something changed that a person would want to be told.
    """

    state: State
    breakers: tuple[str, ...]
    reasons: tuple[str, ...]
    since_ms: int


class SavedDay(msgspec.Struct, frozen=True, array_like=True):
    """Which day it is, the equity with which it began, and the newest one with its source."""

    day: int
    opening: float | None
    newest: float | None
    source: str


class SavedBrain(msgspec.Struct, frozen=True, array_like=True):
    """All that the brain remembers."""

    breakers: tuple[SavedBreaker, ...]
    day: SavedDay
    halted_by: tuple[tuple[BreakerName, str], ...]
    manual: str
    manual_ms: int
    state: State
    since_ms: int


class DailyLoss:
    """What was lost since the day began, a fraction of the equity with which it began.

    A day is of the bars' time and begins at an hour UTC, with the last equity before it; where
    the source of the equity changes in a day, with the first one of the new source.

    >>> loss = DailyLoss(starts_hour=0)
    >>> for at_ms, equity in ((0, 100.0), (60_000, 98.0)):
    ...     loss.update(at_ms, equity, "paper")
    >>> round(loss.get(), 4)
    0.02
    """

    def __init__(self, starts_hour: int) -> None:
        self._starts_ms = starts_hour * _HOUR_MS
        self._saved = SavedDay(-1, None, None, "")

    def update(self, at_ms: int, equity: float | None, source: str) -> None:
        """Take the equity of a moment, if there is one."""
        if equity is not None and not math.isfinite(equity):
            raise ValueError(f"equity is {equity}, not a finite number")
        was, day = self._saved, (at_ms - self._starts_ms) // _DAY_MS
        opening = was.newest if day != was.day else was.opening
        newest, known_source = was.newest, was.source
        if equity is not None:
            if opening is None or source != was.source:
                opening = equity
            newest, known_source = equity, source
        self._saved = SavedDay(day, opening, newest, known_source)

    def get(self) -> float | None:
        opening, newest = self._saved.opening, self._saved.newest
        if opening is None or newest is None:
            return None
        if opening <= 0.0:
            return 1.0  # there was nothing left to lose
        return min(max(1.0 - newest / opening, 0.0), 1.0)

    def saved(self) -> SavedDay:
        return self._saved

    def restore(self, saved: SavedDay) -> None:
        """Go on from what was `saved`."""
        self._saved = saved


class RiskBrain:
    """What all targets may do now, by the breakers and the commands of a person.

    A breaker that reduces makes it REDUCING until it has closed by itself. One that halts makes it
    HALTED, also after it has closed, until a person resumes: re-arming is by a person. `resume`
    ends `halt` and `reduce`, too, and acknowledges the breakers that halted: each opens again when
    its figure gets worse (`Breaker.acknowledge`).

    >>> brain = RiskBrain(RiskSettings())
    >>> calm = Figures(drawdown=0.0, equity=1.0, equity_age_ms=0.0)
    >>> brain.update(60_000, calm)
    >>> str(brain.get().state)
    'ACTIVE'
    >>> brain.update(120_000, msgspec.structs.replace(calm, drawdown=0.12))
    >>> brain.update(86_400_000, calm)
    >>> brain.get().state, brain.get().breakers
    (<State.HALTED: 'HALTED'>, ('drawdown',))
    >>> brain.command("resume", 90_000_000)
    >>> str(brain.get().state)
    'ACTIVE'
    """

    def __init__(self, settings: RiskSettings) -> None:
        limits = settings.breaker_limits()
        self._severity: dict[BreakerName, str] = {
            BreakerName(name): one.severity for name, one in limits.items() if one.severity != "off"
        }
        self._breakers = {name: Breaker(name, limits[name]) for name in self._severity}
        self._daily_loss = DailyLoss(settings.day_starts_hour)
        self._halted_by: dict[BreakerName, str] = {}
        self._manual = ""
        self._manual_ms = 0
        self._state = State.ACTIVE
        self._since_ms = 0

    def update(self, at_ms: int, figures: Figures) -> None:
        """Take the figures of a moment; moments are in ms of the bars' time, ascending."""
        self._daily_loss.update(at_ms, figures.equity, figures.source)
        values = _values(figures, self._daily_loss.get())
        for name, breaker in self._breakers.items():
            breaker.update(at_ms, values[name])
            if breaker.is_open and self._severity[name] == "halt":
                self._halted_by.setdefault(name, breaker.reason)
        self._settle(at_ms)

    def command(self, kind: str, at_ms: int) -> None:
        """Let a person's `halt`, `reduce` or `resume` take effect, at a time of the bars."""
        if kind not in ("halt", "reduce", "resume"):
            raise ValueError(f"{kind!r} is not halt, reduce or resume")
        if kind == "resume":
            for name in self._halted_by:
                if name in self._breakers:
                    self._breakers[name].acknowledge(at_ms)
            self._halted_by, self._manual, self._manual_ms = {}, "", at_ms
        elif self._manual not in ("halt", kind):
            self._manual, self._manual_ms = str(kind), at_ms
        self._settle(at_ms)

    def get(self) -> RiskVerdict:
        manual = {BreakerName.MANUAL: f"manual: a person's {self._manual}"} if self._manual else {}
        reasons = manual | self._halted_by
        for name, breaker in self._breakers.items():
            if breaker.is_open and name not in self._halted_by:
                reasons[name] = breaker.reason
        if not reasons:  # as nearly always
            return RiskVerdict(self._state, (), (), self._since_ms)
        names = [name for name in _NAMES if name in reasons]
        why = tuple([reasons[name] for name in names])
        return RiskVerdict(self._state, tuple([name.value for name in names]), why, self._since_ms)

    def breakers(self) -> tuple[BreakerState, ...]:
        """Every breaker as it is, `manual` first."""
        manual = BreakerState(BreakerName.MANUAL, bool(self._manual), None, self._manual_ms)
        return manual, *(breaker.get() for breaker in self._breakers.values())

    def saved(self) -> SavedBrain:
        return SavedBrain(
            tuple(breaker.saved() for breaker in self._breakers.values()),
            self._daily_loss.saved(),
            tuple(self._halted_by.items()),
            self._manual,
            self._manual_ms,
            self._state,
            self._since_ms,
        )

    def restore(self, saved: SavedBrain) -> None:
        """Go on from what was `saved`, also where a breaker has been switched off or on since."""
        for one in saved.breakers:
            if one.name in self._breakers:
                self._breakers[one.name].restore(one)
        self._daily_loss.restore(saved.day)
        self._halted_by = dict(saved.halted_by)
        self._manual, self._manual_ms = saved.manual, saved.manual_ms
        self._state, self._since_ms = saved.state, saved.since_ms

    def _settle(self, at_ms: int) -> None:
        """Find the state; its time moves only when it changes."""
        state = State.ACTIVE
        if self._halted_by or self._manual == "halt":
            state = State.HALTED
        elif self._manual or any(b.is_open for b in self._breakers.values()):
            state = State.REDUCING
        if state is not self._state:
            self._state, self._since_ms = state, at_ms


def _values(figures: Figures, daily_loss: float | None) -> dict[BreakerName, float | None]:
    """What each breaker watches."""
    trust = figures.base_share
    if figures.effective_agents is not None and figures.effective_agents < 1.0:
        trust = 1.0  # as if the base-rate forecast had all the weight
    return {
        BreakerName.DRAWDOWN: figures.drawdown,
        BreakerName.DAILY_LOSS: daily_loss,
        BreakerName.VOLATILITY_RATIO: figures.volatility_ratio,
        BreakerName.STALE_FEED: figures.stale_share,
        BreakerName.TRUST_COLLAPSED: trust,
        BreakerName.INFERENCE_ERRORS: figures.failed_share,
        BreakerName.PNL_STALE: figures.equity_age_ms,
        BreakerName.HARDER_MARKET: figures.harder_share,
        BreakerName.DATA_QUALITY: figures.quarantined_share,
    }
