"""In what two signals of one bar differ: which part, which agent, which feature column."""

import struct
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from quantum_ai_engine.replay.published import Fields

# What may differ from run to run, and who made it, which is said once and not by signal.
UNCOMPARED = frozenset({"produced_at", "latency_us", "engine", "config_hash"})
FEATURES = frozenset({"schema_hash", "row_hash", "filled"})
VOTES = frozenset({"votes", "abstained"})
PROBABILITY = frozenset({"probability", "confidence", "effective_votes"})
DECISION = frozenset(
    {"stance", "target", "thresholds", "policy", "risk", "valid_until", "holdings"}
)
# The columns of a bar's row by set and name, as somebody else has them; None: not at hand.
Rows: TypeAlias = Callable[[str, int], Mapping[str, float] | None]
_UNKNOWN_COLUMN = (
    "a signal carries only the hash of its row, so which column differs cannot be known from it: "
    "write the rows of the bars that the live engine has with `qae features --set SET`, and "
    "certify with --rows FILE"
)


class Difference(msgspec.Struct, frozen=True):
    """How a published signal departs from the replayed one of its bar.

    `parts` are the parts that differ, `agents` whose votes do, `columns` which features where both
    rows are at hand; `published` and `replayed` hold the differing fields. `sentence` has it in
    words, with where to look next.
    """

    signal: str
    parts: tuple[str, ...]
    agents: tuple[str, ...]
    columns: tuple[str, ...]
    published: dict[str, Any]
    replayed: dict[str, Any]
    sentence: str


def differing(published: Fields, ours: Fields) -> list[str]:
    """The fields that differ in any bit, but for those that are not compared.

    >>> differing({"target": 0.0, "produced_at": 1}, {"target": -0.0, "produced_at": 2})
    ['target']
    """
    return sorted(
        name
        for name in (published.keys() | ours.keys()) - UNCOMPARED
        if _bits(published.get(name)) != _bits(ours.get(name))
    )


def parts_of(published: Fields, ours: Fields) -> list[str]:
    """Which parts of a signal differ, on the way from the bar to the target.

    `features` is the row, `votes` what agents answered and by which bundle, `trust` how much each
    counts, `probability` what that comes to, `decision` stance, target and what they hang on.
    """
    fields, found = set(differing(published, ours)), []
    if fields & FEATURES:
        found.append("features")
    if _said(published) != _said(ours):
        found.append("votes")
    if _trust(published) != _trust(ours):
        found.append("trust")
    if fields & PROBABILITY:
        found.append("probability")
    if fields & DECISION:
        found.append("decision")
    if fields - FEATURES - VOTES - PROBABILITY - DECISION or (fields and not found):
        found.append("other")
    return found


def agents_of(published: Fields, ours: Fields) -> list[str]:
    """The agents whose vote or abstention differs: by bundle, by probability, or else by trust."""
    theirs, here = _said(published), _said(ours)
    names = [name for name in {**theirs, **here} if theirs.get(name) != here.get(name)]
    if names:
        return names
    trust, mine = _trust(published), _trust(ours)
    return [name for name in trust if trust[name] != mine.get(name)]


def columns_of(row: Mapping[str, float], other: Mapping[str, float]) -> list[str]:
    """The columns that both rows have, and in which they differ in any bit.

    >>> columns_of({"gru9.rsi_14": 1.0, "gru9.log_return": 0.0}, {"rsi_14": 1.5})
    ['gru9.rsi_14']
    """
    found = []
    for name, value in row.items():
        theirs = other.get(name, other.get(name.partition(".")[2]))
        if theirs is not None and struct.pack("<d", value) != struct.pack("<d", theirs):
            found.append(name)
    return found


def difference(
    published: Fields, ours: Fields, row: Mapping[str, float], rows: Rows | None
) -> Difference:
    """Locate it. `row` is the replayed row by column, `rows` finds that of the live engine."""
    fields, parts = differing(published, ours), parts_of(published, ours)
    agents = agents_of(published, ours)
    columns: list[str] = []
    known = rows(published["symbol"], published["close_time"]) if rows else None
    if "features" in parts and known is not None:
        columns = columns_of(row, known)
    return Difference(
        published["id"],
        tuple(parts),
        tuple(agents),
        tuple(columns),
        {name: published.get(name) for name in fields},
        {name: ours.get(name) for name in fields},
        _sentence(published, ours, parts, agents, _of_rows(parts, columns, known, row)),
    )


def _of_rows(
    parts: list[str],
    columns: list[str],
    known: Mapping[str, float] | None,
    row: Mapping[str, float],
) -> str:
    if "features" not in parts:
        return ""
    if known is None or not row:
        return _UNKNOWN_COLUMN
    if not columns:
        return "no column of the rows at hand differs: it is one that they do not have"
    return f"columns that differ: {', '.join(columns)}"


def _sentence(
    published: Fields, ours: Fields, parts: list[str], agents: list[str], of_rows: str
) -> str:
    """In one line: what differs first on the way from the bar to the signal."""
    words = [f"{published['id']} differs in {', '.join(parts)}"]
    if of_rows:
        words.append(f"its row of features is another one ({of_rows})")
    if "votes" in parts:
        words.append("; ".join(_vote(name, published, ours) for name in agents))
    elif "trust" in parts:
        words.append(f"votes are the same, their trust is not ({', '.join(agents)})")
    elif not of_rows:
        words.append("; ".join(_values(published, ours, x) for x in differing(published, ours)))
    return ": ".join([words[0], "; ".join(words[1:])]) if words[1:] else words[0]


def _vote(name: str, published: Fields, ours: Fields) -> str:
    told, here = _said(published).get(name), _said(ours).get(name)
    return f"agent {name}: published {told or 'no vote'}, replayed {here or 'no vote'}"


def _values(published: Fields, ours: Fields, name: str) -> str:
    return f"{name}: published {_text(published.get(name))}, replayed {_text(ours.get(name))}"


def _said(signal: Fields) -> dict[str, str]:
    """What each agent answered, its bundle with it, or why it abstained."""
    said = {one["agent"]: f"{one['probability']!r} of {one['bundle']}" for one in signal["votes"]}
    return said | {one["agent"]: str(one["reason"]) for one in signal["abstained"]}


def _trust(signal: Fields) -> dict[str, str]:
    return {one["agent"]: repr(one["trust"]) for one in signal["votes"]}


def _bits(value: Any) -> bytes:
    return msgspec.json.encode(value)


def _text(value: Any) -> str:
    return _bits(value).decode()
