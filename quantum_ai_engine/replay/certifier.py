"""Replaying what a live engine saw, beside what it published."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.panel import Predictor
from quantum_ai_engine.agents.pool import Answer, Request
from quantum_ai_engine.engine import Engine, Identity, Now
from quantum_ai_engine.events import (
    INTERVAL_MS,
    LAST_TIME_MS,
    Abstained,
    Bar,
    Command,
    Equity,
    Signal,
    signal_id,
)
from quantum_ai_engine.features.kernel import KERNEL_VERSION
from quantum_ai_engine.features.schema import KERNEL_HASH
from quantum_ai_engine.features.store import DEPTH, LOOKBACK
from quantum_ai_engine.replay.certificate import Bars, Certificate, Counts, Hasher, sentence
from quantum_ai_engine.replay.difference import Difference, Rows, difference, parts_of
from quantum_ai_engine.replay.published import (
    Fields,
    Key,
    Origin,
    Published,
    Told,
    confirmed,
    key_of,
)
from quantum_ai_engine.replay.silence import Lacking, Recorded, Silence, Silences, Silent

EXAMPLES = 10
NOTHING_LACKS = Silences()
BATCH = 1000  # bars that go through the engine together
_EXPIRED = Now(LAST_TIME_MS * 2)  # later than any signal is valid: bars teach, and no more
_JSON = msgspec.json.Encoder()


class SeenBar(NamedTuple):
    """A bar that the live engine saw; `order` is its entry's id in the stream, if it has one."""

    bar: Bar
    order: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """What came to the live engine besides bars, where a stream still has it.

    `commands` are those of the control stream, None where there is none to look into. `equity` are
    reports of execution, each with the id of the entry of the bar stream after which it was heard;
    None where nobody knows. `is_whole` says that no bar, and `has_all_signals` that no signal, has
    been trimmed from its stream: of a file neither is known. `recorded` is what is left of records.
    """

    commands: Sequence[Command] | None = None
    equity: Sequence[tuple[tuple[int, int], Equity]] | None = None
    is_whole: bool | None = None
    has_all_signals: bool = False
    recorded: Recorded | None = None


