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
    gross_cap, net_cap = _in_units(settings.gross_cap), _in_units(settings.net_cap)
    longs, shorts = (
        (np.minimum(np.maximum(side, 0.0), settings.gross_cap) * _UNITS).astype(np.int64)
        for side in (wanted, -wanted)
    )
    grouped = np.full(len(wanted), gross_cap, dtype=np.int64)
    for rows in groups:
        part = (longs + shorts)[rows], grouped[rows], _in_units(settings.group_cap)
        grouped[rows] = _fill(*part, settings.newcomer_share)
    gross = _fill(longs + shorts, grouped, gross_cap, settings.newcomer_share)
    long = _fill(longs, gross, net_cap, settings.newcomer_share)
    short = _fill(shorts, gross, net_cap, settings.newcomer_share)
    is_gross = (gross < grouped) | (grouped == gross_cap)
    whole = min(settings.gross_cap, settings.net_cap)
    return Allotment(
        _in_fractions(long, whole),
        _in_fractions(short, whole),
        np.where(long < gross, 2, is_gross).astype(np.int8),
        np.where(short < gross, 2, is_gross).astype(np.int8),
    )


def _fill(wanted: _Units, ceiling: _Units, capacity: int, newcomer_share: float) -> _Units:
    """Shares of a capacity whose sum does not exceed it, each at most its ceiling."""
    kept = int(capacity * newcomer_share) // max(len(ceiling), 1)
    shares: _Units = _shares(wanted, ceiling, capacity, kept)
    return shares


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


def _one_pass(wanted, ceiling, capacity, least):  # type: ignore[no-untyped-def]
    """Where ceilings do not fit: `least` for all, then what is wanted, then what is left."""
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
_shares = njit("int64[::1](int64[::1], int64[::1], int64, int64)", cache=True, error_model="numpy")(
    _one_pass
)


def _in_units(cap: float) -> int:
    return int(cap * _UNITS)


def _in_fractions(units: _Units, whole: float) -> _Floats:
    """As floats; who has the whole cap has all of it, not only its whole units."""
    return np.where(units == _in_units(whole), whole, units / _UNITS)
