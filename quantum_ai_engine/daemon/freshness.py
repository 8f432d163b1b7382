"""Which series have stopped: their last signals hold no more, and everybody is told."""

from collections.abc import Iterable

import msgspec
import structlog

from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.events import SIGNAL_SCHEMA, Bar, Tombstone, signal_id

log = structlog.get_logger()


class Freshness:
    """Tells, once each time, of series whose bars have stopped, and of those that go on."""

    def __init__(self, keys: Keys, environment: str) -> None:
        self._keys = keys
        self._environment = environment
        self._stale: dict[tuple[str, str], int] = {}
        self._told: dict[tuple[str, str], int] = {}

    @property
    def stale(self) -> tuple[str, ...]:
        """The series that have stopped."""
        return tuple(f"{symbol} {interval}" for symbol, interval in self._stale)

    def update(self, overdue: Iterable[Bar], now_ms: int) -> list[tuple[str, str]]:
        """Take note of the newest bars of the series that are overdue.

        (Channel, tombstone) of those that nobody was told of; they are due until `told`.
        """
        before, self._stale = self._stale, {}
        due = []
        for bar in overdue:
            series = (bar.symbol, bar.interval)
            self._stale[series] = bar.close_time
            if self._told.get(series) != bar.close_time:
                due.append((self._keys.signal_channel(bar.symbol), self._tombstone(bar, now_ms)))
        self._log(before)
        return due

    def told(self) -> None:
        """Take note that what was due has been published."""
        self._told = dict(self._stale)

    def _log(self, before: dict[tuple[str, str], int]) -> None:
        """One line for all that stopped, and one for all that came back."""
        if stopped := sorted(self._stale.keys() - before.keys()):
            log.warning(
                f"{len(stopped)} series have stopped, {' '.join(stopped[0])} among them: flat",
                event_name="series_stale",
                series=[" ".join(one) for one in stopped[:20]],
                count=len(stopped),
            )
        if back := sorted(before.keys() - self._stale.keys()):
            log.info(
                f"{len(back)} series go on, {' '.join(back[0])} among them",
                event_name="series_fresh",
                series=[" ".join(one) for one in back[:20]],
                count=len(back),
            )

    def _tombstone(self, bar: Bar, now_ms: int) -> str:
        tombstone = Tombstone(
            schema=SIGNAL_SCHEMA,
            id=signal_id(bar.symbol, bar.interval, bar.close_time) + "|stale",
            environment=self._environment,
            symbol=bar.symbol,
            interval=bar.interval,
            close_time=bar.close_time,
            produced_at=now_ms,
        )
        return msgspec.json.encode(tombstone).decode()
