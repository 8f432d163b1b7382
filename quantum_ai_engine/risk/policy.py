"""The adaptive policy (APRL): how much may be held, by how equity has fared."""

import math
from enum import StrEnum

import msgspec

from quantum_ai_engine.config import PolicySettings
from quantum_ai_engine.events import Policy
from quantum_ai_engine.risk.track import SavedTrack, Track


class Mode(StrEnum):
    """How much is allowed, from the strictest to the laxest."""

    DEFENSIVE = "DEFENSIVE"
    NORMAL = "NORMAL"
    AGGRESSIVE = "AGGRESSIVE"


_MODES = tuple(Mode)


class Source(StrEnum):
    """Whose equity is judged: that of execution, or that of the paper portfolio."""

    PAPER = "paper"
    REPORTED = "reported"


class Cause(StrEnum):
    """Why a mode is what it is, or why it changed."""

    START = "start"
    DRAWDOWN = "drawdown"
    VOLATILITY = "volatility"
    EQUITY_STALE = "equity_stale"
    FEW_SAMPLES = "few_samples"
    UNPROVEN = "unproven"
    DWELL = "dwell"
    RECOVERED = "recovered"
    PROVEN = "proven"


class PolicyState(msgspec.Struct, frozen=True):
    """What the policy allows: caps are those of the mode, always.

    `exposure_cap` bounds |target| of a symbol, `leverage` the gross exposure. `cause` tells why the
    mode was entered at `since_ms`, `reasons` what keeps it from being laxer now. `drawdown_frac` is
    from the high-water mark and `unrecovered_frac`, which is judged, from the recovery mark;
    `volatility_frac` is per period of the settings. `pnl_low_frac` and `pnl_high_frac` are bounds
    of the mean net profit and loss per block, None before the first.
    """

    mode: Mode
    exposure_cap: float
    leverage: float
    cause: tuple[Cause, ...]
    reasons: tuple[Cause, ...]
    source: Source
    since_ms: int
    drawdown_frac: float
    unrecovered_frac: float
    volatility_frac: float
    pnl_low_frac: float | None
    pnl_high_frac: float | None


class SavedPolicy(msgspec.Struct, frozen=True, array_like=True):
    """All that the policy remembers; times are −1 where there is none."""

    mode: Mode
    cause: tuple[Cause, ...]
    source: Source
    is_stale: bool
    since_ms: int
    at_ms: int
    reviewed_ms: int
    ready_ms: int
    heard_ms: int
    track: SavedTrack


