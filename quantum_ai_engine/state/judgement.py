"""Judging agents and money by what is final, moment by moment, and ruling on what follows."""

import contextlib
import math
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.config import RiskSettings, Settings
from quantum_ai_engine.events import Bar, Change, Command, Equity, Prediction, Risk
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.risk.allotment import Allotment, allot, group_rows
from quantum_ai_engine.risk.brain import Figures, RiskBrain, SavedBrain
from quantum_ai_engine.risk.brain import State as RiskState
from quantum_ai_engine.risk.policy import Aprl
from quantum_ai_engine.risk.portfolio import Mark, PaperPortfolio, SavedPortfolio
from quantum_ai_engine.state.changes import Stand, believed, ruled, spread, stood, together
from quantum_ai_engine.state.finality import Moment
from quantum_ai_engine.state.judged import Judged
from quantum_ai_engine.state.kept import SavedJudgement, SavedPlaces, padded, taken
from quantum_ai_engine.state.record import Record
from quantum_ai_engine.state.ruling import Ruling, SavedRuling
from quantum_ai_engine.state.told import Told
from quantum_ai_engine.state.volatility import Volatilities
from quantum_ai_engine.supervisor.ledger import PredictionLedger, Settled
from quantum_ai_engine.supervisor.quality import Quality
from quantum_ai_engine.supervisor.scores import Scores
from quantum_ai_engine.supervisor.standing import (
    DETECTED,
    Check,
    SavedStanding,
    Standing,
    State,
    common_cause,
)
from quantum_ai_engine.supervisor.trust import Expert, Shares, Trust

