"""The page of a backtest: red flags first, then what it was worth, and why."""

from collections.abc import Iterator

from quantum_ai_engine.replay.audit import ENSEMBLE, Grouped, Scored
from quantum_ai_engine.replay.gates import Sides
from quantum_ai_engine.replay.luck import CONFIDENCE, Interval
from quantum_ai_engine.replay.report import charts
from quantum_ai_engine.replay.report.summary import Report, Z
from quantum_ai_engine.replay.words import (
    NONE,
    day,
    duration,
    number,
    part,
    percent,
    percent_or_none,
    plain,
    share,
    signed,
)
from quantum_ai_engine.report import page

MOST_ROWS = 60  # of a table by symbol: the others are in report.json
NOT_THIS = (
    "What this is not: a promise, nor what an account would have earned. Each fill is at the open "
    "of a bar, whole, at a slippage that is always the same; nobody else reacted to it, no venue "
    "was down, nothing came late, and what happened inside a bar was not seen. What was tried "
    "before and not reported, and agents that were trained on these bars, make any backtest better "
    "than the future."
)


def page_of(report: Report) -> str:
    """The whole document; every number in it is one of report.json."""
    return page.page(f"Backtest: {report.about.data}", _parts(report))


def _parts(r: Report) -> Iterator[str]:
    yield page.header(f"Backtest: {r.about.data}", _subtitle(r))
    if r.flags:
        count = "1 red flag" if len(r.flags) == 1 else f"{len(r.flags)} red flags"
        yield page.warnings(count, r.flags)
    yield page.verdict(*_verdict(r))
    yield page.paragraph(NOT_THIS)
    yield page.heading("Money")
    yield page.table(["", "value", ""], _money_rows(r))
    yield page.figures(charts.of_money(r))
    yield page.heading("Against doing without the engine")
    yield page.table(["", "return", "Sharpe ratio", "max drawdown"], _peer_rows(r), _chance(r))
    yield page.table(["", "low", "high", "share above 0"], _luck_rows(r), _luck_words(r))
    yield page.heading("Probabilities")
    yield page.figures(charts.of_audit(r))
    yield page.table(_SCORE_HEAD, map(_score_row, reversed(r.audit.sources)), _audit_words(r))
    yield page.table(_SIDE_HEAD, map(_side_row, reversed(r.audit.sources)), _side_words())
    yield from _calibration(r)
    yield from _groups(r)
    yield page.heading("From bar to target")
    yield page.table(["", "signals", "share", ""], _gate_rows(r), _gate_words(r))
    yield page.table(["signals", "long", "flat", "short"], _sides_rows(r))
    yield page.heading("By instrument")
    yield page.table(_LINE_HEAD, _line_rows(r), _more(len(r.money.lines)))
    yield page.heading("What was replayed")
    yield page.facts(_facts(r))


def _subtitle(r: Report) -> str:
    symbols = ", ".join(r.about.symbols[:8]) + (" …" if len(r.about.symbols) > 8 else "")
    return (
        f"{symbols} · {r.span.interval} · {day(r.span.first_ms)} to {day(r.span.last_ms)} UTC · "
        f"{r.span.bars:,} bars · agents: {', '.join(r.about.agents) or 'none'}"
    )


def _verdict(r: Report) -> tuple[str, ...]:
    w, hold, deflated = r.money.worth, r.money.hold, r.money.deflated
    head = f"{percent(w.total_return, 2)} after costs in {duration(w.years)}"
    money = (
        f"Costs took {100.0 * w.costs_frac:.2f} % of the capital; buying and holding everything "
        f"returned {percent(hold.total_return, 2)}. The largest drawdown was "
        f"{100.0 * w.max_drawdown:.2f} %, the Sharpe ratio {number(w.sharpe)}."
    )
    if deflated.probability is None:
        luck = "Whether that is luck cannot be told: the equity did not move."
    else:
        runs = "the only run" if deflated.trials == 1 else f"one of {deflated.trials} runs"
        luck = (
            f"That there is more to it than luck has a probability of {deflated.probability:.3f} "
            f"(deflated Sharpe ratio; {runs} that runs.jsonl knows)."
        )
    return head, money, luck, _skill_words(r)