class Aprl:
    """Adaptive policy: stricter at once, laxer one step at a time and only when that is earned.

    Equity is that of the paper portfolio until execution reports its own; from then on only
    reports count, and when they stop the mode is DEFENSIVE. It begins in NORMAL: a paper portfolio
    without a trade can lose nothing, and the first loss counts in full. `docs/policy.md` has the
    table of modes and thresholds.

    >>> policy = Aprl(PolicySettings())
    >>> policy.update(60_000, 0.94)
    >>> state = policy.get()
    >>> str(state.mode), state.exposure_cap, [str(cause) for cause in state.cause]
    ('DEFENSIVE', 0.5, ['drawdown', 'volatility'])
    """

    def __init__(self, settings: PolicySettings) -> None:
        self._settings = settings
        self._mode, self._source = Mode.NORMAL, Source.PAPER
        self._cause: tuple[Cause, ...] = (Cause.START,)
        self._is_stale = False
        self._since_ms = 0
        self._at_ms = self._reviewed_ms = self._ready_ms = self._heard_ms = -1
        self._track = Track(settings, 1.0)

    def update(self, at_ms: int, paper_equity: float) -> None:
        """Take a moment, later than the last, and the equity of the paper portfolio then."""
        _check_equity(paper_equity)
        if at_ms <= self._at_ms:
            raise ValueError(f"the moment {at_ms} is not after the one before, {self._at_ms}")
        self._at_ms = at_ms
        if self._source is Source.PAPER:
            self._take(at_ms, paper_equity)
        else:
            # A report dated ahead of the bars is as old as the moment that first saw it.
            self._heard_ms = min(self._heard_ms, at_ms)
            self._is_stale = at_ms - self._heard_ms > self._settings.equity_stale_ms
        self._fall()
        self._rise()

    def report(self, time_ms: int, equity: float) -> None:
        """Take equity, net of deposits, from execution; in any unit.

        A report that is not later than the last one is ignored: it says nothing new.
        """
        _check_equity(equity)
        if time_ms < 0:
            raise ValueError(f"the time {time_ms} of a report is below 0")
        if self._source is Source.PAPER:
            self._source = Source.REPORTED
            self._track = Track(self._settings, equity)
        elif time_ms <= self._track.time_ms:
            return
        self._heard_ms = time_ms
        self._take(time_ms, equity)
        self._fall()

    @property
    def heard_ms(self) -> int | None:
        """When the last report was of, or first seen if it was dated ahead; None without one."""
        return self._heard_ms if self._source is Source.REPORTED else None

    @property
    def allowed(self) -> Policy:
        """What holds from now on, without the reasons."""
        settings = self._settings
        caps, leverages = (
            (settings.defensive_cap, settings.normal_cap, settings.aggressive_cap),
            (settings.defensive_leverage, settings.normal_leverage, settings.aggressive_leverage),
        )
        at = _MODES.index(self._mode)
        return Policy(self._mode.value, caps[at], leverages[at], self._source.value)

    @property
    def drawdown_frac(self) -> float:
        """Below the high-water mark."""
        return self._track.drawdown_frac

    @property
    def cause(self) -> tuple[Cause, ...]:
        """Why the mode was entered."""
        return self._cause

    def get(self) -> PolicyState:
        """What holds from now on."""
        allowed = self.allowed
        low, high = self._track.evidence.get() or (None, None)
        return PolicyState(
            mode=self._mode,
            exposure_cap=allowed.exposure_cap,
            leverage=allowed.leverage,
            cause=self._cause,
            reasons=self._reasons(),
            source=self._source,
            since_ms=self._since_ms,
            drawdown_frac=self._track.drawdown_frac,
            unrecovered_frac=self._track.unrecovered_frac,
            volatility_frac=self._track.volatility_frac,
            pnl_low_frac=low,
            pnl_high_frac=high,
        )

    def saved(self) -> SavedPolicy:
        """All of it, for `restore`."""
        return SavedPolicy(
            mode=self._mode,
            cause=self._cause,
            source=self._source,
            is_stale=self._is_stale,
            since_ms=self._since_ms,
            at_ms=self._at_ms,
            reviewed_ms=self._reviewed_ms,
            ready_ms=self._ready_ms,
            heard_ms=self._heard_ms,
            track=self._track.saved(),
        )

    def restore(self, saved: SavedPolicy) -> None:
        """Go on from what was `saved`."""
        self._mode, self._cause, self._source = saved.mode, saved.cause, saved.source
        self._is_stale, self._since_ms, self._at_ms = saved.is_stale, saved.since_ms, saved.at_ms
        self._reviewed_ms, self._ready_ms = saved.reviewed_ms, saved.ready_ms
        self._heard_ms = saved.heard_ms
        self._track.restore(saved.track)

    def _take(self, time_ms: int, equity: float) -> None:
        self._track.update(time_ms, equity, recovers=self._mode is Mode.DEFENSIVE)

    def _fall(self) -> None:
        """Become stricter at once, where that has to be."""
        if bad := self._bad():
            if self._mode is not Mode.DEFENSIVE:
                self._track.forget_evidence()
                self._enter(Mode.DEFENSIVE, bad)
        elif self._mode is Mode.AGGRESSIVE and (lost := self._unearned(1.0)):
            self._enter(Mode.NORMAL, lost)

    def _rise(self) -> None:
        """Become laxer by one step at a review, when all that it takes has held for the dwell."""
        is_review = self._is_review()
        if is_review:
            self._reviewed_ms = self._at_ms
        if self._mode is Mode.AGGRESSIVE or self._missing():
            self._ready_ms = -1
            return
        if self._ready_ms < 0:
            self._ready_ms = self._at_ms
        if is_review and self._at_ms - self._ready_ms >= self._settings.dwell_ms:
            is_defensive = self._mode is Mode.DEFENSIVE
            mode = Mode.NORMAL if is_defensive else Mode.AGGRESSIVE
            self._enter(mode, (Cause.RECOVERED if is_defensive else Cause.PROVEN,))

    def _is_review(self) -> bool:
        is_first = self._reviewed_ms < 0
        return is_first or self._at_ms - self._reviewed_ms >= self._settings.review_ms

    def _enter(self, mode: Mode, cause: tuple[Cause, ...]) -> None:
        self._mode, self._cause = mode, cause
        self._since_ms, self._ready_ms = max(self._at_ms, 0), -1

    def _reasons(self) -> tuple[Cause, ...]:
        if self._mode is Mode.AGGRESSIVE:
            return (Cause.PROVEN,)
        return self._bad() or self._missing() or (Cause.DWELL,)

    def _bad(self) -> tuple[Cause, ...]:
        """What makes the mode DEFENSIVE."""
        limits = self._settings
        return _those(
            (Cause.EQUITY_STALE, self._is_stale),
            (Cause.DRAWDOWN, self._track.unrecovered_frac >= limits.drawdown_frac),
            (Cause.VOLATILITY, self._track.volatility_frac >= limits.volatility_frac),
        )

    def _missing(self) -> tuple[Cause, ...]:
        """What the next laxer mode would take; nothing bad is assumed."""
        few = _those((Cause.FEW_SAMPLES, self._track.samples < self._settings.min_samples))
        if self._mode is Mode.DEFENSIVE:
            return few + self._beyond(1.0)
        return few + self._unearned(self._settings.aggressive_entry)

    def _unearned(self, share: float) -> tuple[Cause, ...]:
        """What forbids AGGRESSIVE at a share of its limits."""
        evidence, settings = self._track.evidence, self._settings
        is_proven = evidence.count >= settings.min_blocks
        is_proven = is_proven and evidence.low(settings.error_rate * share) > 0.0
        return self._beyond(share) + _those((Cause.UNPROVEN, not is_proven))

    def _beyond(self, share: float) -> tuple[Cause, ...]:
        """Which measures lie above a share of what leaves DEFENSIVE."""
        limits = self._settings
        return _those(
            (Cause.DRAWDOWN, self._track.unrecovered_frac > limits.drawdown_leave_frac * share),
            (Cause.VOLATILITY, self._track.volatility_frac > limits.volatility_leave_frac * share),
        )


def _those(*causes: tuple[Cause, bool]) -> tuple[Cause, ...]:
    return tuple([cause for cause, holds in causes if holds])


def _check_equity(equity: float) -> None:
    if not math.isfinite(equity):
        raise ValueError(f"equity must be a finite number, and {equity} is not")
