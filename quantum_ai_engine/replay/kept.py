"""What a replay keeps while it runs, so that one that was interrupted goes on where it was."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from quantum_ai_engine.events import Abstention, Bar, Change, Signal
from quantum_ai_engine.replay.signals import SignalFile, join, signals_in
from quantum_ai_engine.replay.split import round_of
from quantum_ai_engine.replay.step import Step

KEPT_VERSION = 1
_STATE = "state.msgpack"


class Tally(msgspec.Struct):
    """What came of a replay, counted: bars that count, those that warmed up, and all others."""

    bars: int = 0
    warmed: int = 0
    duplicates: int = 0
    stances: dict[str, int] = {}
    refused: dict[str, int] = {}
    silent: dict[str, int] = {}

    def update(self, steps: Sequence[Step]) -> None:
        """Count what was said of bars."""
        for step in steps:
            self.bars += len(step.bars)
            add(self.silent, step.told.silent)
            for signal in step.told.signals:
                add(self.stances, {signal.stance.value: 1})


class Saved(msgspec.Struct, frozen=True):
    """Where a replay was: parts written, rows of the record read, and the engine's snapshot.

    `fingerprint` says of which replay: another one does not go on here.
    """

    version: int
    fingerprint: str
    parts: int
    rows: int
    tally: Tally
    snapshot: list[bytes]


class _Told(msgspec.Struct, frozen=True, array_like=True):
    """A step, but for its signals, of which it has the next so many."""

    bars: tuple[Bar, ...]
    signals: int
    changes: tuple[Change, ...]
    counts: tuple[int, int, int, int, int]
    silent: dict[str, int]
    unheard: tuple[Abstention, ...]


class Kept:
    """A directory with finished parts of a replay, and the state of the engine after the last.

    A part counts once the state says so; what lies there beyond it is written again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._told = list[_Told]()
        self._file: SignalFile | None = None
        self.parts = 0

    def find(self, fingerprint: str) -> Saved | None:
        """Where that replay was, if it was interrupted."""
        try:
            saved = msgspec.msgpack.decode((self._directory / _STATE).read_bytes(), type=Saved)
        except (OSError, msgspec.DecodeError):
            return None
        if (saved.version, saved.fingerprint) != (KEPT_VERSION, fingerprint):
            return None
        self.parts = saved.parts
        return saved

    def begin(self) -> None:
        """Have an empty directory."""
        self.remove()
        self._directory.mkdir(parents=True)

    def steps(self) -> Iterator[Step]:
        """The steps of all finished parts, as they were taken."""
        for part in range(self.parts):
            told = msgspec.msgpack.decode(self._steps_of(part).read_bytes(), type=list[_Told])
            signals = signals_in(self._signals_of(part))
            for one in told:
                yield _step(one, [next(signals) for _ in range(one.signals)])

    def add(self, steps: Sequence[Step]) -> None:
        """Take the next steps of the part that is being written."""
        if self._file is None:
            self._file = SignalFile(self._signals_of(self.parts))
        for step in steps:
            self._told.append(_told(step))
            self._file.add(step.told.signals)

    def finish_part(self) -> None:
        """Close the part; it counts with the next `save`."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        self._steps_of(self.parts).write_bytes(msgspec.msgpack.encode(self._told))
        self._told = []
        self.parts += 1

    def save(self, saved: Saved) -> None:
        """From now on a replay goes on here."""
        temporary = self._directory / f"{_STATE}.part"
        temporary.write_bytes(msgspec.msgpack.encode(saved))
        temporary.replace(self._directory / _STATE)

    def join(self, path: Path) -> None:
        """Make one file of the signals of all parts, whole or not at all."""
        temporary = path.with_name(f".{path.name}.part")
        try:
            join([self._signals_of(part) for part in range(self.parts)], temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget everything."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def close(self) -> None:
        """Leave what is not finished; it is written again by whoever goes on."""
        if self._file is not None:
            self._file.close()

    def _signals_of(self, part: int) -> Path:
        return self._directory / f"signals-{part:05}.parquet"

    def _steps_of(self, part: int) -> Path:
        return self._directory / f"steps-{part:05}.msgpack"


def add(held: dict[str, int], counts: Mapping[str, int]) -> None:
    """Add counts to others of the same names."""
    for name, count in counts.items():
        held[name] = held.get(name, 0) + count


def _told(step: Step) -> _Told:
    told = step.told
    counts = (told.late, told.revised, told.gaps, told.filled, told.again)
    return _Told(
        step.bars,
        len(told.signals),
        tuple(told.changes),
        counts,
        dict(told.silent),
        tuple(told.unheard),
    )


def _step(one: _Told, signals: list[Signal]) -> Step:
    told = round_of(one.bars)
    told.signals, told.changes = signals, list(one.changes)
    told.late, told.revised, told.gaps, told.filled, told.again = one.counts
    told.silent.update(one.silent)
    told.unheard += one.unheard
    return Step(one.bars, told)
