"""The parity certificate: what a live engine published, against a replay of the bars it saw.

Both go through one engine, so that every signal must come out to the bit: its row of features,
each agent's probability, and what was decided.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence

import msgspec

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.engine import Identity
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.schema import KERNEL_HASH
from quantum_ai_engine.replay.difference import Difference
from quantum_ai_engine.replay.published import Origin
from quantum_ai_engine.replay.silence import Silent

_BAR = struct.Struct("<q5dq")


class CertificateError(ValueError):
    """No certificate can be given: one sentence that says what does not fit and what to do."""


class Counts(msgspec.Struct, frozen=True):
    """How many signals, and what became of them.

    Of the `published` ones, each once, all are `same`, `different`, `extra` (the replay gives none)
    or not comparable. `doubled` are repeats on top; `missing` are those that the replay gives and
    nobody published; `outside` lie before the first or after the last published one, where nobody
    can say whether they were published. `misplaced` stand behind a later one of their series.
    `untold` are given by the replay, too, and nobody can say whether they were lost or no agent
    answered by its deadline: no difference, and no proof that there is none.
    """

    published: int = 0
    replayed: int = 0
    same: int = 0
    different: int = 0
    missing: int = 0
    extra: int = 0
    doubled: int = 0
    misplaced: int = 0
    outside: int = 0
    untold: int = 0

    @property
    def differences(self) -> int:
        """All that must be 0."""
        return self.different + self.missing + self.extra + self.doubled + self.misplaced


class Bars(msgspec.Struct, frozen=True):
    """The bars that were replayed: how many, and a SHA-256 over their fields, in their order."""

    count: int
    processed: int
    refused: int
    sha256: str


class Certificate(msgspec.Struct, frozen=True):
    """What a comparison gave, with hashes of everything that went into it.

    `parts` counts differing signals by what differs in them: features, probability, trust,
    decision, and other fields; `examples` are a few of all differences in words. `silent` are the
    bars of which agents missed their deadline. `taken` says what the replay took from the signals
    themselves, since nothing else tells it; `forced` what did not fit and was passed over because
    a person said so.
    """

    verdict: str
    signals: Counts
    parts: dict[str, int]
    first_difference: Difference | None
    examples: tuple[str, ...]
    not_comparable: dict[str, int]
    silent: Silent
    taken: dict[str, int]
    forced: tuple[str, ...]
    bars: Bars
    bundles: tuple[tuple[str, str], ...]
    config_hash: str
    engine: str
    kernel: tuple[int, str]
    published_by: Origin
    environment: str
    machine: dict[str, str]

    @property
    def is_exact(self) -> bool:
        counts = self.signals
        return counts.differences == counts.untold == 0 and counts.same > 0


class Hasher:
    """A SHA-256 over the fields of bars, the same wherever they were kept.

    >>> one, other = Hasher(), Hasher()
    >>> bar = Bar("BTCUSDT", "1m", 60_000, 100.0, 102.0, 99.0, 101.0, 5.0)
    >>> one.update(bar)
    >>> one.get() == other.get(), len(one.get())
    (False, 64)
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def update(self, bar: Bar) -> None:
        """Take the next bar."""
        self._sha256.update(f"{bar.symbol}|{bar.interval}|".encode())
        self._sha256.update(_BAR.pack(bar.open_time, *bar.ohlcv, bar.revision))

    def get(self) -> str:
        return self._sha256.hexdigest()


def misfits(
    origin: Origin, identity: Identity, agents: Sequence[Agent], *, is_whole: bool | None
) -> list[str]:
    """What of this replay is not what the signals say that they come from, in words."""
    found = [
        f"signals were made by engine {other}, this is {identity.engine}: install that build"
        for other in origin.engines
        if other != identity.engine
    ]
    found += [
        f"signals were made with settings {other}, these are {identity.config_hash}: give the "
        "same --config and --set as `qae serve` had"
        for other in origin.config_hashes
        if other != identity.config_hash
    ]
    here = {agent.name: agent.bundle for agent in agents}
    for name, bundle in origin.bundles:
        if name not in here:
            found.append(
                f"signals have votes of agent {name} ({bundle}), which is not in --bundles"
            )
        elif bundle != here[name]:
            found.append(
                f"signals have votes of {name} by bundle {bundle}, --bundles has {here[name]}: "
                "give the bundles that served"
            )
    found += [
        f"signals were made with feature kernel {other}, this is {KERNEL_HASH}"
        for other in origin.schema_hashes
        if other != KERNEL_HASH
    ]
    if is_whole is False:
        found.append(
            "the first bars have been trimmed from the stream: what hangs on all of history "
            "(trust, mode, risk) cannot come out the same; certify with a file of all bars"
        )
    return found


def sentence(counts: Counts, not_comparable: Mapping[str, int], first: Difference | None) -> str:
    """The verdict in words.

    >>> sentence(Counts(published=2, replayed=2, same=2), {}, None)
    '2 of 2 published signals came out the same to the bit; 0 differences.'
    """
    words = [
        f"{counts.same} of {counts.published} published signals came out the same to the bit; "
        f"{counts.differences} differences"
    ]
    names = ("different", "missing", "extra", "doubled", "misplaced")
    found = [f"{getattr(counts, name)} {name}" for name in names if getattr(counts, name)]
    if found:
        words.append(f" ({', '.join(found)})")
    words += [f"; not comparable: {count} {name}" for name, count in not_comparable.items()]
    if counts.outside:
        words.append(
            f"; {counts.outside} replayed ones lie before the first or after the last published one"
        )
    words.append(".")
    if first is not None:
        words.append(f" First difference: {first.sentence}")
    return "".join(words)
