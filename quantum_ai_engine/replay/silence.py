"""Bars without a signal, though a replay gives one: was it lost, or did no agent answer in time?

A replay knows no deadline. What a live engine's records still tell of such a bar is told here.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import msgspec

from quantum_ai_engine.events import Abstained, signal_id
from quantum_ai_engine.replay.published import Key
from quantum_ai_engine.state.record import Record

NAMED = 1_000  # bars of each kind that a certificate names; it counts all
Silence: TypeAlias = Mapping[str, Abstained]


class Some(msgspec.Struct, frozen=True):
    """So many bars, and the ids of the first `NAMED` of them."""

    count: int
    which: tuple[str, ...]

    @classmethod
    def of(cls, names: Collection[str]) -> "Some":
        return cls(len(names), tuple(names)[:NAMED])


class Silent(msgspec.Struct, frozen=True):
    """Bars from which agents were silent for their deadline.

    Of the `partly` silent ones a signal names who was; the others have no signal. That no agent
    voted on the `wholly` silent ones the engine's records show, though not why. The `inferred` ones
    have no record, but later signals come out only if nobody voted on them. Of the `untold` ones
    nothing tells whether nobody voted, or a signal was lost.
    """

    partly: Some
    wholly: Some
    inferred: Some
    untold: Some

    def in_words(self) -> dict[str, int]:
        """What of these bars cannot be compared, and how many they are."""
        bare = "bars without a signal and without a record"
        return {
            "bars of which some agents missed their deadline, in what these would have said": (
                self.partly.count
            ),
            "bars without a signal on which, by the engine's records, no agent voted": (
                self.wholly.count
            ),
            f"{bare} on which no agent can have voted, since later signals come out only so": (
                self.inferred.count
            ),
            f"{bare}, of which nothing tells whether it was lost or no agent answered by its "
            "deadline": self.untold.count,
        }


@dataclass(frozen=True, slots=True)
class Recorded:
    """What is left of a live engine's records.

    `since` is the entry of the bar stream after which each bar on which somebody voted, or failed,
    has a record; `of_bar` has those of the bars that were asked for.
    """

    since: tuple[int, int]
    of_bar: Mapping[Key, Record]

    @classmethod
    def of(
        cls, since: tuple[int, int], records: Iterable[Record], said: Collection[Key]
    ) -> "Recorded":
        """Of records in their order: the first of each bar, but for bars with a signal."""
        found: dict[Key, Record] = {}
        for record in records:
            key = record.symbol, record.interval, record.prediction.close_time
            if key not in said:
                found.setdefault(key, record)
        return cls(since, found)


class Lacking(NamedTuple):
    """A signal that a replay gives and nobody published; `order`: the stream's entry of its bar."""

    id: str
    key: Key
    order: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Silences:
    """Who is silent on bars that lack a signal, and why, by what is known of them.

    On the `known` and the `inferred` ones a replay is silent, too; on the `untold` ones not.
    """

    known: Mapping[Key, Silence] = field(default_factory=dict)
    inferred: Mapping[Key, Silence] = field(default_factory=dict)
    untold: Mapping[Key, Silence] = field(default_factory=dict)

    def infer(self) -> "Silences":
        """The same, if nobody voted on the untold ones."""
        return Silences(self.known, self.untold)

    def get(self, partly: Iterable[Key]) -> Silent:
        """Which bars these are, and the partly silent ones."""
        kinds = partly, self.known, self.inferred, self.untold
        return Silent(*(Some.of([signal_id(*key) for key in keys]) for keys in kinds))

    @classmethod
    def of(
        cls, lacking: Iterable[Lacking], recorded: Recorded | None, agents: Sequence[str]
    ) -> "Silences":
        """Those that may be silent; one whose record says that a signal was given is lost."""
        known, untold = dict[Key, Silence](), dict[Key, Silence]()
        for one in lacking:
            record = recorded.of_bar.get(one.key) if recorded else None
            if record is not None:
                if record.said is None:
                    known[one.key] = silence(record, agents)
            elif recorded and one.order is not None and one.order > recorded.since:
                known[one.key] = dict.fromkeys(agents, Abstained.DEADLINE)
            else:
                untold[one.key] = dict.fromkeys(agents, Abstained.DEADLINE)
        return cls(known, {}, untold)


def silence(record: Record, agents: Sequence[str]) -> Silence:
    """Who did not vote by a record; it counts those that failed, and does not name them.

    Nothing but the count hangs on who of them did.
    """
    voted = {vote.agent for vote in record.prediction.votes}
    silent = [name for name in agents if name not in voted]
    failed = record.prediction.failed
    return {
        name: Abstained.ERROR if i < failed else Abstained.DEADLINE for i, name in enumerate(silent)
    }
