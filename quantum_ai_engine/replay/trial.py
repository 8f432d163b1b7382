"""One trial of a sweep: a replay of some bars by some agents and settings, and what it came to."""

import asyncio
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

import msgspec

from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.config import Loaded, bundle_dir
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.replay.account import Account
from quantum_ai_engine.replay.audit import ENSEMBLE, Audit, Voter
from quantum_ai_engine.replay.clock import Clock
from quantum_ai_engine.replay.history import Wanted, select
from quantum_ai_engine.replay.money import Purse
from quantum_ai_engine.replay.peers import BuyAndHold
from quantum_ai_engine.replay.run import Replay
from quantum_ai_engine.replay.source import FileSource
from quantum_ai_engine.replay.streams import Moments

_NORMAL = NormalDist()


class Trial(NamedTuple):
    """What is replayed: settings (their `agents.bundles` too), a file, and which of its bars.

    Without `symbols` all of the file are.
    """

    loaded: Loaded
    data: Path
    symbols: tuple[str, ...]
    interval: str | None
    wanted: Wanted
    engine_name: str


class Figures(msgspec.Struct, frozen=True):
    """What a trial came to; fractions, but for ratios, counts and p-values.

    `skill_p` is the chance that an ensemble without skill scores as well against the base rate on
    these bars, by the error that knows that outcomes overlap; None where nothing was scored.
    """

    bars: int = 0
    signals: int = 0
    fills: int = 0
    total_return: float = 0.0
    sharpe: float = 0.0
    sharpe_per_bar: float = 0.0
    max_drawdown: float = 0.0
    turnover: float = 0.0
    costs_frac: float = 0.0
    hold_return: float | None = None
    brier: float | None = None
    paired: float | None = None
    paired_stderr: float | None = None
    skill_p: float | None = None


class Outcome(NamedTuple):
    """The figures of a trial, and the moments of its returns of a bar."""

    figures: Figures
    moments: Moments


def run_trial(trial: Trial) -> Outcome:
    """Replay it; the same wherever and whenever that is done."""
    return asyncio.run(_run(trial))


async def _run(trial: Trial) -> Outcome:
    settings = trial.loaded.settings
    venues, families = settings.sessions.by_symbol(), settings.risk.families()
    agents = load_agents(bundle_dir(settings), settings.agents.order, venues)
    replay = Replay(trial.loaded, agents, trial.engine_name)
    source = FileSource(trial.data, trial.symbols, trial.interval)
    history = select(source, trial.wanted, venues, replay.warm_up)
    voters = [Voter(agent.name, agent.bundle, agent.past.base_rate) for agent in agents]
    account = Account(settings.replay, families)
    clock = Clock(any(symbol in venues for symbol in history.symbols))
    purse = Purse(account, clock, lambda *_: None)
    hold = BuyAndHold(settings.replay.fee_bps + settings.replay.slippage_bps, families)
    audit = Audit(voters, agents[0].horizon_bars, settings.risk, Calendars(venues))
    bars = signals = 0
    async for step in replay.steps(history):
        bars, signals = bars + len(step.bars), signals + len(step.told.signals)
        audit.take(step)
        account.take(step)
        mark = account.get()
        if mark is not None:
            clock.update(mark.open_time_ms, step.bars[0].interval_ms)
            hold.update(step.bars)
            purse.update(mark, 0, hold.index)
    account.check()
    return Outcome(_figures(purse, audit, hold, (bars, signals)), purse.moments)


def _figures(purse: Purse, audit: Audit, hold: BuyAndHold, counts: tuple[int, int]) -> Figures:
    worth = purse.worth()
    sources = [one for one in audit.get().sources if one.name == ENSEMBLE and one.count]
    scored = sources[0] if sources else None
    has_error = scored is not None and scored.paired_stderr > 0.0
    return Figures(
        *counts,
        fills=worth.fills,
        total_return=worth.total_return,
        sharpe=worth.sharpe,
        sharpe_per_bar=worth.sharpe_per_bar,
        max_drawdown=worth.max_drawdown,
        turnover=worth.turnover,
        costs_frac=worth.costs_frac,
        hold_return=hold.index - 1.0 if counts[0] else None,
        brier=scored.brier if scored else None,
        paired=scored.paired if scored else None,
        paired_stderr=scored.paired_stderr if scored else None,
        skill_p=_NORMAL.cdf(scored.paired / scored.paired_stderr)
        if scored is not None and has_error
        else None,
    )
