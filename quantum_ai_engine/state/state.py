"""The state of the engine as one object.

Bars go in, in the order of their stream; what is due to be asked about comes out, part by part.
Nothing here reads a clock.
"""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import chain

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.config import EngineSettings, IngestSettings
from quantum_ai_engine.events import INTERVAL_MS, Bar, Change, Command, Reason, Refused
from quantum_ai_engine.features.order import Arrival, Place, bar_of, place_of, whole_runs
from quantum_ai_engine.features.schema import FeatureSet
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.features.store import (
    DEPTH,
    FILLED,
    LOOKBACK,
    VERSION,
    FeatureStore,
    SnapshotError,
)
from quantum_ai_engine.risk.positions import Positions
from quantum_ai_engine.state.batch import Due, Part, Pending, Series, Taken
from quantum_ai_engine.state.finality import Finality, Moment
from quantum_ai_engine.state.judgement import Judgement
from quantum_ai_engine.state.record import Record
from quantum_ai_engine.state.saved import (
    PART_SERIES,
    STATE_VERSION,
    Body,
    Head,
    decode,
    encode,
    seal,
)
from quantum_ai_engine.supervisor.ledger import Void

FILLED_MOST = DEPTH  # missing bars in a row: beyond them a hole stays a hole
_Row = NDArray[np.float64]


