"""Records in memory, and replays of them."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.config import Loaded, Settings
from quantum_ai_engine.events import Bar, Signal
from quantum_ai_engine.replay.history import Selection, Wanted, WarmUp, select
from quantum_ai_engine.replay.run import Replay
from quantum_ai_engine.replay.source import Rows
from quantum_ai_engine.replay.step import Step


@dataclass
class Record:
    """A source of bars, in parts of so many."""

    bars: Sequence[Bar]
    part: int = 1_000
    name: str = "the record"
    symbols: tuple[str, ...] = ()

    def parts(self) -> Iterator[Rows]:
        for i in range(0, len(self.bars), self.part):
            some = self.bars[i : i + self.part]
            yield Rows(
                np.array([bar.symbol for bar in some], dtype=np.object_),
                [bar.interval for bar in some],
                np.array([bar.open_time for bar in some]),
                np.array([bar.ohlcv for bar in some]),
                [bar.revision for bar in some],
            )


NO_WARM_UP = WarmUp(0, 0)


def selection(bars: Sequence[Bar], warm_up: WarmUp = NO_WARM_UP, **wanted: Any) -> Selection:
    return select(Record(bars), Wanted(**wanted), {}, warm_up)


def replay_of(settings: Settings, agents: Sequence[Agent], workers: int = 1) -> Replay:
    return Replay(Loaded(settings, {}), agents, "0.1.0+test", workers)


def steps_of(replay: Replay, history: Any) -> list[Step]:
    async def gather() -> list[Step]:
        return [step async for step in replay.steps(history)]

    return asyncio.run(gather())


def wire(signals: Sequence[Signal]) -> list[bytes]:
    """As published, but for which settings they are of."""
    return [msgspec.json.encode(msgspec.structs.replace(one, config_hash="")) for one in signals]
