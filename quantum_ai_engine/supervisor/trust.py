"""Trust: how far each agent is listened to, earned by settled outcomes alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import msgspec
import numpy as np
from numba import njit
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
# Why losses are refused.
_REFUSALS = (
    "",
    "the base-rate expert is never asleep: its loss is NaN",
    "a Brier loss is outside 0 to 1",
    "a weight is outside 0 to 1",
    "the weights of those awake do not sum to 1",
)

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
    """Per expert R/U, C/U, ln 2 w(0, C/U), and whether it has been awake for enough rounds.

    `known` are merits, by how far the best of those asked about lies behind the crowd.
    """

    regrets: list[float]
    swings: list[float]
    level: list[float]
    seasoned: list[bool]
    known: dict[float, list[float]]

    def merits(self, behind: float) -> list[float]:
        """Per expert ln (w(R, C) / w(0, C)) if it is awake; 0 for one that is new."""
        if behind not in self.known:
            columns = zip(self.regrets, self.swings, self.level, self.seasoned, strict=True)
            self.known[behind] = [
                _log_weight(regret - behind, swing) - level if is_seasoned else 0.0
                for regret, swing, level, is_seasoned in columns
            ]
        return self.known[behind]


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
        self._earned = np.zeros((3, count))  # regret, swing and age
        self._rounds = np.zeros(count, dtype=np.int64)
        self._evidence: _Evidence | None = None  # that follows from them

    def update(self, losses: Vector, weights: Vector) -> None:
        """Learn from the predictions of one moment that have settled: one round.

        `losses` [n, A+1] are Brier losses, 0 to 1, NaN where an agent had abstained; `weights`
        [n, A+1] the `Shares.weights` with which each was decided. Of those asleep in all rows
        nothing changes. Raises ValueError.
        """
        if (
            losses.ndim != 2
            or losses.shape != weights.shape
            or losses.shape[1] != len(self._experts)
        ):
            raise ValueError(
                f"losses {losses.shape} and weights {weights.shape} are not both "
                f"[n, {len(self._experts)}]"
            )
        kept = 1.0 - 1.0 / self._settings.memory_outcomes
        earned, rounds = self._earned.copy(), self._rounds.copy()
        refused = _learn(losses, weights, kept, earned, rounds)
        if refused:
            raise ValueError(_REFUSALS[refused])
        if len(losses):
            self._earned, self._rounds, self._evidence = earned, rounds, None

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
        columns = (*self._earned, self._rounds)
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
        self._earned, self._rounds = self._earned.copy(), self._rounds.copy()
        for i, one in enumerate([*at, saved.base]):
            if one is not None:
                self._earned[:, i], self._rounds[i] = (one.regret, one.swing, one.age), one.rounds

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
        evidence = self._evidence
        heard = zip(evidence.regrets, awake, evidence.seasoned, strict=True)
        shown = [regret for regret, is_awake, is_seasoned in heard if is_awake and is_seasoned]
        merits = evidence.merits(min(max(shown, default=0.0), 0.0))
        known = zip(merits, awake, strict=True)
        return [merit if is_awake else -math.inf for merit, is_awake in known]

    def _weighed(self) -> _Evidence:
        """What the experts have shown, in units of its usual size; whoever is awake."""
        regret, swing, age = self._earned.tolist()
        seasoned = [rounds >= self._settings.min_outcomes for rounds in self._rounds.tolist()]
        shown = zip(swing, age, seasoned, strict=True)
        unit = _unit([c / n for c, n, is_seasoned in shown if is_seasoned])
        swings = [one / unit for one in swing]
        level = [_log_weight(0.0, one) for one in swings]
        return _Evidence([one / unit for one in regret], swings, level, seasoned, {})


def _unit(swings: Sequence[float]) -> float:
    """The unit of regrets, from experts with enough rounds: new ones have no usual swing."""
    if not swings:
        return LEAST_UNIT
    return max(UNIT_SWINGS * median(swings), LEAST_UNIT)


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


_jit = njit(error_model="numpy", inline="always")


@_jit
def _refused(losses, weights):  # type: ignore[no-untyped-def]  # it is compiled
    """Why there is nothing to be learned from these: its place in `_REFUSALS`, or 0."""
    count, experts = losses.shape
    for i in range(count):
        if math.isnan(losses[i, experts - 1]):
            return 1
        for j in range(experts):
            if losses[i, j] < 0.0 or losses[i, j] > 1.0:
                return 2
    for i in range(count):
        total = 0.0
        for j in range(experts):
            if not math.isnan(losses[i, j]):
                if not 0.0 <= weights[i, j] <= 1.0 + TOLERANCE:
                    return 3
                total += weights[i, j]
        if not abs(total - 1.0) <= TOLERANCE:
            return 4
    return 0


@_jit
def _crowd(losses, weights, parts):  # type: ignore[no-untyped-def]
    """The crowd's loss [A+1] less the base rate's.

    The parts of it are sorted before they are summed, so that the order of experts changes no bit.
    """
    experts = losses.shape[0]
    for j in range(experts):
        part, at = 0.0, j
        if not math.isnan(losses[j]):
            part = weights[j] * (losses[j] - losses[experts - 1])
        while at > 0 and parts[at - 1] > part:
            parts[at] = parts[at - 1]
            at -= 1
        parts[at] = part
    crowd = 0.0
    for j in range(experts):
        crowd += parts[j]
    return crowd


def _one_pass(losses, weights, kept, earned, rounds):  # type: ignore[no-untyped-def]
    """Let a round of losses [n, A+1] count in what was earned; gives why not, if it is refused.

    A regret is the mean, over the rows where an expert was awake, of the crowd's loss less its;
    both against the base rate, so that equal losses give a regret of 0 to the last bit.
    """
    refused = _refused(losses, weights)
    if refused:
        return refused
    count, experts = losses.shape
    regrets, awake, parts = np.zeros(experts), np.zeros(experts), np.empty(experts)
    for i in range(count):
        crowd = _crowd(losses[i], weights[i], parts)
        for j in range(experts):
            if not math.isnan(losses[i, j]):
                regrets[j] += crowd - (losses[i, j] - losses[i, experts - 1])
                awake[j] += 1.0
    for j in range(experts):
        if awake[j] > 0.0:
            regret = regrets[j] / awake[j]
            earned[0, j] = kept * earned[0, j] + regret
            earned[1, j] = kept * earned[1, j] + abs(regret)
            earned[2, j] = kept * earned[2, j] + 1.0
            rounds[j] += 1
    return 0


# Compiled when this module is loaded, from the cache if it is there: never at the first bar.
_learn = njit(
    "int64(float64[:, :], float64[:, :], float64, float64[:, ::1], int64[::1])",
    cache=True,
    error_model="numpy",
)(_one_pass)
