"""What a person acts on, out of a round: changed stances, and that entries were refused."""

from collections.abc import Sequence

import structlog

from quantum_ai_engine.daemon.commit import DeadLetter, cut_text
from quantum_ai_engine.events import Change, Signal, Stance
from quantum_ai_engine.supervisor.shift import Comparison

log = structlog.get_logger()

CALM = {"ACTIVE", "NORMAL", "AGGRESSIVE", "ok", "warmup", "believed"}  # what needs nobody


class Journal:
    """Logs each change once; remembers the last stance of every series."""

    def __init__(self) -> None:
        self._stances: dict[tuple[str, str], Stance] = {}

    def tell(
        self,
        signals: Sequence[Signal],
        dead: Sequence[DeadLetter],
        changes: Sequence[Change] = (),
        shifts: Sequence[tuple[str, Comparison]] = (),
    ) -> None:
        """Log what a committed round changed."""
        for change in changes:
            _tell_change(change)
        for agent, comparison in shifts:
            _tell_shift(agent, comparison)
        for signal in signals:
            series = (signal.symbol, signal.interval)
            if self._stances.get(series, Stance.FLAT) is not signal.stance:
                log.info(
                    f"{signal.symbol} is now {signal.stance}",
                    event_name="stance_changed",
                    symbol=signal.symbol,
                    interval=signal.interval,
                    stance=signal.stance.value,
                    probability=round(signal.probability, 4),
                    target=round(signal.target, 4),
                    signal_id=signal.id,
                )
            self._stances[series] = signal.stance
        if dead:
            log.warning(
                f"{len(dead)} entries of the bar stream were refused",
                event_name="refused",
                count=len(dead),
                reason=dead[0].refused.reason.value,
                detail=cut_text(dead[0].refused.detail),
            )


def _tell_change(change: Change) -> None:
    """One line: a warning, unless things became as they should be."""
    subject = change.subject or change.room
    say = log.info if change.after in CALM else log.warning
    say(
        f"{subject} is now {change.after}, it was {change.before}",
        event_name=f"{change.room}_changed",
        subject=change.subject,
        before=change.before,
        after=change.after,
        reasons="; ".join(change.reasons),
        at_ms=change.at_ms,
    )


def _tell_shift(agent: str, comparison: Comparison) -> None:
    """One line when features move from their training, and one when they are back."""
    ratio, rows, at_ms = round(comparison.ratio, 3), comparison.rows, comparison.at_ms
    if not comparison.is_shift:
        log.info(
            f"Features of {agent} are again as in their training",
            event_name="feature_shift_over",
            agent=agent,
            ratio=ratio,
            rows=rows,
            at_ms=at_ms,
        )
        return
    columns = [one.column for one in comparison.worst if one.psi > one.threshold]
    log.warning(
        f"Features of {agent} have moved from their training, most of all {', '.join(columns)}",
        event_name="feature_shift",
        agent=agent,
        columns=columns,
        ratio=ratio,
        rows=rows,
        at_ms=at_ms,
    )
