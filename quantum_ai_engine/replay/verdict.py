"""What became of the signals: those of the stream against those of the uninterrupted twin."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

IGNORED = ("produced_at", "latency_us")  # the two that may differ from run to run
EXAMPLES = 10


class Verdict(msgspec.Struct, frozen=True):
    """How a signal stream departs from the twin's; all but `expected` are 0 where it does not.

    `lost` signals are missing, `doubled` ones stand there once more than they should, `unknown`
    ones the twin never gave. `out_of_order` stand behind a later one of their own series,
    `reordered` only behind a later one of another series. `different` are those of which a field
    other than `produced_at` and `latency_us` differs; `fields` counts them by field. `examples`
    are a few of all these, in words.
    """

    expected: int
    lost: int = 0
    doubled: int = 0
    unknown: int = 0
    out_of_order: int = 0
    reordered: int = 0
    different: int = 0
    fields: dict[str, int] = {}
    examples: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        return not any(
            (
                *(self.lost, self.doubled, self.unknown),
                *(self.out_of_order, self.reordered, self.different),
            )
        )


class Restored(NamedTuple):
    """What an engine said of its state when it had restored it."""

    position: str
    state_hash: str


class States(msgspec.Struct, frozen=True):
    """How many restored states were compared with the twin's, and which differed.

    `gone` are those whose position is no longer in the stream, because its end was cut off.
    """

    checked: int
    wrong: int
    gone: int
    examples: tuple[str, ...] = ()


class _Head(msgspec.Struct):
    id: str
    symbol: str
    interval: str


def compare(actual: Sequence[bytes], expected: Sequence[bytes]) -> Verdict:
    """Judge signals, as they are on the wire and in stream order, by those of the twin."""
    heads = [msgspec.json.decode(signal, type=_Head) for signal in actual]
    ranks = {_id_of(signal): rank for rank, signal in enumerate(expected)}
    counts = Counter(head.id for head in heads)
    said = [f"lost: {name}" for name in ranks if name not in counts]
    lost = len(said)
    said += [f"doubled: {name}" for name, count in counts.items() if count > 1]
    said += [f"unknown: {name}" for name in counts if name not in ranks]
    out_of_order, reordered = _order(heads, ranks)
    said += [f"out of order: {name}" for name in (*out_of_order, *reordered)]
    different, fields = 0, Counter[str]()
    for head, signal in zip(heads, actual, strict=True):
        if head.id in ranks and (names := _differing(signal, expected[ranks[head.id]])):
            different += 1
            fields.update(names)
            said.append(f"different: {head.id} in {', '.join(names)}")
    return Verdict(
        expected=len(expected),
        lost=lost,
        doubled=len(heads) - len(counts),
        unknown=sum(name not in ranks for name in counts),
        out_of_order=len(out_of_order),
        reordered=len(reordered),
        different=different,
        fields=dict(fields),
        examples=tuple(said[:EXAMPLES]),
    )


def compare_states(restored: Iterable[Restored], hashes: Mapping[str, str]) -> States:
    """Judge restored states by the twin's hashes, position → hash."""
    checked, gone, wrong = 0, 0, []
    for position, state_hash in restored:
        if position not in hashes:
            gone += 1
            continue
        checked += 1
        if state_hash != hashes[position]:
            wrong.append(f"state at {position}: {state_hash}, the twin's is {hashes[position]}")
    return States(checked, len(wrong), gone, tuple(wrong[:EXAMPLES]))


def _id_of(signal: bytes) -> str:
    return msgspec.json.decode(signal, type=_Head).id


def _order(heads: Sequence[_Head], ranks: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """The signals behind a later one of their series, and the others behind a later one at all."""
    out_of_order, reordered = [], []
    latest: defaultdict[tuple[str, str], int] = defaultdict(lambda: -1)
    latest_of_all = -1
    seen = set[str]()
    for head in heads:
        if head.id in seen or head.id not in ranks:
            continue  # a repeat is doubled, not out of order
        seen.add(head.id)
        rank, series = ranks[head.id], (head.symbol, head.interval)
        if rank < latest[series]:
            out_of_order.append(head.id)
        elif rank < latest_of_all:
            reordered.append(head.id)
        latest[series] = max(latest[series], rank)
        latest_of_all = max(latest_of_all, rank)
    return out_of_order, reordered


def _differing(actual: bytes, expected: bytes) -> list[str]:
    """The fields in which two signals differ, but for those that may."""
    ours, theirs = _fields(actual), _fields(expected)
    if ours == theirs:
        return []
    return sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )


def _fields(signal: bytes) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.json.decode(signal)
    return {name: value for name, value in fields.items() if name not in IGNORED}