class Scripted:
    """Asks agents as another does, but for some that abstain as they did when it counted."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self.silent: Silence = {}

    @property
    def agents(self) -> tuple[Agent, ...]:
        return self._predictor.agents

    async def predict(self, requests: Sequence[Request]) -> list[Answer]:
        answers = await self._predictor.predict(requests)
        return [
            _silent(len(request.windows), self.silent[request.agent.name])
            if request.agent.name in self.silent
            else answer
            for request, answer in zip(requests, answers, strict=True)
        ]


def _silent(rows: int, reason: Abstained) -> Answer:
    return Answer(np.full(rows, np.nan), (reason,) * rows)


@dataclass(frozen=True, slots=True)
class Again:
    """An engine for the replay, new, with its predictor; `burn_in_bars` and `clock` are its own."""

    engine: Engine
    scripted: Scripted
    identity: Identity
    clock: str
    burn_in_bars: int


@dataclass(slots=True)
class _Tally:
    """What a comparison has found so far."""

    same: int = 0
    different: int = 0
    replayed: int = 0
    missing: list[Lacking] = field(default_factory=list)
    parts: Counter[str] = field(default_factory=Counter)
    unreported: int = 0  # decisions by equity that is not at hand
    first: Difference | None = None
    examples: list[str] = field(default_factory=list)

    def say(self, what: str) -> None:
        if len(self.examples) < EXAMPLES:
            self.examples.append(what)


class Certifier:
    """Takes the bars of a live engine through another of the same make, and judges its signals.

    Under a wall clock a bar is asked about exactly if a signal of it was published, at the time
    that this names: whether another one was due then cannot be known, and is counted as not
    comparable. Of bars that lack a signal, `silences` says who is silent on them.
    """

    def __init__(
        self,
        again: Again,
        published: Published,
        inputs: Inputs,
        rows: Rows | None = None,
        silences: Silences = NOTHING_LACKS,
    ) -> None:
        self._again, self._engine = again, again.engine
        self._published, self._inputs, self._rows = published, inputs, rows
        # Rows can be looked at while the engine holds them.
        self._batch = BATCH if rows is None else LOOKBACK
        self._is_wall = again.clock == "wall"
        self._silences = silences
        silent = {**silences.known, **silences.inferred}
        self._circumstances = {**published.circumstances(), **silent}
        self._commands, self._unheard = self._believed(published.commands())
        self._equity = [*(inputs.equity or ())]
        self._hasher, self._tally = Hasher(), _Tally()
        self._count = self._processed = self._refused = 0
        self._taken: Counter[str] = Counter()
        self._seen = set[str]()  # ids of published signals that the replay gave, too
        self._ranks = {name: rank for rank, name in enumerate(published.by_id)}
        self._newest_rank: dict[tuple[str, str], int] = {}
        self._misplaced = 0
        self._tail: list[Lacking] = []  # replayed ones since the last that was published
        self._head: list[Lacking] = []  # … and before the first
        self._orders: dict[Key, tuple[int, int]] = {}  # entries of bars without a signal
        self._reported, self._silent = False, 0
        self._arrivals: Counter[tuple[str, str]] = Counter()
        self._newest: Counter[tuple[str, str]] = Counter()  # close time, ms
        self._warm = set[Key]()  # published bars that are at hand, with enough bars before them

    def _believed(
        self, told: dict[Key, list[Told]]
    ) -> tuple[dict[Key, list[Told]], list[list[Told]]]:
        """The commands that are applied, and those that the control stream does not have."""
        if self._inputs.commands is None:
            return told, []
        kept = confirmed(told, self._inputs.commands)
        believed = {key: some for key, some in told.items() if key in kept}
        return believed, [some for key, some in told.items() if key not in kept]

    async def run(self, bars: AsyncIterator[SeenBar]) -> AsyncIterator[int]:
        """Replay the bars in their order and compare; after some at a time, how many they were."""
        batch: list[Bar] = []
        now = Now()
        async for seen in bars:
            key = self._arrived(seen)
            silent = self._circumstances.get(key)
            its_now = self._now(key)
            is_told = key in self._commands or self._is_reported_before(seen)
            if batch and (its_now != now or is_told or silent or len(batch) >= self._batch):
                await self._process(batch, now)
                yield self._count
                batch = []
            self._tell(key, seen)
            batch.append(seen.bar)
            now = its_now
            if silent:
                await self._alone(batch, now, silent)
                batch = []
        if batch:
            await self._process(batch, now)
            yield self._count

    def _arrived(self, seen: SeenBar) -> Key:
        bar = seen.bar
        self._hasher.update(bar)
        self._count += 1
        series = bar.symbol, bar.interval
        key = (*series, bar.close_time)
        self._arrivals[series] += 1
        self._newest[series] = max(bar.close_time, self._newest[series])
        if key in self._published.first and self._arrivals[series] >= self._again.burn_in_bars:
            self._warm.add(key)
        if seen.order is not None and key not in self._published.first:
            self._orders.setdefault(key, seen.order)
        return key

    def _now(self, key: Key) -> Now:
        """By what a bar is fresh: under a wall clock as its signal says, without one never.

        A bar that came late may be too old for a signal itself, and a reason for those of later
        bars, which came before it.
        """
        if not self._is_wall:
            return Now()
        signal = self._published.first.get(key) or self._said_after(key)
        return Now(signal["produced_at"]) if signal is not None else _EXPIRED

    def _said_after(self, late: Key) -> Fields | None:
        """The next signal of a later bar that is there already; None where none is to come."""
        symbol, interval, close_time = late
        closes = range(close_time, self._newest[symbol, interval], INTERVAL_MS[interval])
        for before in closes[:DEPTH]:
            for signal in self._published.of_bar.get((symbol, interval, before + closes.step), ()):
                if signal["id"] not in self._seen:
                    return signal
        return None

    def _is_reported_before(self, seen: SeenBar) -> bool:
        return bool(self._equity) and seen.order is not None and self._equity[0][0] < seen.order

    def _tell(self, key: Key, seen: SeenBar) -> None:
        """Let the engine hear what a person commanded, and execution reported, before a bar."""
        for one in self._commands.pop(key, ()):
            self._engine.state.apply(one.command)
            known = "confirmed by the control stream" if self._inputs.commands else "from signals"
            self._taken[f"command {one.command} {known}"] += 1
        while self._is_reported_before(seen):
            self._engine.state.judgement.report(self._equity.pop(0)[1])
            self._taken["report of equity"] += 1

    async def _alone(self, batch: Sequence[Bar], now: Now, silent: Silence) -> None:
        """A bar from which agents abstained for what no replay can know."""
        for reason in silent.values():
            self._taken[f"abstention for {reason}"] += 1
        self._again.scripted.silent = silent
        await self._process(batch, now)
        self._again.scripted.silent = {}

    async def _process(self, batch: Sequence[Bar], now: Now) -> None:
        done = await self._engine.process(batch, now, lambda _: nullcontext())
        self._processed += done.processed
        self._refused += len(done.refused)
        self._silent += done.silent["expired"] if self._is_wall else 0
        for signal in done.signals:
            self._compare(signal)

    def _compare(self, signal: Signal) -> None:
        tally = self._tally
        tally.replayed += 1
        published = self._published.by_id.get(signal.id)
        if published is None:
            key = signal.symbol, signal.interval, signal.close_time
            lacking = Lacking(signal.id, key, self._orders.get(key))
            (self._tail if self._seen else self._head).append(lacking)
            return
        tally.missing += self._tail
        self._tail = []
        self._seen.add(signal.id)
        self._place(signal)
        ours = msgspec.json.decode(_JSON.encode(signal))
        parts = parts_of(published, ours)
        if parts == ["decision"] and self._hangs_on_equity(published):
            tally.unreported += 1
        elif parts:
            self._differs(published, ours, parts)
        else:
            tally.same += 1

    def _place(self, signal: Signal) -> None:
        series, rank = (signal.symbol, signal.interval), self._ranks[signal.id]
        if rank < self._newest_rank.get(series, -1):
            self._misplaced += 1
            self._tally.say(f"misplaced: {signal.id} stands behind a later one")
        self._newest_rank[series] = max(rank, self._newest_rank.get(series, -1))

    def _hangs_on_equity(self, published: Fields) -> bool:
        """Whether it was decided by reports of equity that nobody has kept."""
        self._reported |= published["policy"].get("equity") == "reported"
        return self._reported and self._inputs.equity is None

    def _differs(self, published: Fields, ours: Fields, parts: Sequence[str]) -> None:
        self._tally.different += 1
        self._tally.parts.update(parts)
        if self._tally.first is not None and len(self._tally.examples) >= EXAMPLES:
            return
        found = difference(published, ours, self._row_of(published), self._rows)
        self._tally.say(f"different: {found.sentence}")
        if self._tally.first is None:
            self._tally.first = found

    def _row_of(self, signal: Fields) -> Mapping[str, float]:
        """The features of a bar by column, if they are still held."""
        symbol, interval, close_time = key_of(signal)
        opens = close_time - INTERVAL_MS[interval]
        times = [int(bar[0]) for bar in self._engine.bars(symbol, interval)]
        if self._rows is None or opens not in times:
            return {}
        length = len(times) - times.index(opens)
        names = [name for name in self._engine.names() if "." in name]
        return {name: self._engine.recent(symbol, interval, name, length)[0] for name in names}

    @property
    def differences(self) -> int:
        """How many there are so far; untold ones are none."""
        return self._counts()[0].differences

    def silences(self) -> Silences:
        """What is known of the bars that lack a signal."""
        names = [agent.name for agent in self._again.scripted.agents]
        first = [one for one in self._missing()[0] if one.id == signal_id(*one.key)]
        return Silences.of(first, self._inputs.recorded, names)

    def explain(self, silences: Silences) -> None:
        """Take note of what is known of the bars that lack a signal; none of them was silenced."""
        self._silences = silences

    def get(self, *, forced: Sequence[str], machine: Mapping[str, str]) -> Certificate:
        """What came of it."""
        tally, identity = self._tally, self._again.identity
        counts, lists = self._counts()
        silent = self._silences.get(self._published.late())
        not_comparable = {name: n for name, n in self._not_comparable(silent).items() if n}
        return Certificate(
            verdict=sentence(counts, not_comparable, tally.first),
            signals=counts,
            parts=dict(tally.parts),
            first_difference=tally.first,
            examples=(*tally.examples, *lists),
            not_comparable=not_comparable,
            silent=silent,
            taken=dict(self._taken),
            forced=tuple(forced),
            bars=Bars(self._count, self._processed, self._refused, self._hasher.get()),
            bundles=tuple((one.name, one.bundle) for one in self._again.scripted.agents),
            config_hash=identity.config_hash,
            engine=identity.engine,
            kernel=(KERNEL_VERSION, KERNEL_HASH),
            published_by=Origin.of(self._published),
            environment=identity.environment,
            machine=dict(machine),
        )

    def _missing(self) -> tuple[list[Lacking], list[Lacking]]:
        """The replayed signals that should have been published, and of which nobody can say so."""
        tally = self._tally
        if self._inputs.has_all_signals:
            return [*self._head, *tally.missing, *self._tail], []
        return tally.missing, [*self._head, *self._tail]

    def _counts(self) -> tuple[Counts, list[str]]:
        """The counts, and some of what is not a pair of signals, in words."""
        tally, doubled = self._tally, self._published.doubled
        extra = [name for name in self._unpaired() if self._is_warm(name)]
        lacking, outside = self._missing()
        untold = [one for one in lacking if one.key in self._silences.untold]
        missing = [one for one in lacking if one.key not in self._silences.untold]
        counts = Counts(
            published=len(self._published.by_id),
            replayed=tally.replayed,
            same=tally.same,
            different=tally.different,
            missing=len(missing),
            extra=len(extra),
            doubled=doubled.total(),
            misplaced=self._misplaced,
            outside=len(outside),
            untold=len(untold),
        )
        words = [f"missing: {one.id} was not published" for one in missing[:EXAMPLES]]
        words += [f"lost, or nobody answered in time: {one.id}" for one in untold[:EXAMPLES]]
        words += [f"extra: {name} does not follow from the bars" for name in extra[:EXAMPLES]]
        words += [f"doubled: {name}" for name in [*doubled][:EXAMPLES]]
        words += [
            f"{one.before}: a person is said to have told it to {one.command}, and the control "
            "stream has no such command: it was not replayed"
            for some in self._unheard[:EXAMPLES]
            for one in some
        ]
        return counts, words

    def _unpaired(self) -> list[str]:
        """The published signals that the replay did not give."""
        return [name for name in self._published.by_id if name not in self._seen]

    def _is_warm(self, name: str) -> bool:
        return key_of(self._published.by_id[name]) in self._warm

    def _not_comparable(self, silent: Silent) -> dict[str, int]:
        unpaired = self._unpaired()
        cold = sum(not self._is_warm(name) for name in unpaired)
        return {
            "signals whose bar, or the bars before it, are not at hand": cold,
            "bars without a signal, of which only the live engine's wall clock knows whether one "
            "was due": self._silent,
            "decisions by equity that execution reported, which is not at hand": (
                self._tally.unreported
            ),
            **silent.in_words(),
        }
