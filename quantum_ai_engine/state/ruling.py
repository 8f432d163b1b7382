"""A ruling: all that was decided on evidence and money, and holds for bars from some time on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import Policy, Risk
from quantum_ai_engine.risk.allotment import Allotment
from quantum_ai_engine.risk.brain import State
from quantum_ai_engine.risk.sizing import Mandate
from quantum_ai_engine.state.decision import Terms
from quantum_ai_engine.supervisor.trust import SavedTrust, Shares, Trust

NO_ROOM = 1.0  # the place of the limit of a series without room: the gross cap


class SavedRuling(msgspec.Struct, frozen=True, array_like=True):
    """A ruling, for a snapshot; figures of series are little-endian float64."""

    at_ms: int
    trust: SavedTrust
    barred: tuple[bool, ...]
    policy: Policy
    risk: Risk
    long: bytes
    short: bytes
    long_limits: bytes
    short_limits: bytes
    volatility: bytes
    quarantined: bytes

    def ruling(self, trust: Trust, barred: NDArray[np.bool_]) -> "Ruling":
        """The ruling, with trust and quarantine of the agents that there are now."""
        long, short, long_limits, short_limits, volatility, quarantined = (
            np.frombuffer(part, "<f8").astype(np.float64)
            for part in (
                *(self.long, self.short, self.long_limits, self.short_limits),
                *(self.volatility, self.quarantined),
            )
        )
        limits = long_limits.astype(np.int8), short_limits.astype(np.int8)
        room = Allotment(long, short, *limits)
        is_ill = quarantined > 0.0
        return Ruling(self.at_ms, trust, barred, self.policy, self.risk, room, volatility, is_ill)


@dataclass(frozen=True, slots=True, eq=False)
class Ruling:
    """What holds for bars that close at `at_ms` or later, until the next ruling.

    `barred` [A] agents are quarantined. `volatility` [series] is annualised, NaN where it is not
    known; the feeds of `quarantined` [series] are not believed.
    """

    at_ms: int
    trust: Trust
    barred: NDArray[np.bool_]
    policy: Policy
    risk: Risk
    allotment: Allotment
    volatility: NDArray[np.float64]
    quarantined: NDArray[np.bool_]
    _shares: dict[tuple[bool, ...], Shares] = field(default_factory=dict)
    _mandates: list[Mandate] = field(default_factory=list, init=False)

    def shares(self, awake: tuple[bool, ...]) -> Shares:
        """Who is listened to, given who answered [A]; figured out once."""
        shares = self._shares.get(awake)
        if shares is None:
            shares = self.trust.shares(np.array(awake, dtype=bool), self.barred)
            self._shares[awake] = shares
        return shares

    def remember(self, shares: Shares) -> None:
        """Take the shares when all agents answer, which are known already."""
        self._shares[(True,) * len(self.barred)] = shares

    def of(self, series: int) -> Terms:
        """What holds for one series; one that is newer than the ruling may hold nothing yet."""
        if not self._mandates:
            state, policy = State(self.risk.state), self.policy
            self._mandates.append(Mandate(state, policy.exposure_cap, policy.leverage))
        mandate = self._mandates[0]
        if series >= len(self.volatility):
            return Terms(mandate, self.allotment.room(series), None, is_quarantined=False)
        volatility: float = self.volatility.item(series)
        return Terms(
            mandate,
            self.allotment.room(series),
            None if math.isnan(volatility) else volatility,
            self.quarantined.item(series),
        )

    def saved(self, at: Sequence[int]) -> SavedRuling:
        """All of it, of these series."""
        room, some = self.allotment, list(at)
        parts = _column(room.long, some), _column(room.short, some)
        limits = _column(room.long_limits, some, NO_ROOM), _column(room.short_limits, some, NO_ROOM)
        return SavedRuling(
            self.at_ms,
            self.trust.saved(),
            tuple(self.barred.tolist()),
            self.policy,
            self.risk,
            *parts,
            *limits,
            _column(self.volatility, some, np.nan),
            _column(self.quarantined, some),
        )


def _column(values: NDArray[np.generic], at: list[int], missing: float = 0.0) -> bytes:
    """Figures of some series as little-endian float64."""
    rows = np.full(max(at, default=-1) + 1, missing)
    held = values[: len(rows)]
    rows[: len(held)] = held
    return rows[at].astype("<f8").tobytes()
