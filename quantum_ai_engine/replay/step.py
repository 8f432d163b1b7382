"""What a replay hands on: bars, and what the engine told of them."""

from dataclasses import dataclass

from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import Bar


@dataclass(frozen=True, slots=True)
class Step:
    """The bars of one open time, in the order in which they were taken, and what came of them.

    Bars that the engine refused or knew already are not among `bars`. `told` holds the signals of
    these bars, the changes of mode and state, and what was counted: of steps that were taken
    together all counts but that of the bars come with the last. Its records and shifts are left
    out. Followers (the account, the audit, the files) take one step after the other, and never see
    a later bar.
    """

    bars: tuple[Bar, ...]
    told: Round

    @property
    def open_time_ms(self) -> int:
        """When all of them opened."""
        return self.bars[0].open_time