def _skill_words(r: Report) -> str:
    ensemble = _ensemble(r)
    if ensemble is None:
        return "No forecast has an outcome, so that nothing is known of its skill."
    edge, error = -ensemble.paired, ensemble.paired_stderr
    told = f"The ensemble's Brier score is {abs(edge):.5f} ± {error:.5f}"
    if abs(edge) <= Z * error:
        return f"{told} from that of the base rate: no skill is shown, nor its absence."
    side = "below" if edge > 0.0 else "above"
    sense = "it knew something" if edge > 0.0 else "the base rate alone was better"
    return f"{told} {side} that of the base rate, more than two standard errors: {sense}."


def _money_rows(r: Report) -> Iterator[tuple[str, str, str]]:
    w, blocks = r.money.worth, r.money.blocks
    yield "Total return", percent(w.total_return, 2), f"{w.capital:,.0f} became {w.equity:,.2f}"
    yield "CAGR", percent_or_none(w.cagr), f"{duration(w.years)} of trading"
    yield (
        "Volatility a year",
        f"{100.0 * w.volatility:.2f} %",
        f"{w.bars_per_year:,.0f} bars a year",
    )
    yield "Sharpe ratio", number(w.sharpe), f"of {w.bars:,} bars, no interest deducted"
    yield "Sortino ratio", number(w.sortino), "against losses alone"
    yield "Largest drawdown", f"{100.0 * w.max_drawdown:.2f} %", f"on {day(w.max_drawdown_ms)}"
    yield "Calmar ratio", number(w.calmar), "CAGR / largest drawdown"
    yield "Turnover a year", f"{w.turnover_per_year:,.1f} ×", f"{w.turnover:,.1f} × equity in all"
    yield "Exposure, gross", f"{w.gross_mean:.3f} ×", f"in the mean; at most {w.gross_max:.3f} ×"
    yield "Exposure, net", f"{w.net_mean:+.3f} ×".replace("-", "−"), "in the mean"
    yield "Time in the market", f"{100.0 * w.in_market_frac:.1f} %", "of all bars"
    yield "Fees and slippage", f"{w.costs:,.2f}", f"{100.0 * w.costs_frac:.2f} % with interest"
    yield "Interest", f"{w.borrowed:,.2f}", "on shorts and on borrowed cash"
    wins = NONE if w.win_frac is None else f"{100.0 * w.win_frac:.1f} % won"
    yield "Trades", f"{w.trades:,}", f"{wins}; {w.fills:,} fills"
    if blocks is not None:
        yield "RPB, return per block", percent(blocks.rpb, 3), f"mean of {blocks.count:,} blocks"
        yield "MRB", percent(blocks.mrb, 3), "compounded return / blocks"
        won = f"{100.0 * blocks.positive_frac:.1f} % above 0"
        yield "Block Sharpe ratio", number(blocks.sharpe), f"annualised; {won}"
        yield "Best and worst block", percent(blocks.best, 2), percent(blocks.worst, 2)


def _peer_rows(r: Report) -> Iterator[tuple[str, ...]]:
    w, hold, chance = r.money.worth, r.money.hold, r.money.chance
    yield "this account", percent(w.total_return, 2), number(w.sharpe), share(w.max_drawdown)
    sharpe = hold.sharpe_per_bar * w.bars_per_year**0.5
    yield "buy and hold", percent(hold.total_return, 2), number(sharpe), share(hold.max_drawdown)
    yield "always flat", percent(r.money.flat_return, 2), NONE, share(0.0)
    if chance is not None:
        spread = f"{percent(chance.low, 2)} to {percent(chance.high, 2)}"
        yield "random sides, mean", percent(chance.mean_return, 2), NONE, NONE
        yield f"random sides, {100.0 * CONFIDENCE:.0f} %", spread, NONE, NONE


def _chance(r: Report) -> str:
    chance = r.money.chance
    if chance is None:
        return "Nothing was traded, so that there is nothing to compare with."
    return (
        f"{chance.draws:,} accounts held the same positions at the same costs, each of "
        f"{chance.trades:,} trades long or short by a coin: this one returned more than "
        f"{100.0 * chance.percentile:.1f} % of them, and had a higher Sharpe ratio than "
        f"{100.0 * chance.sharpe_percentile:.1f} %. Only a percentile beyond 95 is evidence."
    )


