"""Trust: how far each agent is listened to, earned by settled outcomes alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.config import TrustSettings

LEAST_PRIOR, MOST_PRIOR = 1e-3, 1e3
BASE_PRIOR = 1.0
SKILL_STDERRS = 2.0  # held-out skill of so many standard errors counts as shown
SHOWN = 4.0  # … and starts with so many times the base rate's prior
UNIT_SWINGS = 4.0  # mean |regret|s in a unit: of normal ones, one in 700 is larger
LEAST_UNIT = 1e-4  # a mean Brier difference below this is no reason to trust or to distrust
LEAST_SHARE = 1e-12  # of an expert that the hedge has given up
TOLERANCE = 1e-9

Vector = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Expert(msgspec.Struct, frozen=True):
    """An agent as trust sees it: its name, its bundle's id and its prior relative to the others.

    The base-rate forecast has prior 1; see `prior_of`.
    """

    name: str
    bundle: str
    prior: float

    def __post_init__(self) -> None:
        if not LEAST_PRIOR <= self.prior <= MOST_PRIOR:
            raise ValueError(
                f"prior {self.prior} of {self.name} is outside {LEAST_PRIOR:g} to {MOST_PRIOR:g}"
            )


class SavedExpert(msgspec.Struct, frozen=True, array_like=True):
    """What one expert has earned."""

    name: str
    bundle: str
    regret: float
    swing: float
    age: float
    rounds: int


class SavedTrust(msgspec.Struct, frozen=True, array_like=True):
    """What all experts have earned, for `Trust.restore`."""

    agents: tuple[SavedExpert, ...]
    base: SavedExpert


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Who is listened to for one bar.

    `trust` [A] sums to 1 over those who may vote and is 0 elsewhere; `base`, 0 to 1, is the
    base-rate expert's share beside them, before floor and cap: what exposure is to be scaled down
    by. Where nobody may vote trust is all zeros, and `base` 1.
    """

    trust: Vector
    base: float

    @property
    def weights(self) -> Vector:
        """The row [A+1] that `Trust.update` wants back when the predictions have settled."""
        return np.append(self.trust * (1.0 - self.base), self.base)


def prior_of(paired: float, paired_stderr: float) -> float:
    """The prior of an agent with this held-out paired score: ¼ to 4, where the base rate has 1.

    4 to the power of z / 2, with z = −paired / stderr held within ±2 standard errors: no skill
    starts like the base rate itself, skill that is shown with 4 times its prior, harm that is shown
    with a quarter. So neither a lucky test span nor an unlucky one decides for long. A score
    without spread shows nothing.

    >>> [round(prior_of(paired, 0.001), 2) for paired in (-0.01, -0.001, 0.0, 0.01)]
    [4.0, 2.0, 1.0, 0.25]
    """
    if not math.isfinite(paired) or not 0.0 <= paired_stderr < math.inf:
        raise ValueError(f"no paired score with its standard error: {paired} ± {paired_stderr}")
    if paired_stderr == 0.0:
        return BASE_PRIOR
    stderrs = -paired / paired_stderr
    shown = min(max(stderrs / SKILL_STDERRS, -1.0), 1.0)
    return float(BASE_PRIOR * SHOWN**shown)


class _Evidence(NamedTuple):
    """Per expert R/U, C/U, ln 2 w(0, C/U), and whether it has been awake for enough rounds."""

    regrets: list[float]
    swings: list[float]
    level: list[float]
    seasoned: list[bool]


