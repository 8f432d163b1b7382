"""Drives the policy minute by minute, for its tests."""

from functools import cache

import msgspec
from hypothesis import strategies as st

from quantum_ai_engine.config import PolicySettings
from quantum_ai_engine.risk.policy import Aprl, Mode, PolicyState, SavedPolicy

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
STRICTNESS = list(Mode)  # DEFENSIVE, NORMAL, AGGRESSIVE
DEFAULT = PolicySettings()
# Short enough that a few dozen moments of a minute take the policy through all modes.
QUICK = PolicySettings(
    volatility_frac=0.4,
    volatility_leave_frac=0.2,
    volatility_period_ms=HOUR_MS,
    volatility_halflife_ms=5 * MINUTE_MS,
    review_ms=2 * MINUTE_MS,
    dwell_ms=3 * MINUTE_MS,
    min_samples=5,
    recovery_halflife_ms=5 * MINUTE_MS,
    block_ms=MINUTE_MS,
    block_bound_frac=0.01,
    min_blocks=5,
    equity_stale_ms=4 * MINUTE_MS,
)
GROWTHS = st.one_of(
    st.floats(-0.06, 0.06), st.floats(-0.002, 0.006), st.sampled_from([0.0, 0.003, -0.5])
)
# What happens in a minute: growth of the paper portfolio, and a reported growth or none.
STEPS = st.lists(st.tuples(GROWTHS, st.none() | GROWTHS), max_size=60)
PAPER_STEPS = st.lists(st.tuples(GROWTHS, st.none()), max_size=60)


class Run:
    """Drives a policy minute by minute, with equity that grows by given fractions."""

    def __init__(self, settings: PolicySettings = QUICK) -> None:
        self.policy = Aprl(settings)
        self.settings = settings
        self.minute, self.paper, self.reported = 0, 1.0, 10_000.0

    def step(self, growth: float, reported: float | None = None) -> PolicyState:
        self.minute += 1
        self.paper *= 1.0 + growth
        if reported is not None:
            self.reported *= 1.0 + reported
            self.policy.report(self.minute * MINUTE_MS, self.reported)
        self.policy.update(self.minute * MINUTE_MS, self.paper)
        return self.policy.get()

    def steps(self, some: list[tuple[float, float | None]]) -> list[PolicyState]:
        return [self.step(*one) for one in some]

    def quiet(self, minutes: int, growth: float = 0.0) -> PolicyState:
        for _ in range(minutes):
            self.step(growth)
        return self.policy.get()

    def restarted(self) -> "Run":
        """The same, gone through bytes."""
        packed = msgspec.msgpack.encode(self.policy.saved())
        other = Run(self.settings)
        other.policy.restore(msgspec.msgpack.decode(packed, type=SavedPolicy))
        other.minute, other.paper, other.reported = self.minute, self.paper, self.reported
        return other


@cache
def proven() -> Run:
    run = Run()
    assert run.quiet(120, growth=0.003).mode is Mode.AGGRESSIVE
    return run


def aggressive() -> Run:
    """A policy that steady gains have made AGGRESSIVE."""
    return proven().restarted()


def is_laxer(one: Mode, other: Mode) -> bool:
    return STRICTNESS.index(one) > STRICTNESS.index(other)