def _luck_rows(r: Report) -> Iterator[tuple[str, ...]]:
    found = r.money.bootstrap
    if found is not None:
        yield _interval("total return", found.total_return, is_share=True)
        yield _interval("Sharpe ratio", found.sharpe, is_share=False)
        yield _interval("largest drawdown", found.max_drawdown, is_share=True)


def _interval(name: str, one: Interval, *, is_share: bool) -> tuple[str, ...]:
    low, high = (
        (percent(one.low, 2), percent(one.high, 2))
        if is_share
        else (number(one.low), number(one.high))
    )
    return name, low, high, share(one.above_zero)


def _luck_words(r: Report) -> str:
    found, deflated = r.money.bootstrap, r.money.deflated
    if found is None:
        return "Too little was traded for intervals."
    part_of = f"{100.0 * CONFIDENCE:.0f} %"
    words = (
        f"Where {part_of} of {found.draws:,} histories lie that are put together of pieces of this "
        f"one, {found.block_periods:.0f} of {found.periods:,} periods long in the mean (stationary "
        "bootstrap, Politis and Romano 1994)."
    )
    if deflated.probability is None or deflated.alone is None:
        return words
    words += f" The Sharpe ratio is above 0 with a probability of {deflated.alone:.3f}"
    if deflated.trials > 1:
        words += (
            f", and above what the best of {deflated.trials} runs without skill would show, with "
            f"one of {deflated.probability:.3f}"
        )
    return f"{words} (Bailey and López de Prado 2014)."


_SCORE_HEAD = [
    "",
    "outcomes",
    "Brier",
    "base rate's",
    "paired ± error",
    "skill",
    "AUC",
    "bias ± error",
]


def _score_row(s: Scored) -> tuple[str, ...]:
    return (
        s.name,
        f"{s.count:,}",
        f"{s.brier:.5f}",
        f"{s.brier_base_rate:.5f}",
        f"{signed(s.paired, 5)} ± {s.paired_stderr:.5f}",
        percent(s.skill_frac, 2),
        NONE if s.auc is None else f"{s.auc:.4f}",
        f"{signed(s.bias, 4)} ± {s.bias_stderr:.4f}",
    )


def _audit_words(r: Report) -> str:
    a = r.audit
    rose = NONE if a.rose_frac is None else f"{100.0 * a.rose_frac:.2f} %"
    void = ", ".join(f"{count:,} {reason}" for reason, count in a.void.items()) or "none"
    silent = f" Never scored: {', '.join(a.unheard)}." if a.unheard else ""
    return (
        f"Each prediction is matched with the bar {a.horizon_bars} intervals later, by symbol and "
        f"time: {a.settled:,} were settled, of which {rose} rose; void: {void}; {a.pending:,} had "
        f"no outcome yet at the end. The base rate forecast {a.base_rate:.4f}, as in training; a "
        f"paired score below 0 is skill, its error knows that outcomes overlap.{silent}"
    )


_SIDE_HEAD = ["", "long", "flat", "short", "strong", "strong and right", "calibration error"]


def _side_row(s: Scored) -> tuple[str, ...]:
    hit = NONE if s.strong_hit_frac is None else share(s.strong_hit_frac)
    sides = (share(part) for part in (s.long_frac, s.flat_frac, s.short_frac))
    return s.name, *sides, f"{s.strong:,}", hit, f"{s.calibration_error:.4f}"


def _side_words() -> str:
    return (
        "Shares of forecasts by the thresholds alone; strong ones are beyond a threshold by "
        "risk.strong_margin."
    )


def _calibration(r: Report) -> Iterator[str]:
    ensemble = _ensemble(r)
    if ensemble is None:
        return
    rows = (
        (
            f"{b.low:.1f} to {b.high:.1f}",
            f"{b.count:,}",
            f"{b.mean_probability:.4f}",
            f"{b.rose:.4f}",
        )
        for b in ensemble.calibration
    )
    yield page.table(
        ["forecast", "outcomes", "mean forecast", "rose"], rows, "Calibration of the ensemble."
    )


