"""What becomes of the entries of the control stream and of the equity stream."""

from collections.abc import Sequence
from typing import NamedTuple

import structlog

from quantum_ai_engine.daemon.commit import Controls, DeadLetter, order_of
from quantum_ai_engine.daemon.decode import decode_command, decode_equity
from quantum_ai_engine.daemon.feed import time_ms
from quantum_ai_engine.daemon.killswitch import KillSwitch
from quantum_ai_engine.daemon.pages import Entry
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.events import Change, Command, Control, Equity, Reason, Refused

log = structlog.get_logger()


class Obeyed(NamedTuple):
    """What is known of the commands then, what changed by them, and letters of the refused."""

    controls: Controls
    changes: list[Change]
    letters: list[DeadLetter]


def obey(
    engine: Engine,
    entries: Sequence[Entry],
    known: Controls,
    position: str,
    saved: str,
    killswitch: KillSwitch,
) -> Obeyed:
    """Let commands take effect at a position of the bar stream, before the bars after it.

    What a snapshot at `saved` holds already need not be known any more, but for what would hold if
    that were refused: the commands since the last `resume`.
    """
    applied, changes, letters = [*known.applied], list[Change](), list[DeadLetter]()
    for source, fields in entries:
        try:
            command = decode_command(fields)
            if command is Command.RESUME and killswitch.is_on:
                raise Refused(Reason.HALT_FILE, f"remove {killswitch.file} first")
        except Refused as refused:
            letters.append(DeadLetter(refused, source, fields))
            continue
        changes += engine.state.apply(command)
        applied.append(Control(position, command, source.decode()))
        log.warning(
            f"Told to {command}",
            event_name="command",
            command=command.value,
            source=source.decode(),
            position=position,
        )
    followed = entries[-1][0].decode() if entries else known.position
    late = [one for one in applied if order_of(one.at) >= order_of(saved)]
    needed = tuple(one for one in applied if one in late or one in _in_force(applied))
    return Obeyed(Controls(followed, needed), changes, letters)


def _in_force(applied: Sequence[Control]) -> list[Control]:
    """The last `resume`, and the first of each other command after it."""
    resumed = [i for i, one in enumerate(applied) if one.command is Command.RESUME]
    since = applied[resumed[-1] if resumed else 0 :]
    return list({one.command: one for one in reversed(since)}.values())


def hear(
    engine: Engine, entries: Sequence[Entry], tolerance_ms: int
) -> tuple[list[Equity], list[DeadLetter]]:
    """Let the engine know what execution reports, and letters of what was refused.

    A report of the future, by the clock of Redis, is refused: it would make all later ones old.
    """
    heard, letters = list[Equity](), list[DeadLetter]()
    for source, fields in entries:
        try:
            equity = decode_equity(fields)
            if equity.time_ms > time_ms(source.decode()) + tolerance_ms:
                raise Refused(Reason.FUTURE_TIME, f"time {equity.time_ms} is still to come")
            heard.append(equity)
        except Refused as refused:
            letters.append(DeadLetter(refused, source, fields))
    for equity in heard:
        engine.state.judgement.report(equity)
    return heard, letters
