"""What was told of each series and is not filled yet, and what is wanted of it now."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import Bar
from quantum_ai_engine.risk.positions import Said


class Order(msgspec.Struct, frozen=True, array_like=True):
    """A target, from the close of its bar on and until `valid_until`; `wanted` is before caps."""

    close_time: int
    target: float
    wanted: float
    valid_until: int


class SavedTold(msgspec.Struct, frozen=True, array_like=True):
    """Of one series: the order in force, if any, and those that are not due yet."""

    holds: Order | None
    waiting: tuple[Order, ...]


class Told:
    """The targets that subscribers were told, each due at the open of the next final bar."""

    def __init__(self) -> None:
        self._holds: list[Order | None] = []
        self._waiting: list[dict[int, Order]] = []

    def reserve(self, series: int) -> None:
        """Make room for `series` series, of which nothing was told."""
        missing = series - len(self._holds)
        self._holds += [None] * missing
        self._waiting += [{} for _ in range(missing)]

    def note(self, series: int, said: Said, valid_until: int) -> None:
        """Take what a signal said; an amended one takes the place of the first."""
        self.take(series, Order(said.close_time, said.target, said.wanted, valid_until))

    def take(self, series: int, order: Order) -> None:
        """The same of an order that is made already."""
        self._waiting[series][order.close_time] = order

    def order(self, series: int, bar: Bar) -> float | None:
        """The target to be filled at the open of a final bar: None where there is no new one.

        A target that expired with no other after it is an order to be flat.
        """
        waiting, holds, open_time = self._waiting[series], self._holds[series], bar.open_time
        due = [at for at in waiting if at <= open_time]
        newest = waiting[max(due)] if due else None
        for at in due:
            del waiting[at]
        if newest is not None and (holds is None or newest.close_time >= holds.close_time):
            holds = self._holds[series] = newest
        elif holds is None or holds.valid_until >= open_time:
            return None
        assert holds is not None
        if holds.valid_until >= open_time:
            return holds.target
        self._holds[series] = None
        return 0.0

    def wanted(self) -> NDArray[np.float64]:
        """What each series would hold without caps over all [series]; 0 where nothing holds."""
        return np.array([order.wanted if order else 0.0 for order in self._holds])

    def saved(self, series: int) -> SavedTold:
        """All of one series, for `restore`."""
        orders = self._waiting[series]
        return SavedTold(self._holds[series], tuple(orders[at] for at in sorted(orders)))

    def restore(self, series: int, saved: SavedTold) -> None:
        """Give a series what was saved."""
        self._holds[series] = saved.holds
        self._waiting[series] = {order.close_time: order for order in saved.waiting}
