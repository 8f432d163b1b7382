"""Commands of an operator: what becomes of the entries of the control stream."""

from collections.abc import Sequence

import structlog

from quantum_ai_engine.daemon.commit import Controls, DeadLetter, order_of
from quantum_ai_engine.daemon.decode import decode_command
from quantum_ai_engine.daemon.feed import Entry
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.events import Control, Refused

log = structlog.get_logger()


def obey(
    engine: Engine, entries: Sequence[Entry], known: Controls, position: str, saved: str
) -> tuple[Controls, list[DeadLetter]]:
    """Let commands take effect at a position of the bar stream, before the bars after it.

    What is known then, without what a snapshot at `saved` holds already, and letters of those that
    were refused.
    """
    applied, letters = [*known.applied], []
    for source, fields in entries:
        try:
            command = decode_command(fields)
        except Refused as refused:
            letters.append(DeadLetter(refused, source, fields))
            continue
        engine.state.apply(command)
        applied.append(Control(position, command, source.decode()))
        log.warning(
            f"Told to {command}",
            event_name="command",
            command=command.value,
            source=source.decode(),
            position=position,
        )
    followed = entries[-1][0].decode() if entries else known.position
    # The last one is needed even so: a snapshot may be refused.
    late = [c for c in applied[:-1] if order_of(c.at) >= order_of(saved)]
    needed = (*late, *applied[-1:])
    return Controls(followed, needed), letters
