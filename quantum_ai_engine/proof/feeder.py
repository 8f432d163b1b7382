"""Bars into the stream in small steps of random size, as far as they are wanted."""

import asyncio
import contextlib
import random

from quantum_ai_engine.daemon.client import Client, Unreachable
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.producer import Producer, Step, WentBack
from quantum_ai_engine.market.table import BarTable

SOURCE = "proof"
MOST_ROWS = 12  # of one step, when it is not said otherwise
PAUSE_S = 0.002


class Feeder:
    """Feeds the first `upto` bars of a table by the project's producer; `want` raises it.

    Where it stands is asked of Redis before each step, so that it also goes on rightly when Redis
    came back without the last of what it had acknowledged. `fed` is the last answer. A step has
    at most `most_rows` bars.
    """

    def __init__(self, client: Client, keys: Keys, table: BarTable, chance: random.Random) -> None:
        self.upto = 0
        self.fed = 0
        self.most_rows = MOST_ROWS
        self._producer = Producer(client, keys, SOURCE, None)
        self._table = table
        self._chance = chance

    @property
    def is_done(self) -> bool:
        return self.fed >= self.upto

    def want(self, upto: int) -> None:
        """Feed so many bars of the table, if there are."""
        self.upto = max(self.upto, min(upto, len(self._table)))

    async def run(self) -> None:
        """Feed until cancelled."""
        while True:
            with contextlib.suppress(*Unreachable, WentBack):
                self.fed = await self._producer.position()
                if not self.is_done:
                    self.fed = await self._producer.send(self._step(), self.fed)
            await asyncio.sleep(self._chance.uniform(0.0, PAUSE_S))

    def _step(self) -> Step:
        end = min(self.upto, self.fed + self._chance.randint(1, self.most_rows))
        return Step(self._table, self.fed, end, int(self._table.open_time[end - 1]))
