"""Red flags: what in a result should be explained before it is believed, in words."""

from collections.abc import Iterator, Mapping, Sequence

from quantum_ai_engine.replay.account import Account
from quantum_ai_engine.replay.audit import ENSEMBLE, Audited
from quantum_ai_engine.replay.gates import Passage
from quantum_ai_engine.replay.money import Block, Money
from quantum_ai_engine.replay.words import day, duration, percent

ONE_SIDED_FRAC = 0.90
BLOCK_FRAC = 0.05
LEAST_TRADES = 30
LEAST_YEARS = 0.25
SHARPE_TOO_GOOD = 5.0


def flags(
    money: Money, audit: Audited, passage: Passage, blocks: Sequence[Block], account: Account
) -> tuple[str, ...]:
    """The flags of a run, the worst first; none where nothing is suspect."""
    return (
        *_of_account(money, account),
        *_of_signals(passage),
        *_of_blocks(blocks),
        *_of_figures(money),
        *_of_agents(audit),
    )


def trained_on(trained_to_ms: Mapping[str, int], first_ms: int, last_ms: int) -> tuple[str, ...]:
    """Which agents knew some of these bars, or of any time after their beginning.

    >>> trained_on({"gru": 500}, 0, 1000)
    ('gru was trained on bars up to 1970-01-01 00:00: 50 % of this replay is no test of it.',)
    """
    return tuple(
        f"{name} was trained on bars up to {day(to_ms)}: "
        f"{100.0 * min(1.0, (to_ms - first_ms) / max(last_ms - first_ms, 1)):.0f} % of this replay "
        "is no test of it."
        for name, to_ms in sorted(trained_to_ms.items())
        if to_ms > first_ms
    )


def _of_account(money: Money, account: Account) -> Iterator[str]:
    worth = money.worth
    if worth.ruined_ms is not None:
        owed = f"; {worth.written_off:,.0f} was owed beyond it" if worth.written_off else ""
        yield f"The account was ruined at {day(worth.ruined_ms)}: nothing was left{owed}."
    if worth.cut:
        yield f"{worth.cut:,} fills were cut, since they would have gone beyond the leverage."
    never = sorted(line.instrument for line in account.lines if not line.price and line.order)
    if never:
        yield f"Targets of {', '.join(never)} were never filled: there are no bars of them."


def _of_signals(passage: Passage) -> Iterator[str]:
    sides = passage.sides
    if not passage.signals:
        yield "There is not one signal: the result says nothing."
    elif not sides.long + sides.short:
        yield f"All neutral: all {passage.signals:,} signals are flat, so that nothing was tested."
    elif sides.one_sided_frac > ONE_SIDED_FRAC:
        side = "long" if sides.long > sides.short else "short"
        yield (
            f"One-sided: {100.0 * sides.one_sided_frac:.0f} % of all signals with a side are "
            f"{side}; the result is that of the market, times the exposure."
        )


def _of_blocks(blocks: Sequence[Block]) -> Iterator[str]:
    beyond = [block for block in blocks if abs(block.total_return) > BLOCK_FRAC]
    if beyond:
        most = max(beyond, key=lambda block: abs(block.total_return))
        yield (
            f"{len(beyond):,} of {len(blocks):,} blocks returned more than ±{100 * BLOCK_FRAC:.0f} "
            f"%, the furthest {percent(most.total_return)} from {day(most.first_ms)} on: look for "
            "an error in the bars."
        )


def _of_figures(money: Money) -> Iterator[str]:
    worth = money.worth
    if worth.trades < LEAST_TRADES:
        yield (
            f"Only {worth.trades} trades ended: with fewer than {LEAST_TRADES} the result is an "
            "anecdote."
        )
    if worth.years < LEAST_YEARS:
        yield (
            f"The record is {duration(worth.years)} of trading: figures of a year are extrapolated "
            "from it."
        )
    if worth.sharpe > SHARPE_TOO_GOOD:
        yield f"A Sharpe ratio of {worth.sharpe:.1f} is too good to be true: look for a leak."
    if worth.total_return < 0.0 <= worth.total_return + worth.costs_frac:
        yield "Costs took more than the signals gained."


def _of_agents(audit: Audited) -> Iterator[str]:
    agents = [name for name in audit.unheard if name != ENSEMBLE]
    if not agents and all(one.name == ENSEMBLE for one in audit.sources):
        yield "There is not one agent: nobody's opinion was tested."
    if agents:
        yield f"Never scored: {', '.join(agents)}; the result is that of the others."
    settled, void = audit.settled, sum(audit.void.values())
    if void > settled:
        yield f"More predictions are void ({void:,}) than settled ({settled:,})."