UNINFORMED = 0.5  # the base rate where no agent knows one
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Judgement:
    """Everything that is judged by settled predictions and by equity, and the rulings on it.

    It moves in moments alone, by what is final then, so that the order in which bars came decides
    nothing. A ruling holds for bars that close from its moment on: one that comes late is decided
    upon by the ruling of its own time.
    """

    def __init__(
        self,
        judged: Sequence[Judged],
        horizon_bars: int,
        settings: Settings,
        calendars: Calendars,
    ) -> None:
        names = [one.known.id for one in judged]
        self.agents = tuple(names)
        self.ledger = PredictionLedger(
            [one.known for one in judged], horizon_bars, closed_hours(calendars)
        )
        self.scores = Scores(names)
        self.trust = Trust([Expert(*one.known.id, one.prior) for one in judged], settings.trust)
        streams = max(1, len(judged) * len(DETECTED))
        self._judged, self._horizon_bars, self._streams = tuple(judged), horizon_bars, streams
        self._settings = settings
        self.standings = [self._standing(one) for one in judged]
        self.quality = Quality(settings.quality)
        self.portfolio = PaperPortfolio(settings.policy.cost_bps)
        self.policy = Aprl(settings.policy)
        self.brain = RiskBrain(settings.risk)
        self.told = Told()
        self.volatility = Volatilities()
        self._common: Check | None = None  # in which alarms of agents have a cause in common
        self._reported: Equity | None = None
        self._allotted = b"", allot(np.zeros(0), (), settings.risk)
        self._groups: tuple[bytes, tuple[NDArray[np.int64], ...]] = b"", ()
        self._risk = settings.risk  # with the gross cap that the policy allowed last
        self._untested: dict[tuple[str, str], SavedStanding] = {}
        self._calendars = calendars
        self._base_rates = np.array([one.base_rate for one in judged])
        self._base = float(np.mean(self._base_rates)) if judged else UNINFORMED
        self._symbols: list[str] = []
        self.rulings: deque[Ruling] = deque([self._ruling(0, self._late(0))])

    def reserve(self, symbols: Sequence[str]) -> None:
        """Make room for the series of these symbols, in the order of their places."""
        self._symbols = list(symbols)
        for room in (self.ledger, self.scores, self.quality, self.told, self.volatility):
            room.reserve(len(symbols))

    def note(self, series: int, record: Record, valid_until: int) -> None:
        """Take what was predicted of a bar, and said."""
        self.ledger.note(series, record.prediction)
        if record.said is not None:
            self.told.note(series, record.said, valid_until)

    def report(self, equity: Equity) -> None:
        """Take what execution reports; it counts from the next moment on."""
        self.policy.report(equity.time_ms, equity.equity)
        if self._reported is None or equity.time_ms > self._reported.time_ms:
            self._reported = equity

    def command(self, command: Command, at_ms: int) -> list[Change]:
        """Let an operator's command take effect for all bars from here on, not only final ones."""
        before = self.rulings[-1]
        self.brain.command(command.value, at_ms)
        now = self.brain.get()
        risk = Risk(now.state.value, now.breakers, now.reasons)
        # A bar that comes late is halted like any other.
        self.rulings = deque(replace(ruling, risk=risk) for ruling in self.rulings)
        return list(ruled(before, self.rulings[-1], self.policy.cause, at_ms))

    def ruling(self, close_time: int) -> Ruling:
        """What holds for a bar that closes then."""
        for ruling in reversed(self.rulings):
            if ruling.at_ms <= close_time:
                return ruling
        return self.rulings[0]

    def settle(self, moment: Moment, memory: int) -> list[Change]:
        """Judge by the bars of a moment; bars may be asked about up to `memory` intervals later."""
        before, stands = self.rulings[-1], self._stands
        marks = [
            Mark(series, bar.open, bar.close, self.told.order(series, bar))
            for series, bar in moment.bars
        ]
        predicted = [self.ledger.of(series, bar.close_time) for series, bar in moment.bars]
        self._learn(moment.at_ms, self.ledger.settle(moment.bars))
        self._see(moment, predicted)
        self.portfolio.update(moment.at_ms, marks)
        self.policy.update(moment.at_ms, self.portfolio.equity)
        everybody = np.ones(len(self.agents), dtype=bool)
        shares, is_late = self.trust.shares(everybody, self._barred()), self._late(moment.at_ms)
        figures = self._figures(moment.at_ms, _failed_share(predicted), shares, is_late)
        self.brain.update(moment.at_ms, figures)
        ruling = self._ruling(moment.at_ms, is_late)
        ruling.remember(shares)
        self.rulings.append(ruling)
        self._forget_rulings(moment, memory)
        changes = list(ruled(before, ruling, self.policy.cause, moment.at_ms))
        changes += believed(before, ruling, self._symbols, self.quality, moment.at_ms)
        changes += spread(before, ruling, moment.at_ms)
        if self._stands != stands:
            names = [name for name, _ in self.agents]
            changes += stood(names, stands, self.standings, moment.at_ms)
            changes += self._joined(moment)
        return changes

    def _forget_rulings(self, moment: Moment, memory: int) -> None:
        """Keep the rulings that bars that may still be asked about would need, and the newest."""
        times = [ruling.at_ms for ruling in self.rulings]
        needed = {len(times) - 1}
        for interval_ms in moment.intervals_ms:
            newest = moment.at_ms // interval_ms
            closes = range(newest - memory, newest + 1)
            needed.update([bisect_right(times, close * interval_ms) - 1 for close in closes])
        kept = sorted(place for place in needed if place >= 0)
        if len(kept) < len(times):
            self.rulings = deque([self.rulings[place] for place in kept])

    def _joined(self, moment: Moment) -> Iterator[Change]:
        """Whether the alarms of half of the agents have a cause in common, if that is new."""
        longest_ms = max(bar.interval_ms for _, bar in moment.bars)
        span_ms = self._settings.supervisor.watch_bars * longest_ms
        was, verdicts = self._common, [one.get() for one in self.standings if one is not None]
        self._common = common_cause(verdicts, span_ms)
        return together(was, self._common, moment.at_ms)

    @property
    def _stands(self) -> tuple[Stand, ...]:
        """The state of each agent, and which tests alarm [A]."""
        return tuple(
            [(one.state, one.alarming) if one else (State.WARMUP, ()) for one in self.standings]
        )

    @property
    def states(self) -> tuple[State, ...]:
        """How each agent stands [A]; who cannot be tested stays in warm-up."""
        return tuple([one.state if one else State.WARMUP for one in self.standings])

    def _standing(self, judged: Judged) -> Standing | None:
        if judged.baseline is None:
            return None
        return Standing(
            judged.baseline,
            self._settings.supervisor,
            horizon_bars=self._horizon_bars,
            streams=self._streams,
        )

    def _learn(self, at_ms: int, settled: Settled) -> None:
        """Let outcomes move scores, trust and standings."""
        if not len(settled):
            return
        given, rose = settled.probability, settled.rose
        base = np.full(len(settled), self._base)
        sources = np.concatenate((given, settled.forecast[:, np.newaxis]), axis=1)
        self.scores.update(settled.series, sources.T, base, rose)
        losses = np.concatenate((given, base[:, np.newaxis]), axis=1) - rose[:, np.newaxis]
        self.trust.update(losses * losses, settled.shares())
        slots = sorted(set(settled.slot.tolist()))
        for column, standing in enumerate(self.standings):
            if standing is None:
                continue
            base_rate = float(self._base_rates[column])
            heard = ~np.isnan(given[:, column])
            for slot in slots:
                these = heard if len(slots) == 1 else heard & (settled.slot == slot)
                probability = given[these, column]
                if len(probability):
                    standing.update(at_ms, slot, probability, rose[these], base_rate)

    def _see(self, moment: Moment, predicted: Sequence[Prediction | None]) -> None:
        """Let final bars move what is known of the feeds and of their volatility."""
        series = np.array([series for series, _ in moment.bars], dtype=np.int64)
        bars = np.array([bar.ohlcv for _, bar in moment.bars])
        # Which share of each row lay beyond training; None, where nobody knows, becomes NaN.
        clamped = [one.clamped if one is not None else None for one in predicted]
        self.quality.update(series, bars, np.array(clamped, dtype=np.float64))
        self.volatility.update(series, moment.bars)

    def _figures(
        self, at_ms: int, failed_share: float | None, shares: Shares, is_late: Flags
    ) -> Figures:
        reported, heard_ms = self._reported, self.policy.heard_ms
        squares = math.fsum(share * share for share in shares.trust.tolist())
        harder = [one.is_harder for one in self.standings if one is not None]
        known = self.volatility.known
        feeds = int(np.count_nonzero(known))
        has_outcomes = self.ledger.settled > 0
        ill = int(np.count_nonzero(self.quality.quarantined & known))
        return Figures(
            drawdown=self.policy.drawdown_frac,
            equity=reported.equity if reported else self.portfolio.equity,
            source=self.policy.allowed.equity,
            equity_age_ms=float(at_ms - heard_ms) if heard_ms is not None else 0.0,
            volatility_ratio=self.volatility.ratio(),
            stale_share=self._stale(at_ms, is_late) / feeds if feeds else None,
            base_share=shares.base if has_outcomes else None,
            effective_agents=(1.0 / squares if squares else 0.0) if has_outcomes else None,
            failed_share=failed_share,
            harder_share=sum(harder) / len(harder) if harder else None,
            quarantined_share=ill / feeds if feeds else None,
        )

    @property
    def _patience(self) -> float:
        """How many intervals after its close a final bar is too old to be the newest."""
        return self._settings.ingest.late_bars + 1 + self._settings.engine.stale_intervals

    def _late(self, at_ms: int) -> Flags:
        """Which series have had no final bar for too long, open or closed."""
        return self.volatility.is_late(at_ms, self._patience)

    def _stale(self, at_ms: int, is_late: Flags) -> int:
        """How many of the series should have had a bar by now, but had none for too long."""
        stale, patience = 0, self._patience
        for bar in self.volatility.newest(np.flatnonzero(is_late).tolist()):
            opens = self._calendars.of(bar.symbol).next_open(bar.close_time)
            stale += at_ms > opens + patience * bar.interval_ms
        return stale

    def _barred(self) -> NDArray[np.bool_]:
        return np.array([state is State.QUARANTINED for state in self.states], dtype=bool)

    def _ruling(self, at_ms: int, is_late: Flags) -> Ruling:
        """What follows from everything as it is now."""
        risk, policy = self.brain.get(), self.policy.allowed
        return Ruling(
            at_ms,
            self.trust.frozen(),
            self._barred(),
            policy,
            Risk(risk.state.value, risk.breakers, risk.reasons),
            self._allotment(is_late, policy.leverage),
            self.volatility.annualised(),
            self.quality.quarantined,
        )

    def _allotment(self, is_late: Flags, leverage: float) -> Allotment:
        """Room for each series that has had a final bar; none for the others."""
        known = self.volatility.known
        wanted = np.where(is_late, 0.0, self.told.wanted())
        asked = known.tobytes() + wanted.tobytes() + repr(leverage).encode()
        if asked != self._allotted[0]:
            members = np.flatnonzero(known)
            some = allot(wanted[members], self._grouped(members), self._capped(leverage))
            self._allotted = asked, some.scattered(members, len(known))
        return self._allotted[1]

    def _grouped(self, members: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
        """The rows of each group among these series; figured out when others come to be known."""
        which = members.tobytes()
        if which != self._groups[0]:
            symbols = [self._symbols[i] for i in members.tolist()]
            self._groups = which, group_rows(symbols, self._settings.risk)
        return self._groups[1]

    def _capped(self, leverage: float) -> RiskSettings:
        """The settings with no more gross exposure than the policy allows."""
        gross_cap = min(self._settings.risk.gross_cap, leverage)
        if gross_cap != self._risk.gross_cap:
            self._risk = msgspec.structs.replace(self._settings.risk, gross_cap=gross_cap)
        return self._risk

    def digest(self, at: Sequence[int]) -> bytes:
        """A hash of everything, with the series in this order."""
        whole = (self.saved(), self.saved_places(at), self.saved_rulings(at))
        return blake2b(msgspec.msgpack.encode(whole), digest_size=16).digest()

    def saved(self) -> SavedJudgement:
        """All that belongs to no series, for `restore`."""
        portfolio = self.portfolio.saved()
        return SavedJudgement(
            self.agents,
            self.ledger.settled,
            tuple(sorted(self.ledger.voids.items())),
            self.trust.saved(),
            tuple(
                standing.saved() if standing else self._untested.get(name)
                for name, standing in zip(self.agents, self.standings, strict=True)
            ),
            (portfolio.at_ms, portfolio.equity, portfolio.cash, portfolio.pnl_frac),
            self.policy.saved(),
            self._common,
            self._reported,
            self.brain.saved(),
        )

    def saved_places(self, at: Sequence[int]) -> SavedPlaces:
        """All of some series, for `restore_places`."""
        portfolio = self.portfolio.saved()
        return SavedPlaces(
            tuple(tuple(self.ledger.open(i)) for i in at),
            tuple(self.told.saved(i) for i in at),
            self.scores.saved(at),
            self.quality.saved(at),
            self.volatility.saved(at),
            taken(portfolio.units, at),
            taken(portfolio.prices, at),
        )

    def saved_rulings(self, at: Sequence[int]) -> tuple[SavedRuling, ...]:
        """The rulings, of these series."""
        return tuple(ruling.saved(at) for ruling in self.rulings)

    def restore(self, saved: SavedJudgement) -> None:
        """Go on from what was saved; agents that it lacks begin anew, those gone are dropped."""
        self.ledger.settled, self.ledger.voids = saved.settled, Counter(dict(saved.voids))
        self.trust.restore(saved.trust)
        before = dict(zip(saved.agents, saved.standings, strict=True))
        for column, name in enumerate(self.agents):
            held, standing = before.get(name), self.standings[column]
            if held is not None and standing is None:
                self._untested[name] = held
            elif held is not None:
                fresh = self._standing(self._judged[column])
                assert fresh is not None
                with contextlib.suppress(ValueError):  # of blocks of another length: begun anew
                    fresh.restore(held)
                    self.standings[column] = fresh
        self.policy.restore(saved.policy)
        self._reported, self._common = saved.reported, saved.common
        if not self._is_stricter_than(saved.brain):
            self.brain.restore(saved.brain)
        units, prices = np.zeros(len(self._symbols)), np.zeros(len(self._symbols))
        self._set_portfolio(saved.portfolio, units, prices)

    def restore_places(
        self, at: Sequence[int], names: Sequence[tuple[str, str]], saved: SavedPlaces
    ) -> None:
        """Give the series at these places what was saved of them."""
        for place, one, told in zip(at, saved.open, saved.told, strict=True):
            self.ledger.restore(place, one)
            self.told.restore(place, told)
        self.scores.restore(saved.scores, at)
        self.quality.restore(saved.quality, at)
        self.volatility.restore(at, names, saved.volatility)
        held = self.portfolio.saved()
        units, prices = (padded(part, len(self._symbols)) for part in (held.units, held.prices))
        units[list(at)], prices[list(at)] = np.frombuffer(saved.units), np.frombuffer(saved.prices)
        self._set_portfolio((held.at_ms, held.equity, held.cash, held.pnl_frac), units, prices)

    def restore_rulings(self, saved: Sequence[SavedRuling]) -> None:
        """Take the rulings of a snapshot of all series; of several, one is made anew."""
        rulings = [self._ruling_of(one) for one in saved]
        is_whole = all(len(one.volatility) == len(self._symbols) for one in rulings)
        newest = saved[-1].at_ms if saved else 0
        self.rulings = deque(
            rulings if rulings and is_whole else [self._ruling(newest, self._late(newest))]
        )

    def liquidate(self) -> None:
        """Turn the paper portfolio into cash, at its equity."""
        held = self.portfolio.saved()
        nothing = np.zeros(len(self._symbols))
        self._set_portfolio((held.at_ms, held.equity, held.equity, held.pnl_frac), nothing, nothing)

    def _is_stricter_than(self, saved: SavedBrain) -> bool:
        """Of several partitions that become one, the strictest state holds."""
        order = tuple(RiskState)
        return order.index(self.brain.get().state) > order.index(saved.state)

    def _ruling_of(self, saved: SavedRuling) -> Ruling:
        trust = self.trust.frozen()
        trust.restore(saved.trust)
        before = dict(
            zip(((a.name, a.bundle) for a in saved.trust.agents), saved.barred, strict=True)
        )
        barred = np.array([before.get(name, False) for name in self.agents], dtype=bool)
        return saved.ruling(trust, barred)

    def _set_portfolio(
        self, totals: tuple[int, float, float, float], units: Floats, prices: Floats
    ) -> None:
        """Take these totals, and what is held of each series with its last price."""
        at_ms, equity, cash, pnl_frac = totals
        parts = units.astype("<f8").tobytes(), prices.astype("<f8").tobytes()
        self.portfolio.restore(SavedPortfolio(at_ms, equity, cash, pnl_frac, *parts))


def _failed_share(predicted: Sequence[Prediction | None]) -> float | None:
    """Of the answers that agents owed for some bars, how many failed."""
    known = [one for one in predicted if one is not None]
    failed = sum(one.failed for one in known)
    asked = failed + sum(len(one.votes) for one in known)
    return failed / asked if asked else None


def closed_hours(calendars: Calendars) -> Callable[[Bar, int], bool]:
    """Whether a bar of a series that would open then lies in closed hours."""

    def is_closed(bar: Bar, open_time: int) -> bool:
        end = open_time + bar.interval_ms
        return calendars.of(bar.symbol).missing(open_time, end, bar.interval_ms) == 0

    return is_closed
