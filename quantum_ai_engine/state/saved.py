"""The parts of a snapshot: each versioned, with a checksum, small enough to be sent alone."""

from hashlib import blake2b
from typing import TypeVar

import msgspec

from quantum_ai_engine.features.store import SavedSeries, SnapshotError
from quantum_ai_engine.risk.positions import Said
from quantum_ai_engine.risk.stance import Level
from quantum_ai_engine.state.kept import SavedJudgement, SavedPlaces
from quantum_ai_engine.state.ruling import SavedRuling

STATE_VERSION = 2
PART_SERIES = 40  # about a megabyte


class Head(msgspec.Struct, frozen=True, array_like=True, tag="head"):
    """The first part: what the snapshot is of, and what belongs to no series."""

    version: int
    venues: tuple[str, ...]
    series: int
    judgement: SavedJudgement
    rulings: tuple[SavedRuling, ...]


class Body(msgspec.Struct, frozen=True, array_like=True, tag="body"):
    """Another part: some series."""

    names: tuple[tuple[str, str], ...]
    positions: tuple[tuple[tuple[Level, float], tuple[Said, ...]], ...]
    features: SavedSeries
    judgement: SavedPlaces


Message = TypeVar("Message", Head, Body)


def encode(message: Head | Body) -> bytes:
    """A part, yet without its checksum."""
    return msgspec.msgpack.encode(message)


def seal(content: bytes) -> bytes:
    """A part, behind its checksum."""
    return blake2b(content, digest_size=16).digest() + content


def decode(part: bytes, kind: type[Message]) -> Message:
    """The part that was encoded and sealed. Raises `SnapshotError`."""
    if blake2b(part[16:], digest_size=16).digest() != part[:16]:
        raise SnapshotError("a part of the snapshot is damaged: its checksum differs")
    try:
        return msgspec.msgpack.decode(part[16:], type=kind)
    except msgspec.DecodeError as error:
        raise SnapshotError(f"a part of the snapshot cannot be read: {error}") from error
