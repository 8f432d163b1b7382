"""Allotment: gross, net and group caps shared out beforehand, so that no order of bars matters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.risk.sizing import Limit, Room

_Floats = NDArray[np.float64]
_Units = NDArray[np.int64]
# Exposure is counted in whole units of 2⁻⁴⁰ of equity: their sums are exact in any order, and as
# floats they are exact, too. What is left over by rounding, below 10⁻⁸ in all, is not used.
_UNITS = 2.0**40
_LIMITS = (Limit.GROUP_CAP, Limit.GROSS_CAP, Limit.NET_CAP)


@dataclass(frozen=True, slots=True)
class Allotment:
    """What each series may hold, long and short; both are fractions of equity, [series].

    Whatever each of them holds within that keeps the sum of |target|, of targets, and of |target|
    per group within their caps.
    """

    long: _Floats
    short: _Floats
    long_limits: NDArray[np.int8]
    short_limits: NDArray[np.int8]

    def room(self, series: int) -> Room:
        """What one series may hold; nothing, if it was not there yet."""
        if series >= len(self.long):
            return Room(0.0, 0.0)
        return Room(
            float(self.long[series]),
            float(self.short[series]),
            _LIMITS[self.long_limits[series]],
            _LIMITS[self.short_limits[series]],
        )

    def scattered(self, places: _Units, series: int) -> "Allotment":
        """The same among `series` series, of which only those at these places have room."""
        if len(places) == series:
            return self
        long, short = np.zeros((2, series))
        # Who has none waits for a share of the gross cap.
        long_limits, short_limits = np.full((2, series), _LIMITS.index(Limit.GROSS_CAP), np.int8)
        long[places], short[places] = self.long, self.short
        long_limits[places], short_limits[places] = self.long_limits, self.short_limits
        return Allotment(long, short, long_limits, short_limits)


def group_rows(symbols: Sequence[str], settings: RiskSettings) -> tuple[_Units, ...]:
    """For each group of `risk.groups` which series are in it, by the symbols of all series.

    >>> [rows.tolist() for rows in group_rows(("A", "B", "A"), RiskSettings(groups=("g A",)))]
    [[0, 2]]
    """
    groups = settings.members().values()
    return tuple(
        np.array([i for i, symbol in enumerate(symbols) if symbol in members], dtype=np.int64)
        for members in groups
    )


def allot(wanted: _Floats, groups: Sequence[_Units], settings: RiskSettings) -> Allotment:
    """Share out the caps by what is wanted, signed and before these caps, [series].

    Of each cap `newcomer_share` is kept in equal parts for all. Where what is wanted fits, it is
    granted, and what is left goes to all by what each is short of its own cap; where it does not
    fit, it is granted in proportion. Groups come first, then gross, then net; each only lowers.
    Raises `ValueError` when something wanted is not finite.

    >>> allot(np.array([0.3]), (), RiskSettings(gross_cap=1.0, net_cap=0.9)).long.tolist()
    [0.9]
    >>> both = allot(np.array([0.9, 0.3]), (), RiskSettings(gross_cap=1.0, net_cap=1.0))
    >>> both.long.round(3).tolist()
    [0.745, 0.255]
    """
    if not np.isfinite(wanted).all():
        raise ValueError("a wanted target is not a finite number")
    caps, newcomers, n = (
        (settings.gross_cap, settings.net_cap),
        settings.newcomer_share,
        len(wanted),
    )
    grouped = np.full(n, _in_units(settings.gross_cap), dtype=np.int64)
    for rows in groups:
        some, most = wanted[rows], settings.gross_cap
        sides = _units(some, most) + _units(-some, most)
        kept = _least(settings.group_cap, len(rows), newcomers)
        grouped[rows] = _fill(sides, grouped[rows], _in_units(settings.group_cap), kept)
    room, limits = np.empty((2, n)), np.empty((2, n), dtype=np.int8)
    each = _least(caps[0], n, newcomers), _least(caps[1], n, newcomers)
    _share_out(wanted, grouped, caps, each, room, limits)
    return Allotment(*room, *limits)


def _units(wanted: _Floats, most: float) -> _Units:
    """What is wanted of one side, in whole units."""
    units: _Units = (np.minimum(np.maximum(wanted, 0.0), most) * _UNITS).astype(np.int64)
    return units


def _least(cap: float, series: int, newcomer_share: float) -> int:
    """What is kept for each series, in units."""
    return int(_in_units(cap) * newcomer_share) // max(series, 1)


def _in_units(cap: float) -> int:
    return int(cap * _UNITS)


_jit = njit(error_model="numpy", inline="always")


@_jit
def _sum(parts):  # type: ignore[no-untyped-def]  # it is compiled
    total = 0
    for part in parts:
        total += part
    return total


@_jit
def _grant(parts, capacity, shares):  # type: ignore[no-untyped-def]
    """Add the parts to the shares, scaled down where their sum exceeds the capacity.

    Rounding of the scale and the products is far below one unit in all, and each is rounded down
    to whole units: so the sum, which is whole, cannot exceed the capacity. One alone has all of it.
    """
    total = _sum(parts)
    scale = capacity / total if total > capacity else 1.0
    for i in range(parts.shape[0]):
        if total <= capacity:
            shares[i] += parts[i]
        elif parts[i] == total:
            shares[i] += capacity
        else:
            shares[i] += int(parts[i] * scale)


def _fill_one(wanted, ceiling, capacity, least):  # type: ignore[no-untyped-def]
    """Shares of a capacity whose sum does not exceed it, each at most its ceiling.

    Where ceilings do not fit: `least` for all, then what is wanted, then what is left.
    """
    if _sum(ceiling) <= capacity:
        return ceiling
    shares, parts = np.empty_like(ceiling), np.empty_like(ceiling)
    for i in range(ceiling.shape[0]):
        shares[i] = min(ceiling[i], least)
        parts[i] = max(min(wanted[i], ceiling[i]) - shares[i], 0)
    _grant(parts, capacity - _sum(shares), shares)
    for i in range(ceiling.shape[0]):
        parts[i] = ceiling[i] - shares[i]
    _grant(parts, capacity - _sum(shares), shares)
    return shares


# Compiled when this module is loaded, from the cache if it is there: never at the first bar.
_fill = njit("int64[::1](int64[::1], int64[::1], int64, int64)", cache=True, error_model="numpy")(
    _fill_one
)


@_jit
def _tell(side, gross, is_gross, whole, room, limits):  # type: ignore[no-untyped-def]
    """A side as fractions, with its limits; who has the whole cap has all of it, not its units."""
    for i in range(side.shape[0]):
        room[i] = whole if side[i] == int(whole * _UNITS) else side[i] / _UNITS
        limits[i] = 2 if side[i] < gross[i] else is_gross[i]


def _one_pass(wanted, grouped, caps, least, room, limits):  # type: ignore[no-untyped-def]
    """Share out gross and net caps, first long, then short [2, n], below what groups leave."""
    gross_cap, net_cap = caps
    n, most, gross_units = wanted.shape[0], gross_cap, int(gross_cap * _UNITS)
    sides, is_gross = np.empty((2, n), dtype=np.int64), np.empty(n, dtype=np.int8)
    for i in range(n):
        sides[0, i] = int(min(max(wanted[i], 0.0), most) * _UNITS)
        sides[1, i] = int(min(max(-wanted[i], 0.0), most) * _UNITS)
    gross = _fill(sides[0] + sides[1], grouped, gross_units, least[0])
    for i in range(n):
        is_gross[i] = gross[i] < grouped[i] or grouped[i] == gross_units
    whole = min(gross_cap, net_cap)
    for j in range(2):
        side = _fill(sides[j], gross, int(net_cap * _UNITS), least[1])
        _tell(side, gross, is_gross, whole, room[j], limits[j])


_share_out = njit(
    "void(float64[::1], int64[::1], UniTuple(float64, 2), UniTuple(int64, 2), float64[:, ::1], "
    "int8[:, ::1])",
    cache=True,
    error_model="numpy",
)(_one_pass)