class Trust:
    """Trust in agents, by AdaNormalHedge with sleeping experts; the last expert is the base rate.

    Of each expert it keeps the regret R (what the crowd lost more than this expert did, summed over
    rounds), the swing C = Σ |regret| and the age N, the rounds it was awake; all three fade, by
    1/`memory_outcomes` in a round. An expert's share of those awake is proportional to

        prior · w(R/U, C/U) / w(0, C/U),  w(R, C) = ½ (Φ(R+1, C+1) − Φ(R−1, C+1)),
        Φ(R, C) = exp(max(R, 0)² / 3C),  U = 4 times the median of the experts' C/N.

    Source: Luo and Schapire 2015, with three changes besides memory. The paper's losses fill the
    range 0 to 1; those of honest forecasts differ by hundredths, so that regrets are taken in units
    U of their usual size. Its w alone favours whoever was seldom awake; divided by w(0, C) an
    expert without regret weighs as its prior says, however old it is. Where all of the awake are
    behind the crowd, the least of them counts as level with it.

    >>> trust = Trust([Expert("a", "x", 1.0), Expert("b", "y", 1.0)], TrustSettings())
    >>> losses = np.array([[0.20, 0.30, 0.25]])
    >>> shares = trust.shares(np.array([True, True]), np.array([False, False]))
    >>> for _ in range(200):
    ...     trust.update(losses, shares.weights[np.newaxis])
    >>> trust.shares(np.array([True, True]), np.array([False, False])).trust
    array([0.6, 0.4])
    """

    def __init__(self, experts: Sequence[Expert], settings: TrustSettings) -> None:
        if len({(expert.name, expert.bundle) for expert in experts}) < len(experts):
            raise ValueError("two experts have the same name and bundle")
        count = len(experts) + 1
        self._experts = (*experts, Expert("base rate", "", BASE_PRIOR))
        self._settings = settings
        self._regret, self._swing, self._age = np.zeros((3, count))
        self._rounds = np.zeros(count, dtype=np.int64)
        self._evidence: _Evidence | None = None  # that follows from them

    def update(self, losses: Vector, weights: Vector) -> None:
        """Learn from the predictions of one moment that have settled: one round.

        `losses` [n, A+1] are Brier losses, 0 to 1, NaN where an agent had abstained; `weights`
        [n, A+1] the `Shares.weights` with which each was decided. Of those asleep in all rows
        nothing changes. Raises ValueError.
        """
        _check(losses, weights, len(self._experts))
        if len(losses) == 0:
            return
        regret, awake = _mean_regrets(losses, weights)
        size, kept = np.abs(regret), 1.0 - 1.0 / self._settings.memory_outcomes
        self._regret = np.where(awake, kept * self._regret + regret, self._regret)
        self._swing = np.where(awake, kept * self._swing + size, self._swing)
        self._age = np.where(awake, kept * self._age + 1.0, self._age)
        self._rounds = self._rounds + awake
        self._evidence = None

    @property
    def weights(self) -> Vector:
        """The shares [A+1] of all experts if all were awake, before floor and cap."""
        return np.array(self._shares([True] * len(self._experts)))

    @property
    def rounds(self) -> NDArray[np.int64]:
        """The rounds [A+1] in which each expert was awake."""
        return self._rounds.copy()

    def shares(self, awake: Flags, barred: Flags) -> Shares:
        """The trust [A] of agents for a bar: of those `awake` [A] who are not `barred` [A]."""
        voters = (awake & ~barred).tolist()
        if len(voters) != len(self._experts) - 1:
            raise ValueError(f"flags of {len(voters)} agents, not of {len(self._experts) - 1}")
        base = self._shares([*voters, True])[-1]
        at = [i for i, is_voter in enumerate(voters) if is_voter]
        trust = np.zeros(len(voters))
        if at:
            capped = self._capped(at)
            trust[at] = bounded([capped[i] for i in at], self._settings.floor, self._settings.cap)
        return Shares(trust, base)

    def frozen(self) -> "Trust":
        """The same as it is now: what this one learns from here on is not in it."""
        # Nothing here is changed in place, so that both may hold the same arrays.
        twin = object.__new__(Trust)
        twin.__dict__.update(self.__dict__)
        return twin

    def saved(self) -> SavedTrust:
        """What all experts have earned; priors are not in it, since bundles bring them."""
        columns = (self._regret, self._swing, self._age, self._rounds)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        known = [
            SavedExpert(expert.name, expert.bundle, *row)
            for expert, row in zip(self._experts, rows, strict=True)
        ]
        return SavedTrust(tuple(known[:-1]), known[-1])

    def restore(self, saved: SavedTrust) -> None:
        """Give each expert, by name and bundle, what it had earned.

        Those that `saved` lacks keep their prior; those that are gone are dropped. Where no agent
        is known, the base rate begins anew as well: what it earned was against others.
        """
        known = {(one.name, one.bundle): one for one in saved.agents}
        at = [known.get((expert.name, expert.bundle)) for expert in self._experts[:-1]]
        if len(at) > 0 and not any(at):
            return
        self._evidence = None
        self._regret, self._swing = self._regret.copy(), self._swing.copy()
        self._age, self._rounds = self._age.copy(), self._rounds.copy()
        for i, one in enumerate([*at, saved.base]):
            if one is not None:
                self._regret[i], self._swing[i] = one.regret, one.swing
                self._age[i], self._rounds[i] = one.age, one.rounds

    def _capped(self, voters: Sequence[int]) -> dict[int, float]:
        """The shares of voters under the cap: what it leaves goes to the others by their own merit.

        They share it as if those at the cap were asleep. Scaled alike instead, all of those that
        are nothing beside the best one would be given the same.
        """
        cap, held = max(self._settings.cap, 1.0 / len(voters)), dict[int, float]()
        while free := [i for i in voters if i not in held]:
            left = 1.0 - math.fsum(held.values())
            shares = self._shares([i in free for i in range(len(self._experts))])
            over = [i for i in free if shares[i] * left > cap]
            held |= {i: cap if over else shares[i] * left for i in over or free}
        return held

    def _shares(self, awake: Sequence[bool]) -> list[float]:
        """The share of each expert among the awake; 0 for the others."""
        merits = self._merits(awake)
        most = max(merits)
        raw = [
            expert.prior * math.exp(merit - most)
            for expert, merit in zip(self._experts, merits, strict=True)
        ]
        total = math.fsum(raw)  # exact: the order of the experts changes no bit
        return [one / total for one in raw]

    def _merits(self, awake: Sequence[bool]) -> list[float]:
        """Per expert ln (w(R, C) / w(0, C)): 0 without evidence, −inf where it has no say."""
        if self._evidence is None:
            self._evidence = self._weighed()
        regrets, swings, level, seasoned = self._evidence
        pairs = zip(regrets, awake, seasoned, strict=True)
        behind = min(max((r for r, *flags in pairs if all(flags)), default=0.0), 0.0)
        merits = []
        for i, is_awake in enumerate(awake):
            if is_awake and seasoned[i]:
                merits.append(_log_weight(regrets[i] - behind, swings[i]) - level[i])
            else:
                merits.append(0.0 if is_awake else -math.inf)
        return merits

    def _weighed(self) -> _Evidence:
        """What the experts have shown, in units of its usual size; whoever is awake."""
        is_seasoned = self._rounds >= self._settings.min_outcomes
        unit = self._unit(is_seasoned)
        swings = (self._swing / unit).tolist()
        level = [_log_weight(0.0, swing) for swing in swings]
        return _Evidence((self._regret / unit).tolist(), swings, level, is_seasoned.tolist())

    def _unit(self, seasoned: Flags) -> float:
        """The unit of regrets, from experts with enough rounds: new ones have no usual swing."""
        if not seasoned.any():
            return LEAST_UNIT
        usual = float(median((self._swing[seasoned] / self._age[seasoned]).tolist()))
        return max(UNIT_SWINGS * usual, LEAST_UNIT)