class EngineState:
    """Order, features and positions of all series.

    The same bars in the same order give the same state; so do bars that come late, as long as they
    come within `ingest.late_bars` of their time.
    """

    def __init__(
        self,
        sets: tuple[FeatureSet, ...],
        calendars: Calendars,
        engine: EngineSettings,
        ingest: IngestSettings,
        judgement: Judgement,
    ) -> None:
        self.newest_close = 0
        self.judgement = judgement
        self.features = FeatureStore(sets)
        self._finality = Finality(ingest.late_bars)
        # Bars that may still be valid when a late one comes, and whose windows can be read.
        self._looked_at_again = min(math.ceil(engine.valid_intervals) + 2, DEPTH)
        self.positions = Positions(self._looked_at_again + 1)
        self._longest_window = max((s.window for s in sets), default=1)
        self._calendars = calendars
        self._max_series = engine.max_series
        self._ingest = ingest
        self._at: dict[tuple[str, str], int] = {}
        self._series: list[Series] = []

    def apply(self, command: Command) -> list[Change]:
        """Let a command of an operator take effect, for all bars after it."""
        return self.judgement.command(command, self.newest_close)

    def settle(self, moment: Moment) -> list[Change]:
        """Judge by the bars of a moment; what changed."""
        return self.judgement.settle(moment, self._looked_at_again + self._ingest.late_bars + 1)

    def note(self, one: Due, record: Record, valid_until: int) -> None:
        """Take what was predicted of a bar, and said.

        Of one that was final when it came nothing will settle: it is in no moment.
        """
        if self._finality.was_final(one.bar, one.newest_close):
            self.judgement.ledger.voids[Void.LATE] += 1
        else:
            self.judgement.note(one.series, record, valid_until)
        if record.said is not None:
            self.positions.update(one.series, record.said)

    def recall(self, record: Record) -> None:
        """Take note of what was said of a series that is known; nothing is judged by it."""
        series = self.find(record.symbol, record.interval)
        if series is not None and record.said is not None:
            self.positions.update(series, record.said)

    def take(self, bars: Sequence[Bar], taken: Taken) -> Iterator[Part]:
        """Take bars in the order of their stream; must be gone through to the end."""
        pending = Pending()
        for position, bar in enumerate(bars):
            try:
                series = self._series_of(bar)
                is_pending, newest = series in pending.count, self._series[series].newest
                if newest is None or bar.open_time > newest.open_time:
                    if is_pending and not self._fits(pending, series, bar):
                        yield self._stepped(pending, is_last=False)
                        pending = Pending()
                    self._append(pending, series, bar, taken)
                elif is_pending and newest == bar:
                    taken.duplicates += 1
                else:
                    if is_pending:
                        yield self._stepped(pending, is_last=False)
                        pending = Pending()
                    place = self._place(series, bar)
                    if place.arrival is Arrival.DUPLICATE:
                        taken.duplicates += 1
                        continue
                    if pending.bars:
                        yield self._stepped(pending, is_last=False)
                        pending = Pending()
                    yield self._rewritten(series, bar, place, taken)
            except Refused as refused:
                taken.refused.append((position, refused))
        if pending.bars:
            yield self._stepped(pending, is_last=True)

    def names(self) -> list[tuple[str, str]]:
        """Symbol and interval of every series."""
        return list(self._at)

    def at(self, symbol: str, interval: str) -> int:
        """The place of a series; a KeyError if there is none."""
        return self._at[symbol, interval]

    def find(self, symbol: str, interval: str) -> int | None:
        """The place of a series, if there is one."""
        return self._at.get((symbol, interval))

    def newest(self, series: int) -> Bar | None:
        """The newest bar of a series."""
        return self._series[series].newest

    def whole(self, series: int) -> int:
        """How many bars in a row, at most `LOOKBACK`, end with the newest of a series."""
        return self._series[series].whole

    def parts(self, names: Sequence[tuple[str, str]] | None = None) -> Iterator[bytes]:
        """The state of these series, or of all: parts of about a megabyte, to be sealed.

        No bar may be taken in between.
        """
        names = sorted(self._at if names is None else names)
        judgement, every = self.judgement, [self._at[name] for name in names]
        rulings = judgement.saved_rulings(every)
        yield encode(
            Head(STATE_VERSION, self._calendars.lines, len(names), judgement.saved(), rulings)
        )
        for start in range(0, len(names), PART_SERIES):
            some = tuple(names[start : start + PART_SERIES])
            at = [self._at[name] for name in some]
            positions = tuple(self.positions.remembered(i) for i in at)
            places = judgement.saved_places(at)
            yield encode(Body(some, positions, self.features.snapshot(at), places))

    def snapshot(self, names: Sequence[tuple[str, str]] | None = None) -> list[bytes]:
        """The same for `restore`, all parts at once and sealed."""
        return [seal(part) for part in self.parts(names)]

    def restore(self, parts: Sequence[bytes]) -> None:
        """Add the series of a snapshot to a state that has none of them, all at once."""
        for _ in self.restoring(parts):
            pass

    def restoring(self, parts: Sequence[bytes]) -> Iterator[None]:
        """The same, a part at a time. Raises `SnapshotError`; this state is then of no use."""
        head, before = decode(parts[0] if parts else b"", Head), len(self._at)
        if head.version != STATE_VERSION:
            raise SnapshotError(f"state version {head.version} is not {STATE_VERSION}")
        if head.venues != self._calendars.lines:
            raise SnapshotError("the snapshot was made with other sessions.venues")
        self.features.reserve(before + head.series)
        self.judgement.restore(head.judgement)
        for part in parts[1:]:
            self._restore(decode(part, Body))
            yield
        self.judgement.restore_rulings(head.rulings)
        self._restore_finality()
        if len(self._at) != before + head.series:
            raise SnapshotError(f"the snapshot lacks some of its {head.series} series")

    def digest(self) -> str:
        """A hash of the whole state; how often a signal was amended is no part of it."""
        names = sorted(self._at)
        at = [self._at[name] for name in names]
        positions = []
        for i in at:
            before, said = self.positions.remembered(i)
            positions.append((before, [msgspec.structs.replace(one, version=0) for one in said]))
        whole = [self._series[i].whole for i in at]
        told = msgspec.msgpack.encode((names, positions, whole, self.newest_close))
        judged = self.judgement.digest(at)
        return blake2b(told + self.features.digest(at) + judged, digest_size=16).hexdigest()

    def overdue(self, now_ms: int, intervals: float) -> Iterator[Bar]:
        """The newest bars of the series that should have had another one `intervals` ago."""
        for one in self._series:
            bar = one.newest
            if bar is None or now_ms <= bar.close_time + intervals * bar.interval_ms:
                continue
            due = self._calendars.of(bar.symbol).next_open(bar.close_time)
            if now_ms > due + intervals * bar.interval_ms:
                yield bar

    def _series_of(self, bar: Bar) -> int:
        key = (bar.symbol, bar.interval)
        series = self._at.get(key)
        if series is not None:
            return series
        if len(self._at) >= self._max_series:
            raise Refused(
                Reason.TOO_MANY_SERIES,
                f"engine.max_series = {self._max_series} series are known already",
            )
        return self._add(key)

    def _add(self, key: tuple[str, str]) -> int:
        self._at[key] = series = len(self._at)
        self._series.append(Series(*key))
        self.positions.reserve(len(self._at))
        self.judgement.reserve([symbol for symbol, _ in self._at])
        self.features.reserve(len(self._at))
        return series

    def _missing(self, before: Bar | None, bar: Bar) -> int:
        if before is None or before.close_time == bar.open_time:
            return 0
        calendar = self._calendars.of(bar.symbol)
        return calendar.missing(before.close_time, bar.open_time, bar.interval_ms)

    def _fits(self, pending: Pending, series: int, bar: Bar) -> bool:
        """Whether after this bar the windows of the pending ones of its series are still there."""
        adds = 1
        if self._ingest.gap_fill == "flat":
            adds += min(self._missing(self._series[series].newest, bar), FILLED_MOST)
        return pending.count[series] + adds <= DEPTH

    def _append(self, pending: Pending, series: int, bar: Bar, taken: Taken) -> None:
        """Put a bar behind the newest of its series, and what is to be filled in before it."""
        one = self._series[series]
        if missing := self._missing(one.newest, bar):
            taken.gaps += 1
            assert one.newest is not None
            fills = self._fills(one.newest, bar, missing)
            taken.filled += len(fills)
            for fill in fills:
                one.whole = min(one.whole + 1, LOOKBACK)
                pending.add(fill, series, one.whole, self.newest_close, FILLED)
            if not fills:
                one.whole = 0
        one.newest, one.whole = bar, min(one.whole + 1, LOOKBACK)
        for moment in self._finality.advance(bar.close_time):
            pending.moments.append((len(pending.bars), moment))
        self._arrived(series, bar, taken)
        pending.add(bar, series, one.whole, self.newest_close, bar.revision)

    def _arrived(self, series: int, bar: Bar, taken: Taken) -> None:
        self._finality.update(series, bar)
        interval_ms = bar.interval_ms
        self.newest_close = max(self.newest_close, bar.open_time + interval_ms)
        taken.processed += 1
        taken.longest_interval_ms = max(taken.longest_interval_ms, interval_ms)

    def _fills(self, before: Bar, bar: Bar, missing: int) -> list[Bar]:
        """The flat bars that stand for the missing ones, if they are to be filled in."""
        if self._ingest.gap_fill != "flat" or missing > FILLED_MOST:
            return []
        calendar, close = self._calendars.of(bar.symbol), before.close
        missed = calendar.missed(before.close_time, bar.open_time, bar.interval_ms)
        return [
            Bar(bar.symbol, bar.interval, open_time, close, close, close, close, 0.0)
            for open_time in chain.from_iterable(missed)
        ]

    def _stepped(self, pending: Pending, *, is_last: bool) -> Part:
        series = np.array(pending.series, dtype=np.int64)
        bars = self._calendars.rows(pending.bars)
        rows = self.features.step(series, bars, np.array(pending.versions, dtype=np.float64))
        # What is filled in is not due, so that a moment comes earlier among those that are.
        due, fills = list[Due](), list[int]()
        columns = pending.bars, pending.series, rows.values, rows.counts.tolist(), pending.whole
        known = zip(*columns, pending.newest_close, pending.versions, strict=True)
        for place, (bar, at, row, count, whole, newest_close, version) in enumerate(known):
            if version == FILLED:
                self._series[at].filled_at = count
                fills.append(place)
                continue
            filled = self._filled(at, count) if self._series[at].filled_at is not None else 0
            due.append(Due(bar, at, row, count, whole, filled, newest_close, is_arrival=True))
        moments = [(at - bisect_left(fills, at), moment) for at, moment in pending.moments]
        return Part(due, is_last, moments=moments)

    def _filled(self, series: int, count: int) -> int:
        """How many bars of the longest window that ends with bar `count` were filled in."""
        at = self._series[series].filled_at
        if at is None or count - at >= self._longest_window:
            return 0
        recent = self.features.recent(series)
        end = len(recent) - (self.features.count(series) - count)
        return int((recent[max(0, end - self._longest_window) : end, VERSION] == FILLED).sum())

    def _place(self, series: int, bar: Bar) -> Place:
        """Where a bar belongs that is not new. Raises `Refused` when it is too late for it."""
        recent = self.features.recent(series)
        place = place_of(recent, bar)
        newer = int((recent[place.at + place.takes_place :, VERSION] != FILLED).sum())
        limit = self._ingest.late_bars
        if place.arrival is Arrival.REVISION and newer > limit:
            raise Refused(
                Reason.REVISION,
                f"a bar closing at {bar.close_time} with other values was processed, and {newer} "
                f"after it: more than ingest.late_bars = {limit}",
            )
        if place.arrival is Arrival.LATE and not self._is_welcome(series, bar, place, newer):
            raise Refused(
                Reason.LATE,
                f"closes at {bar.close_time} and comes after {newer} or more later ones: too late "
                f"(ingest.late_bars = {limit})",
            )
        return place

    def _is_welcome(self, series: int, bar: Bar, place: Place, newer: int) -> bool:
        """Whether a late bar comes soon enough, or belongs into a hole that is remembered."""
        is_soon = newer <= self._ingest.late_bars
        if place.at == 0 and not place.takes_place:
            return is_soon and self.features.count(series) == len(self.features.recent(series))
        calendar = self._calendars.of(bar.symbol)
        return is_soon or calendar.missing(bar.open_time, bar.close_time, bar.interval_ms) > 0

    def _rewritten(self, series: int, bar: Bar, place: Place, taken: Taken) -> Part:
        """Let a bar have come in time; the bar, and the newest ones after it, are due."""
        changed = self._changed(series, bar, place)
        taken.late += place.arrival is Arrival.LATE
        taken.revised += place.arrival is Arrival.REVISION
        self._arrived(series, bar, taken)
        rows = self.features.rewrite(series, changed)
        whole = self._noted(series, changed)
        at = int(np.searchsorted(changed[:, 5], bar.open_time))
        first = len(changed) - self._looked_at_again
        due = []
        for i in range(max(at, first), len(changed)):
            if changed[i, VERSION] != FILLED:
                count = int(rows.counts[i])
                due.append(
                    Due(
                        bar if i == at else bar_of(bar.symbol, bar.interval, changed[i]),
                        series,
                        rows.values[i],
                        count,
                        int(whole[i]),
                        self._filled(series, count),
                        self.newest_close,
                        is_arrival=i == at,
                    )
                )
        return Part(due, is_last=False, too_old=int(at < first))

    def _changed(self, series: int, bar: Bar, place: Place) -> _Row:
        """The recent bars as they are with a bar in its place. Raises `Refused`."""
        recent, row = self.features.recent(series), (*self._calendars.row(bar), bar.revision)
        if place.takes_place:
            changed = recent.copy()
            changed[place.at] = row
        else:
            changed = np.insert(recent, place.at, row, axis=0)
        changed = self._filled_in(changed, bar)
        if len(changed) < len(recent):
            raise Refused(
                Reason.LATE,
                f"closes at {bar.close_time}, in a session that was missing as a whole: what was "
                "filled in around it cannot be undone",
            )
        return changed

    def _filled_in(self, recent: _Row, bar: Bar) -> _Row:
        """Recent bars [m, RECENT_WIDTH], with what is to be filled in filled in anew."""
        if self._ingest.gap_fill != "flat":
            return recent
        # If the first was filled in itself, what comes after it has the same values as before.
        rows: list[_Row] = [recent[0]]
        before = bar_of(bar.symbol, bar.interval, recent[0])
        for row in recent[1:][recent[1:, VERSION] != FILLED]:
            one = bar_of(bar.symbol, bar.interval, row)
            if missing := self._missing(before, one):
                fills = self._fills(before, one, missing)
                rows += [np.array((*self._calendars.row(fill), FILLED)) for fill in fills]
            rows.append(row)
            before = one
        return np.array(rows)

    def _noted(self, series: int, recent: _Row) -> NDArray[np.int64]:
        """Take note of the newest of changed bars; how many in a row [m] end with each."""
        one = self._series[series]
        calendar = self._calendars.of(one.symbol)
        holes = calendar.holes(recent[:, 5].astype(np.int64), INTERVAL_MS[one.interval])
        whole = np.minimum(whole_runs(holes), LOOKBACK)
        one.newest = bar_of(one.symbol, one.interval, recent[-1])
        one.whole = int(whole[-1])
        filled = np.flatnonzero(recent[:, VERSION] == FILLED)
        count = self.features.count(series)
        one.filled_at = count - len(recent) + 1 + int(filled[-1]) if len(filled) else None
        return whole

    def _restore_finality(self) -> None:
        """Which bars are final follows from the newest close time."""
        # A state that was divided may have been judged by bars that others have.
        clock_ms = max(self.newest_close, self.judgement.rulings[-1].at_ms)
        self._finality.restore(clock_ms, (INTERVAL_MS[one.interval] for one in self._series))
        for series, one in enumerate(self._series):
            for row in self.features.recent(series)[::-1]:
                bar = bar_of(one.symbol, one.interval, row)
                if self._finality.is_final(bar):
                    break
                if row[VERSION] != FILLED:
                    self._finality.update(series, bar)

    def _restore(self, body: Body) -> None:
        if twice := [name for name in body.names if name in self._at]:
            raise SnapshotError(f"the series {' '.join(twice[0])} was restored before")
        at = [self._add(name) for name in body.names]

        def rows(i: int, open_time: NDArray[np.int64], ohlcv: _Row) -> _Row:
            symbol, interval = body.names[i]
            return self._calendars.of(symbol).rows(open_time, ohlcv, INTERVAL_MS[interval])

        self.features.restore(at, body.features, rows)
        self.judgement.restore_places(at, body.names, body.judgement)
        for series, (before, said) in zip(at, body.positions, strict=True):
            self.positions.restore(series, before, said)
            self._noted(series, self.features.recent(series))
            newest = self._series[series].newest
            assert newest is not None
            self.newest_close = max(self.newest_close, newest.close_time)