def _groups(r: Report) -> Iterator[str]:
    for title, found, words in (
        ("symbol", r.audit.by_symbol, ""),
        ("hour of the close, UTC", r.audit.by_hour, ""),
        (
            "volatility",
            r.audit.by_regime,
            "The tercile of the symbol's own volatility up to then: calm, usual or wild.",
        ),
    ):
        own = [one for one in found if one.source == ENSEMBLE]
        head = [title, "outcomes", "Brier", "paired", "bias"]
        caption = " ".join(filter(None, ("Of the ensemble.", words, _more(len(own)))))
        yield page.table(head, map(_group_row, own[:MOST_ROWS]), caption)


def _group_row(one: Grouped) -> tuple[str, ...]:
    return (
        one.group,
        f"{one.count:,}",
        f"{one.brier:.5f}",
        signed(one.paired, 5),
        signed(one.bias, 4),
    )


def _gate_rows(r: Report) -> Iterator[tuple[str, ...]]:
    p = r.passage
    for name, count in p.stopped.items():
        yield f"stopped: {plain(name)}", f"{count:,}", part(count, p.signals), "target 0"
    yield "passed", f"{p.passed:,}", part(p.passed, p.signals), "a target other than 0"
    for name, count in p.limited.items():
        yield (
            f"limited: {plain(name)}",
            f"{count:,}",
            part(count, p.signals),
            "held at this limit",
        )
    for name, count in p.breakers.items():
        yield f"breaker open: {plain(name)}", f"{count:,}", part(count, p.signals), ""
    for name, count in p.states.items():
        yield f"state {name}", f"{count:,}", part(count, p.signals), ""
    for name, count in p.modes.items():
        yield f"mode {name}", f"{count:,}", part(count, p.signals), ""


def _gate_words(r: Report) -> str:
    p = r.passage
    silent = ", ".join(f"{count:,} {plain(reason)}" for reason, count in p.silent.items())
    return (
        f"{p.bars:,} bars gave {p.signals:,} signals, {p.amended:,} of which amended an "
        f"earlier one. Bars without a signal: {silent or 'none'}. A signal is stopped by the "
        "first gate that makes its target 0."
    )


def _sides_rows(r: Report) -> Iterator[tuple[str, ...]]:
    yield _sides_row("all", r.passage.sides)
    for symbol, sides in list(r.passage.sides_by_symbol.items())[:MOST_ROWS]:
        yield _sides_row(symbol, sides)


def _sides_row(name: str, sides: Sides) -> tuple[str, ...]:
    counts = (sides.long, sides.flat, sides.short)
    return name, *(f"{count:,} ({part(count, sides.total)})" for count in counts)


_LINE_HEAD = ["", "gain before costs", "costs", "turnover", "fills", "trades", "won", "held"]


def _line_rows(r: Report) -> Iterator[tuple[str, ...]]:
    for one in r.money.lines[:MOST_ROWS]:
        yield (
            one.instrument,
            signed(one.pnl, 2),
            f"{one.cost:,.2f}",
            f"{one.turnover:,.1f} ×",
            f"{one.fills:,}",
            f"{one.trades:,}",
            NONE if one.win_frac is None else share(one.win_frac),
            NONE if one.hold_return is None else percent(one.hold_return, 2),
        )


def _more(rows: int) -> str:
    return f"{rows - MOST_ROWS:,} more are in report.json." if rows > MOST_ROWS else ""


def _facts(r: Report) -> Iterator[tuple[str, str]]:
    about = r.about
    yield "Engine", about.engine
    yield "Settings (hash)", about.config_hash
    yield "Bars", about.data
    for name in about.agents:
        through = about.trained_to_ms.get(name)
        yield f"Agent {name}", f"trained through {day(through)} UTC" if through else "as it is"
    for key, value in r.account.items():
        yield f"replay.{key}", str(value)
    worth = r.money.worth
    yield "Late bars, not traded", f"{worth.late:,}"
    yield "Signals of instruments held in another's place", f"{worth.ignored:,}"
    yield "Books are off by", f"{worth.imbalance:.2e} of {worth.equity:,.2f}"


def _ensemble(r: Report) -> Scored | None:
    return next((one for one in r.audit.sources if one.name == ENSEMBLE), None)