def bounded(shares: Sequence[float], floor: float, cap: float) -> list[float]:
    """Shares scaled alike until, held between floor and cap, they sum to 1.

    A floor above or a cap below the equal share gives way to it.

    >>> bounded([0.9, 0.1, 0.0], 0.02, 0.6)
    [0.6, 0.38, 0.02]
    """
    if not shares:
        return []
    low, high = min(floor, 1.0 / len(shares)), max(cap, 1.0 / len(shares))
    # Whoever has none must still be able to take what a cap on the others leaves.
    wanted = [max(share, LEAST_SHARE) for share in shares]
    held: dict[int, float] = {}
    while free := [i for i in range(len(wanted)) if i not in held]:
        scale = (1.0 - math.fsum(held.values())) / math.fsum(wanted[i] for i in free)
        over = {i: wanted[i] * scale - high for i in free if wanted[i] * scale > high}
        under = {i: low - wanted[i] * scale for i in free if wanted[i] * scale < low}
        if not over and not under:
            held |= {i: wanted[i] * scale for i in free}
        elif math.fsum(over.values()) >= math.fsum(under.values()):
            held |= dict.fromkeys(over, high)  # the scale can only rise: these stay too large
        else:
            held |= dict.fromkeys(under, low)
    return [held[i] for i in range(len(wanted))]


def _log_weight(regret: float, swing: float) -> float:
    """Ln of 2 w(R, C); −inf where it is 0. Logarithms, since Φ overflows."""
    high, low = (max(regret + step, 0.0) ** 2 / (3.0 * (swing + 1.0)) for step in (1.0, -1.0))
    grown = -math.expm1(low - high)
    return high + math.log(grown) if grown > 0.0 else -math.inf


def _mean_regrets(losses: Vector, weights: Vector) -> tuple[Vector, Flags]:
    """Per expert the mean [A+1], over the rows where it was awake, of the crowd's loss minus its.

    Also whether it was awake in any.
    """
    awake = ~np.isnan(losses)
    # Against the base rate, so that equal losses give a regret of 0 to the last bit.
    paired = np.where(awake, losses - losses[:, -1:], 0.0)  # [n, A+1]
    # Sorted, so that the order of the experts changes no bit.
    shares = np.sort(np.where(awake, weights, 0.0) * paired, axis=1)
    crowd = np.zeros(len(losses))
    for i in range(shares.shape[1]):
        crowd += shares[:, i]
    regrets = np.where(awake, crowd[:, np.newaxis] - paired, 0.0)
    rows = np.add.reduce(awake, axis=0)
    return np.add.reduce(regrets, axis=0) / np.maximum(rows, 1), rows > 0


def _check(losses: Vector, weights: Vector, experts: int) -> None:
    if losses.ndim != 2 or losses.shape[1] != experts or losses.shape != weights.shape:
        raise ValueError(
            f"losses {losses.shape} and weights {weights.shape} are not both [n, {experts}]"
        )
    asleep = np.isnan(losses)
    if asleep[:, -1].any():
        raise ValueError("the base-rate expert is never asleep: its loss is NaN")
    if ((losses < 0.0) | (losses > 1.0)).any():  # NaN is neither
        raise ValueError("a Brier loss is outside 0 to 1")
    given = np.where(asleep, 0.0, weights)
    if not ((given >= 0.0) & (given <= 1.0 + TOLERANCE)).all():
        raise ValueError("a weight is outside 0 to 1")
    if not (np.abs(np.add.reduce(given, axis=1) - 1.0) <= TOLERANCE).all():
        raise ValueError("the weights of those awake do not sum to 1")
