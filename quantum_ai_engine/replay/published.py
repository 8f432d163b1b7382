"""What a live engine published, and what its signals tell of what it was told besides bars."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import msgspec

from quantum_ai_engine.events import Abstained, Command

Key: TypeAlias = tuple[str, str, int]  # symbol, interval, close_time
Fields: TypeAlias = Mapping[str, Any]

# Abstentions that hang on the machine and the moment, not on the bars: a replay takes them as told.
CIRCUMSTANCES = frozenset({Abstained.DEADLINE, Abstained.ERROR, Abstained.NON_FINITE})
_MANUAL = re.compile(r"manual: a person's (halt|reduce)")
_HALTED = "HALTED"


class PublishedError(ValueError):
    """Signals that cannot be read: one sentence that names the place."""


class Told(NamedTuple):
    """A command that the signals tell of: it took effect before the signal of id `before`."""

    command: Command
    before: str


@dataclass(slots=True)
class Published:
    """Signals in the order of their stream, by id; of a repeated one the first.

    `first` maps each bar to the first signal of it, `of_bar` to all: a bar that comes late is
    reason to say something of later ones again. `doubled` counts repeats.
    """

    by_id: dict[str, Fields] = field(default_factory=dict)
    first: dict[Key, Fields] = field(default_factory=dict)
    of_bar: dict[Key, list[Fields]] = field(default_factory=dict)
    doubled: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, raw: Iterable[bytes | str]) -> "Published":
        """Signals as on the wire. Raises `PublishedError` at the first that is none."""
        made = cls()
        for number, line in enumerate(raw, start=1):
            signal = _decoded(line, number)
            name: str = signal["id"]
            if name in made.by_id:
                made.doubled[name] += 1
                continue
            made.by_id[name] = signal
            made.first.setdefault(key_of(signal), signal)
            made.of_bar.setdefault(key_of(signal), []).append(signal)
        return made

    def circumstances(self) -> dict[Key, dict[str, Abstained]]:
        """Of each bar, which agents abstained for what no replay can know."""
        found = {}
        for key, signal in self.first.items():
            reasons = {
                one["agent"]: Abstained(one["reason"])
                for one in signal["abstained"]
                if one["reason"] in CIRCUMSTANCES
            }
            if reasons:
                found[key] = reasons
        return found

    def late(self) -> list[Key]:
        """The bars of which a signal names agents that missed their deadline."""
        return [
            key
            for key, signals in self.of_bar.items()
            if any(one["reason"] == Abstained.DEADLINE for s in signals for one in s["abstained"])
        ]

    def commands(self) -> dict[Key, list[Told]]:
        """The commands that must have come before a bar, since its signal tells of them.

        Every signal names a person's halt or reduce, and only a person's resume ends a halt.
        """
        found: dict[Key, list[Told]] = {}
        before, was_halted = "", False
        for signal in self.by_id.values():
            if signal.get("amends"):
                continue  # it was said when another bar came
            risk = signal["risk"]
            manual = _manual(risk["reasons"])
            commands = _between(before, manual)
            if not commands and was_halted and not manual and risk["state"] != _HALTED:
                commands = [Command.RESUME]
            if commands:
                found[key_of(signal)] = [Told(command, signal["id"]) for command in commands]
            before, was_halted = manual, risk["state"] == _HALTED
        return found


class Origin(NamedTuple):
    """By whom signals say that they were made."""

    engines: tuple[str, ...]
    config_hashes: tuple[str, ...]
    bundles: tuple[tuple[str, str], ...]
    environments: tuple[str, ...]
    schema_hashes: tuple[str, ...]

    @classmethod
    def of(cls, published: Published) -> "Origin":
        """Each of these once, in the order in which they first come."""
        signals = list(published.by_id.values())

        def each(name: str) -> tuple[str, ...]:
            return tuple(dict.fromkeys(signal[name] for signal in signals))

        bundles = dict.fromkeys(
            (vote["agent"], vote["bundle"]) for signal in signals for vote in signal["votes"]
        )
        return cls(
            each("engine"),
            each("config_hash"),
            tuple(bundles),
            each("environment"),
            each("schema_hash"),
        )


def key_of(signal: Fields) -> Key:
    """The bar that a signal is about."""
    return signal["symbol"], signal["interval"], signal["close_time"]


def confirmed(told: Mapping[Key, Sequence[Told]], commands: Sequence[Command]) -> set[Key]:
    """Before which bars commands were given that a control stream has too, in its order.

    >>> halt = {("A", "1m", 60_000): [Told(Command.HALT, "A|1m|60000")]}
    >>> confirmed(halt, [Command.RESUME, Command.HALT]), confirmed(halt, [])
    ({('A', '1m', 60000)}, set())
    """
    found, at = set(), 0
    for key, some in told.items():
        place = at
        for one in some:
            if one.command not in commands[place:]:
                break
            place = commands.index(one.command, place) + 1
        else:
            found.add(key)
            at = place
    return found


_NEEDED = {
    "id": str,
    "symbol": str,
    "interval": str,
    "close_time": int,
    "produced_at": int,
    "row_hash": str,
    "schema_hash": str,
    "engine": str,
    "config_hash": str,
    "environment": str,
    "votes": list,
    "abstained": list,
    "risk": dict,
    "policy": dict,
}


def _decoded(line: bytes | str, number: int) -> Fields:
    """A signal by its fields, not validated: what is wrong in it is to be found, not refused."""
    try:
        signal = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PublishedError(f"signal {number} is not JSON: {error}") from error
    if not isinstance(signal, dict):
        raise PublishedError(f"signal {number} is not a map of fields")
    for name, kind in _NEEDED.items():
        if not isinstance(signal.get(name), kind):
            raise PublishedError(f"signal {number} has no field {name}: it is no signal")
    return signal


def _manual(reasons: Sequence[str]) -> str:
    for reason in reasons:
        if found := _MANUAL.fullmatch(reason):
            return found[1]
    return ""


def _between(before: str, after: str) -> list[Command]:
    """What a person must have commanded, if what is in force went from one to the other."""
    if before == after:
        return []
    if not after:
        return [Command.RESUME]
    ended = [Command.RESUME] if before == "halt" else []  # a halt is never eased otherwise
    return [*ended, Command(after)]
