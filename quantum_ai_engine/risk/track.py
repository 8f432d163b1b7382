"""What the policy remembers of equity: its marks, its volatility and the evidence of a profit."""

import msgspec

from quantum_ai_engine.config import PolicySettings
from quantum_ai_engine.risk.confidence import ConfidenceSequence, SavedConfidence
from quantum_ai_engine.risk.volatility import SavedVolatility, Volatility


class Marks(msgspec.Struct, frozen=True, array_like=True):
    """Equity after a sample, and what it is compared with.

    `peak` is the high-water mark, which never falls. `recovery` is what drawdown is judged by: it
    rises with equity, and comes down to it while the policy recovers. A block of profit and loss
    began at `block_ms` with `block_equity`; times are −1 before the first sample.
    """

    equity: float
    peak: float
    recovery: float
    block_equity: float
    time_ms: int = -1
    block_ms: int = -1
    samples: int = 0


class SavedTrack(msgspec.Struct, frozen=True, array_like=True):
    """All that a track remembers."""

    marks: Marks
    volatility: SavedVolatility
    evidence: SavedConfidence


class Track:
    """Equity of one source over time, judged in any unit; it begins at `equity`.

    Until much is known, volatility is assumed to be midway between the two thresholds, where it
    neither makes a mode stricter nor lets it become laxer.
    """

    def __init__(self, settings: PolicySettings, equity: float) -> None:
        self._settings = settings
        equity = max(equity, 0.0)
        self._marks = Marks(equity, equity, equity, equity)
        self._volatility = Volatility(
            settings.volatility_period_ms,
            settings.volatility_halflife_ms,
            (settings.volatility_frac + settings.volatility_leave_frac) / 2.0,
        )
        self._evidence = self._no_evidence()

    @property
    def time_ms(self) -> int:
        """Of the last sample."""
        return self._marks.time_ms

    @property
    def samples(self) -> int:
        """How often equity was told."""
        return self._marks.samples

    @property
    def drawdown_frac(self) -> float:
        """Below the high-water mark."""
        return _below(self._marks.equity, self._marks.peak)

    @property
    def unrecovered_frac(self) -> float:
        """Below the recovery mark."""
        return _below(self._marks.equity, self._marks.recovery)

    @property
    def volatility_frac(self) -> float:
        """Per period of the settings."""
        return self._volatility.get()

    @property
    def evidence(self) -> ConfidenceSequence:
        """The mean net profit and loss per block."""
        return self._evidence

    def update(self, time_ms: int, equity: float, *, recovers: bool) -> None:
        """Take equity, a finite number, at a later time; at or below 0 nothing is left.

        While the policy `recovers`, half of what the recovery mark lies above the equity before
        is forgiven per half-life.
        """
        was, equity = self._marks, max(equity, 0.0)
        elapsed_ms = time_ms - was.time_ms if was.samples else 1
        recovery = was.recovery
        if recovers:
            kept = 0.5 ** (elapsed_ms / self._settings.recovery_halflife_ms)
            recovery = was.equity + (recovery - was.equity) * kept
        self._volatility.update(elapsed_ms, _growth(was.equity, equity))
        self._marks = Marks(
            equity,
            max(was.peak, equity),
            max(recovery, equity),
            was.block_equity,
            time_ms,
            was.block_ms if was.samples else time_ms,
            was.samples + 1,
        )
        self._close_block()

    def forget_evidence(self) -> None:
        """A profit has to be shown anew, from the next block on."""
        self._evidence = self._no_evidence()
        self._begin_block()

    def saved(self) -> SavedTrack:
        """All of it, for `restore`."""
        return SavedTrack(self._marks, self._volatility.saved(), self._evidence.saved())

    def restore(self, saved: SavedTrack) -> None:
        """Go on from what was `saved`."""
        self._marks = saved.marks
        self._volatility.restore(saved.volatility)
        self._evidence.restore(saved.evidence)

    def _close_block(self) -> None:
        marks = self._marks
        if marks.time_ms - marks.block_ms < self._settings.block_ms:
            return
        pnl_frac = _growth(marks.block_equity, marks.equity)
        if pnl_frac < -self._settings.block_bound_frac:
            # Counted at the bound it would look smaller than it was: it ends the evidence instead.
            self._evidence = self._no_evidence()
        else:
            self._evidence.update(pnl_frac)
        self._begin_block()

    def _begin_block(self) -> None:
        marks = self._marks
        self._marks = msgspec.structs.replace(
            marks, block_ms=marks.time_ms, block_equity=marks.equity
        )

    def _no_evidence(self) -> ConfidenceSequence:
        return ConfidenceSequence(self._settings.block_bound_frac, self._settings.error_rate)


def _below(equity: float, mark: float) -> float:
    """Drawdown from a mark; all of it where nothing is left."""
    return 1.0 - equity / mark if equity > 0.0 else 1.0


def _growth(before: float, after: float) -> float:
    """After over before, less 1; more than a doubling counts as one, in any unit of money."""
    if before > 0.0:
        return min(after / before - 1.0, 1.0)
    return 1.0 if after > 0.0 else 0.0
