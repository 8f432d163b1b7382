"""Whether a replay can be believed: no look ahead, and no memory of when it began.

Each check replays the same bars several times and compares to the bit. Money is checked in `cheat`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.columns import COLUMNS, NAMES
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.replay.difference import FEATURES, PROBABILITY, VOTES, differing
from quantum_ai_engine.replay.probe import Make, Row, key_of, plain, rows_of, signals_of
from quantum_ai_engine.replay.published import Key

CUTS = 5
SHAKE = 0.05  # standard deviation of the ln by which bars after a cut are moved
STARTS = 3
SHOWN = 5


class Finding(msgspec.Struct, frozen=True):
    """What a check came to: a sentence, and the numbers that it rests on."""

    check: str
    passed: bool
    sentence: str
    numbers: Mapping[str, float]


class _Seen(NamedTuple):
    """What an engine makes of bars: rows by bar, and signals by id as fields."""

    rows: dict[Key, Row]
    signals: dict[str, Mapping[str, object]]


async def _seen(make: Make, bars: Sequence[Bar]) -> _Seen:
    signals = await signals_of(make(bars), bars)
    return _Seen(rows_of(make(bars), bars), {one.id: plain(one) for one in signals})


async def lookahead(make: Make, bars: Sequence[Bar], *, cuts: int = CUTS, seed: int = 0) -> Finding:
    """Whether what is known and said of a bar hangs on any later one.

    At several bars the record is cut off, and once more all that follows is moved at random: all
    columns that agents read, and all signals before must stay as they were, to the bit.
    """
    chance, whole = np.random.default_rng(seed), await _seen(make, bars)
    at = np.sort(chance.choice(np.arange(len(bars) // 4, len(bars)), cuts, replace=False)).tolist()
    rows = signals = 0
    leaks: dict[str, str] = {}
    for cut in at:
        before = [key_of(bar) for bar in bars[:cut]]
        for how, after in (("cut off", []), ("moved", _moved(bars[cut:], chance))):
            other = await _seen(make, [*bars[:cut], *after])
            rows += len(before)
            signals += sum(_key(one) in set(before) for one in other.signals.values())
            for what, bar in _leaks(whole, other, before):
                words = f"{what} of {bar}, when bars from {bars[cut].open_time} on were {how}"
                leaks.setdefault(what, words)
    numbers = {"cuts": len(at), "rows": rows, "signals": signals, "leaks": len(leaks)}
    if leaks:
        found = "; ".join([*leaks.values()][:SHOWN])
        return Finding("lookahead", False, f"Look-ahead: later bars changed {found}.", numbers)
    return Finding(
        "lookahead",
        True,
        f"No look-ahead: with the bars after each of {len(at)} moments cut off, and then moved, "
        f"{rows} rows of {len(_shown(whole))} columns and {signals} signals before them stayed the "
        "same to the bit.",
        numbers,
    )


def _shown(seen: _Seen) -> list[int]:
    """The places of the columns that agents read: the others are not even made."""
    made = np.zeros(len(COLUMNS), dtype=bool)
    for row in seen.rows.values():
        made |= ~np.isnan(row)
    return [int(place) for place in np.flatnonzero(made)]


def _moved(bars: Sequence[Bar], chance: np.random.Generator) -> list[Bar]:
    """Other bars in the place of these, that could have happened."""
    factors = np.exp(chance.normal(0.0, (SHAKE, 1.0), (len(bars), 2))).tolist()
    return [
        msgspec.structs.replace(
            bar,
            open=bar.open * prices,
            high=bar.high * prices,
            low=bar.low * prices,
            close=bar.close * prices,
            volume=bar.volume * volume,
        )
        for bar, (prices, volume) in zip(bars, factors, strict=True)
    ]


def _leaks(whole: _Seen, other: _Seen, before: Sequence[Key]) -> Iterator[tuple[str, str]]:
    """Which columns, and which fields of signals, differ among these bars, and where first."""
    for key in before:
        for place in _different(whole.rows[key], other.rows[key]):
            yield f"column {NAMES[place]}", "|".join(map(str, key))
    inside = set(before)
    for name, one in whole.signals.items():
        if _key(one) not in inside:
            continue
        if name not in other.signals:
            yield "whether there is a signal", name
            continue
        for changed in sorted(differing(one, other.signals[name]), key=_from_bar_to_target):
            yield f"field {changed} of signals", name


def _from_bar_to_target(field: str) -> int:
    """What comes first on the way is the cause of the rest."""
    ways = (FEATURES, VOTES, PROBABILITY)
    return next((i for i, fields in enumerate(ways) if field in fields), len(ways))


def _different(row: Row, other: Row) -> list[int]:
    """The places of columns that differ in any bit; one NaN is as good as another."""
    same = (row.view(np.int64) == other.view(np.int64)) | (np.isnan(row) & np.isnan(other))
    return [int(place) for place in np.flatnonzero(~same)]


def _key(signal: Mapping[str, object]) -> Key:
    return str(signal["symbol"]), str(signal["interval"]), int(str(signal["close_time"]))


class _Lag(NamedTuple):
    """By how many bars after a start something still differed, and from which on it must not."""

    what: str
    last: int
    allowed: int


async def warmup(
    make: Make,
    bars: Sequence[Bar],
    agents: Sequence[Agent],
    calendars: Calendars,
    *,
    starts: int = STARTS,
) -> Finding:
    """Whether the day a replay begins changes what it knows and predicts once it has warmed up.

    The record is replayed from its beginning and from several later bars. Compared are all columns
    of the kernel and every agent's probability, bar by bar: each column must have the same bits
    from the bar on at which it counts as settled, each vote once its whole window is settled. Not
    compared is what is meant to remember all of history: trust, and with it the forecast, the paper
    portfolio, the policy's mode, breakers, and the targets that follow from them.
    """
    whole, run = await _seen(make, bars), _Starts()
    for i in range(1, starts + 1):
        part = bars[i * len(bars) // (2 * starts + 2) :]
        ages, openings = _ages(part, calendars)
        other, settled = await _seen(make, part), _settled(part, ages, openings)
        run.update(whole, other, agents, ages, settled)
    return _warm(run, starts)


@dataclass(slots=True)
class _Starts:
    """What replays with other starts have shown so far."""

    lags: dict[str, _Lag] = field(default_factory=dict)
    rows: int = 0
    signals: int = 0
    latest: float = 0.0  # by how much votes differed at most while they might
    unsettled: set[str] = field(default_factory=set)

    def update(
        self,
        whole: _Seen,
        other: _Seen,
        agents: Sequence[Agent],
        ages: Mapping[Key, int],
        settled: Mapping[str, Sequence[int]],
    ) -> None:
        """Compare one of them; `settled` has with which bar each column of a symbol is."""
        for key, row in other.rows.items():
            self.rows += 1
            for place in _different(whole.rows[key], row):
                _note(self.lags, f"column {NAMES[place]}", ages[key], settled[key[0]][place])
        for name, one in other.signals.items():
            self.signals += 1
            for agent, ours, theirs in _votes(one, whole.signals.get(name)):
                allowed = _vote_settled(agents, agent, settled[str(one["symbol"])])
                if (age := ages[_key(one)]) < allowed and ours is not None and theirs is not None:
                    self.latest = max(self.latest, abs(ours - theirs))
                _note(self.lags, f"vote of {agent}", age, allowed)
        for symbol, allowed_at in settled.items():
            longest = max(age for key, age in ages.items() if key[0] == symbol)
            shown = _shown(whole)
            self.unsettled |= {NAMES[place] for place in shown if allowed_at[place] >= longest}


def _warm(run: _Starts, starts: int) -> Finding:
    lags, unsettled = run.lags, run.unsettled
    late = [one for one in lags.values() if one.last >= one.allowed]
    columns = [one.last for one in lags.values() if one.what.startswith("column")]
    answers = [one.last for one in lags.values() if one.what.startswith("vote")]
    numbers = {
        "starts": starts,
        "rows": run.rows,
        "signals": run.signals,
        "columns_same_after_bars": max(columns, default=0),
        "votes_same_after_bars": max(answers, default=0),
        "largest_early_difference": run.latest,
        "columns_not_reached": len(unsettled),
    }
    if late:
        worst = max(late, key=lambda one: one.last)
        return Finding(
            "warmup",
            False,
            f"The start changes what follows: {worst.what} still differed {worst.last} bars after "
            f"a start, and must not from bar {worst.allowed} on ({len(late)} such).",
            numbers,
        )
    said = (
        f"The start changes nothing once warmed up: of {run.rows} rows and {run.signals} signals "
        f"after {starts} other starts all columns that had settled, and all votes on them, were "
        f"the same to the bit. The last column that differed did so {max(columns, default=0)} bars "
        f"after its start, the last vote {max(answers, default=0)} bars; until then "
        f"votes differed by at most {run.latest:.2g}."
    )
    if unsettled:
        said += f" {len(unsettled)} columns had no time to settle; give more bars to compare them."
    return Finding("warmup", True, said, numbers)


def _note(lags: dict[str, _Lag], what: str, age: int, allowed: int) -> None:
    """Keep what differed for longest, of all that should not any more the first."""
    was = lags.get(what)
    if was is None or (age >= allowed, age) > (was.last >= was.allowed, was.last):
        lags[what] = _Lag(what, age, allowed)


def _ages(bars: Sequence[Bar], calendars: Calendars) -> tuple[dict[Key, int], dict[Key, int]]:
    """Which bar of its series each is, counted from 1, and how many openings were seen by then."""
    ages: dict[Key, int] = {}
    openings: dict[Key, int] = {}
    counts: dict[tuple[str, str], tuple[int, int, int]] = {}
    for bar in bars:
        series = (bar.symbol, bar.interval)
        session = calendars.of(bar.symbol).of(bar.open_time)[0]
        seen, known, opened = counts.get(series, (0, session, 0))
        counts[series] = seen + 1, session, opened + (session != known)
        ages[key_of(bar)], _, openings[key_of(bar)] = counts[series]
    return ages, openings


def _settled(
    bars: Sequence[Bar], ages: Mapping[Key, int], openings: Mapping[Key, int]
) -> dict[str, list[int]]:
    """Of each symbol, with which bar after its start each column is settled."""
    at: dict[tuple[str, int], int] = {}  # symbol and openings → bar
    for bar in bars:
        key = key_of(bar)
        at.setdefault((bar.symbol, openings[key]), ages[key])
    never = len(bars) + 1
    return {
        symbol: [
            max(
                column.settled_at,
                at.get((symbol, column.sessions), never) if column.sessions else 0,
            )
            for column in COLUMNS
        ]
        for symbol in {bar.symbol for bar in bars}
    }


def _vote_settled(agents: Sequence[Agent], name: str, settled: Sequence[int]) -> int:
    """With which bar the whole window of an agent is settled."""
    [chosen] = [agent.feature_set for agent in agents if agent.name == name]
    return max(settled[int(place)] for place in chosen.indices) + chosen.window - 1


def _votes(
    signal: Mapping[str, object], other: Mapping[str, object] | None
) -> Iterator[tuple[str, float | None, float | None]]:
    """The agents whose probability differs, with both; None where one has none."""
    ours, theirs = _answers(signal), _answers(other) if other else {}
    for name in {**ours, **theirs}:
        if ours.get(name) != theirs.get(name):
            yield name, ours.get(name), theirs.get(name)


def _answers(signal: Mapping[str, object]) -> dict[str, float]:
    votes = signal["votes"]
    assert isinstance(votes, (list, tuple))
    return {vote["agent"]: vote["probability"] for vote in votes}
