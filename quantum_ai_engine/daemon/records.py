"""What a round decided, as one entry of the stream of records: a restart reads it back."""

from collections.abc import Mapping, Sequence

import msgspec

from quantum_ai_engine.events import Equity, Prediction, Vote
from quantum_ai_engine.risk.positions import Said
from quantum_ai_engine.state.record import Record


class RecordError(ValueError):
    """An entry of the stream of records that cannot be read."""


class _Row(msgspec.Struct, frozen=True, array_like=True):
    """A record; votes are (agent's place, probability, trust)."""

    symbol: str
    interval: str
    close_time: int
    votes: tuple[tuple[int, float, float], ...]
    failed: int
    base: float
    probability: float | None
    clamped: float | None
    said: Said | None
    look: int


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    start: str
    end: str
    agents: tuple[tuple[str, str], ...]
    rows: tuple[_Row, ...]
    equity: tuple[Equity, ...]


class Decided(msgspec.Struct, frozen=True):
    """A round that took the bars after `start` up to `end`: what was decided on them.

    `equity` was reported before its bars.
    """

    start: str
    end: str
    records: tuple[Record, ...]
    equity: tuple[Equity, ...]


def encode_round(
    start: str, end: str, records: Sequence[Record], equity: Sequence[Equity]
) -> bytes:
    """The one field of an entry. Names of agents are in it once."""
    places: dict[tuple[str, str], int] = {}
    rows = []
    for record in records:
        one = record.prediction
        votes = tuple(
            (places.setdefault((v.agent, v.bundle), len(places)), v.probability, v.trust)
            for v in one.votes
        )
        told = (one.close_time, votes, one.failed, one.base, one.probability)
        rows.append(
            _Row(record.symbol, record.interval, *told, one.clamped, record.said, record.look)
        )
    return msgspec.msgpack.encode(_Entry(start, end, tuple(places), tuple(rows), tuple(equity)))


def decode_round(fields: Mapping[bytes, bytes]) -> Decided:
    """Read it back. Raises `RecordError`."""
    try:
        entry = msgspec.msgpack.decode(fields[b"b"], type=_Entry)
        records = tuple(_record(row, entry.agents) for row in entry.rows)
    except (KeyError, IndexError, ValueError, msgspec.MsgspecError) as error:
        raise RecordError(f"no record of a round: {error}") from error
    return Decided(entry.start, entry.end, records, entry.equity)


def _record(row: _Row, agents: Sequence[tuple[str, str]]) -> Record:
    votes = tuple(
        Vote(*agents[place], probability, trust) for place, probability, trust in row.votes
    )
    told = (row.close_time, votes, row.failed, row.base, row.probability, row.clamped)
    prediction = Prediction(*told)
    return Record(row.symbol, row.interval, prediction, row.said, row.look)
