"""The backtest: account, audit and report, as one follower of a replay's steps."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.config import Settings, Venue
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.replay.account import Account, Fill, Mark
from quantum_ai_engine.replay.audit import Audit, Voter
from quantum_ai_engine.replay.blocks import Blocks, block_size
from quantum_ai_engine.replay.clock import Clock
from quantum_ai_engine.replay.columns import EQUITY, FILLS, ColumnFile
from quantum_ai_engine.replay.flags import flags, trained_on
from quantum_ai_engine.replay.gates import Gates
from quantum_ai_engine.replay.money import Luck, Purse, money
from quantum_ai_engine.replay.peers import BuyAndHold, RandomSigns
from quantum_ai_engine.replay.report.report import page_of
from quantum_ai_engine.replay.report.summary import (
    REPORT_SCHEMA,
    About,
    Report,
    Span,
    curve,
    rolling,
)
from quantum_ai_engine.replay.runs import Run, note_run, read_runs, run_id, tried_before
from quantum_ai_engine.replay.step import Step
from quantum_ai_engine.replay.tape import Tape
from quantum_ai_engine.report.files import write_whole

REPORT_HTML, REPORT_JSON = "report.html", "report.json"
_FILLS_AT_ONCE = 4_096


class Backtest:
    """Follows a replay to its end and says what its signals were worth, in bounded memory.

    Parameters: `settings`, those of the engine; `agents`, its own; `out`, the directory to write;
    `symbols`, those that are replayed; `block_bars`, open times in a block, None for the usual.
    Fills and equity go to files as they come; `write` makes the report, `discard` leaves nothing.
    """

    def __init__(
        self,
        settings: Settings,
        agents: Sequence[Agent],
        out: Path,
        symbols: Sequence[str],
        block_bars: int | None = None,
    ) -> None:
        venues, families = settings.sessions.by_symbol(), settings.risk.families()
        own = settings.replay
        self._settings, self._out = own, out
        self._voters = [Voter(a.name, a.bundle, a.past.base_rate) for a in agents]
        bars, calendar = block_size(symbols, venues, block_bars)
        self._blocks = Blocks(bars, calendar)
        self._clock = Clock(any(venues.get(symbol, Venue()) != Venue() for symbol in symbols))
        self.account = Account(own, families)
        self._fills = ColumnFile(out / "fills.parquet", FILLS)
        self._equity = ColumnFile(out / "equity.parquet", EQUITY)
        self._purse = Purse(self.account, self._clock, self._write_equity)
        self._hold = BuyAndHold(own.fee_bps + own.slippage_bps, families)
        self._signs = RandomSigns(own.random_draws, own.seed)
        self._horizon = agents[0].horizon_bars if agents else 1
        self._audit = Audit(self._voters, self._horizon, settings.risk, Calendars(venues))
        self._gates = Gates(settings.risk)
        self._tape = Tape()
        self._waiting: list[Fill] = []
        self._is_told = False
        self._steps = self._bars = 0
        self._intervals: dict[str, None] = {}
        self._span_ms = (-1, -1)
        self._money_from_ms: int | None = None

    def take(self, step: Step) -> None:
        """Take the next step: fills at its opens, what it settles, and what was told of it."""
        at_ms = step.open_time_ms
        self._steps += 1
        self._bars += len(step.bars)
        for bar in step.bars:
            if bar.interval not in self._intervals:
                self._intervals[bar.interval] = None
        self._span_ms = (at_ms if self._span_ms[0] < 0 else self._span_ms[0], at_ms)
        self._blocks.update(at_ms)
        self._audit.take(step)
        self._gates.update(step.told, len(step.bars))
        self.account.take(step)
        # Before the first signal there is nothing to be judged: warm-up is not a quiet strategy.
        if self._is_told and (mark := self.account.get()) is not None:
            self._follow(mark, step)
        self._is_told = self._is_told or bool(step.told.signals)

    def get(self, about: About) -> Report:
        """What was found so far. Raises ArithmeticError when the books do not balance."""
        self.account.check()
        runs = read_runs(self._out.parent)
        others = tried_before(runs, self._run_id(about), self._interval)
        luck = Luck(self._settings.bootstrap_draws, self._settings.seed, others)
        purse, audited = self._purse, self._audit.get()
        found = money(self.account, purse, self._hold, self._signs.get(), luck)
        passage, blocks = self._gates.get(), purse.closed_blocks()
        return Report(
            REPORT_SCHEMA,
            about,
            msgspec.to_builtins(self._settings),
            self._span(),
            (
                *trained_on(about.trained_to_ms, *self._span_ms),
                *flags(found, audited, passage, blocks, self.account),
            ),
            found,
            tuple(blocks),
            audited,
            passage,
            curve(purse),
            rolling(self._audit, self._horizon, max(1, len(about.symbols))),
            self._tape.get(),
        )

    def write(self, about: About) -> Report:
        """Write report.html, report.json, fills.parquet and equity.parquet; count the run."""
        report = self.get(about)
        page = page_of(report)
        self._write_fills()
        self._fills.finish()
        self._equity.finish()
        write_whole(self._out / REPORT_JSON, msgspec.json.format(msgspec.json.encode(report)))
        write_whole(self._out / REPORT_HTML, page.encode())
        note_run(self._out.parent, self._run(report))
        return report

    def discard(self) -> None:
        """Leave nothing of files that are not finished."""
        self._fills.discard()
        self._equity.discard()

    @property
    def _interval(self) -> str:
        return ", ".join(self._intervals)

    def _span(self) -> Span:
        counts = self._steps, self._bars, self._money_from_ms
        return Span(self._interval, self._span_ms[0], self._span_ms[1], *counts)

    def _follow(self, mark: Mark, step: Step) -> None:
        if self._money_from_ms is None:
            self._money_from_ms = mark.open_time_ms
        self._clock.update(mark.open_time_ms, step.bars[0].interval_ms)
        self._hold.update(step.bars)
        self._signs.update(mark)
        self._purse.update(mark, self._blocks.get() or 0, self._hold.index)
        self._tape.update(step.bars, mark.fills)
        self._waiting += mark.fills
        if len(self._waiting) >= _FILLS_AT_ONCE:
            self._write_fills()

    def _write_fills(self) -> None:
        fills, self._waiting = self._waiting, []
        names = ("instrument", "open_time_ms", "price", "units", "notional", "cost", "target")
        self._fills.write([[getattr(fill, name) for fill in fills] for name in names])

    def _write_equity(self, times: NDArray[np.int64], rows: NDArray[np.float64]) -> None:
        self._equity.write([times, *rows.T])

    def _run_id(self, about: About) -> str:
        agents = [(voter.name, voter.bundle) for voter in self._voters]
        bars = self._span_ms, self._bars, about.symbols, self._interval
        return run_id(about.config_hash, agents, bars)

    def _run(self, report: Report) -> Run:
        about, worth = report.about, report.money.worth
        return Run(
            self._run_id(about),
            self._out.name,
            about.engine,
            about.config_hash,
            about.agents,
            about.symbols,
            self._interval,
            report.span.first_ms,
            report.span.last_ms,
            report.span.bars,
            worth.total_return,
            worth.sharpe,
            worth.sharpe_per_bar,
        )
