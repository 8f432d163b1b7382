"""Allotment: whatever is held within the shares, the caps hold; nobody starves or is held back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.risk.allotment import Allotment, allot, group_rows
from quantum_ai_engine.risk.sizing import Limit, Room

Floats = NDArray[np.float64]
caps = st.floats(0.01, 3.0)
risk_settings = st.builds(
    RiskSettings,
    gross_cap=caps,
    net_cap=caps,
    group_cap=caps,
    newcomer_share=st.floats(0.0, 1.0),
)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Floats, tuple[NDArray[np.int64], ...], RiskSettings]:
    """What many series want, groups that may overlap, and caps in any relation."""
    wanted = draw(
        st.lists(st.floats(-1.0, 1.0) | st.sampled_from([0.0, 1.0, -1.0, 1e-300]), max_size=40)
    )
    places = st.sets(st.integers(0, max(len(wanted) - 1, 0)), max_size=len(wanted))
    chosen = draw(st.lists(places, max_size=3)) if wanted else []
    groups = tuple(np.array(sorted(places), dtype=np.int64) for places in chosen)
    return np.array(wanted, dtype=np.float64), groups, draw(risk_settings)


def worst(shares: Allotment, signs: list[int]) -> Floats:
    """The largest targets in these directions (0: none)."""
    signed = np.array(signs[: len(shares.long)])
    return np.where(signed > 0, shares.long, np.where(signed < 0, -shares.short, 0.0))


def held_to_caps(
    targets: Floats, groups: tuple[NDArray[np.int64], ...], settings: RiskSettings
) -> bool:
    return (
        math.fsum(abs(targets)) <= settings.gross_cap
        and abs(math.fsum(targets)) <= settings.net_cap
        and all(math.fsum(abs(targets[rows])) <= settings.group_cap for rows in groups)
    )


@given(worlds(), st.lists(st.sampled_from([-1, 0, 1]), min_size=40, max_size=40), st.data())
def test_any_targets_within_the_shares_keep_the_caps(
    world: tuple[Floats, tuple[NDArray[np.int64], ...], RiskSettings],
    signs: list[int],
    data: st.DataObject,
) -> None:
    """Adversarial targets, each at its limit or inside, either way: exact, without tolerance."""
    wanted, groups, settings = world
    shares = allot(wanted, groups, settings)
    assert (shares.long >= 0.0).all()
    assert (shares.short >= 0.0).all()
    for extreme in (signs, [1] * 40, [-1] * 40):
        targets = worst(shares, extreme)
        assert held_to_caps(targets, groups, settings)
        inside = data.draw(st.floats(0.0, 1.0))
        assert held_to_caps(targets * inside, groups, settings)


@pytest.mark.parametrize("seed", range(5))
def test_thousands_of_series_keep_the_caps(seed: int) -> None:
    """The sums hold exactly at the size that the engine is made for, too."""
    rng = np.random.default_rng(seed)
    wanted = rng.uniform(-1.0, 1.0, 5000) ** 5
    groups = tuple(np.sort(rng.choice(5000, 700, replace=False)) for _ in range(6))
    settings = RiskSettings(gross_cap=0.1 + seed, net_cap=0.7, group_cap=0.31)
    shares = allot(wanted, groups, settings)
    for signs in (rng.integers(-1, 2, 5000), np.sign(wanted), np.ones(5000), -np.ones(5000)):
        assert held_to_caps(worst(shares, signs.astype(int).tolist()), groups, settings)


@given(st.floats(-1.0, 1.0), risk_settings)
def test_one_symbol_may_use_everything(wanted: float, settings: RiskSettings) -> None:
    """Alone, whatever it wants and whichever way, it has the smaller of gross and net, whole."""
    shares = allot(np.array([wanted]), (), settings)
    whole = min(settings.gross_cap, settings.net_cap)
    assert shares.long.tolist() == shares.short.tolist() == [whole]


@given(worlds())
def test_what_fits_is_granted(
    world: tuple[Floats, tuple[NDArray[np.int64], ...], RiskSettings],
) -> None:
    """Where all that is wanted fits into all caps beside the share of newcomers, none binds."""
    wanted, groups, settings = world
    for rows in (*groups, np.arange(len(wanted))):
        cap = settings.group_cap if len(rows) < len(wanted) else settings.gross_cap
        cap = min(cap, settings.net_cap, settings.group_cap) * (1.0 - settings.newcomer_share)
        total = math.fsum(abs(wanted[rows]))
        wanted = wanted * min(1.0, 0.999 * cap / total) if total else wanted
    shares = allot(wanted, groups, settings)
    assert (np.maximum(wanted, 0.0) <= shares.long + 1e-9).all()
    assert (np.maximum(-wanted, 0.0) <= shares.short + 1e-9).all()


@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_of_series_changes_no_bit(
    world: tuple[Floats, tuple[NDArray[np.int64], ...], RiskSettings], random: object
) -> None:
    """Who came first gets nothing more: shares move with their series, bit for bit."""
    wanted, groups, settings = world
    order = list(range(len(wanted)))
    random.shuffle(order)  # type: ignore[attr-defined]
    at = np.argsort(np.array(order, dtype=np.int64))
    moved = tuple(at[rows] for rows in groups)
    one, other = allot(wanted, groups, settings), allot(wanted[order], moved, settings)
    assert one.long[order].tolist() == other.long.tolist()
    assert one.short[order].tolist() == other.short.tolist()


def test_a_newcomer_is_not_starved() -> None:
    """Where others want far more than there is, a symbol that wants nothing yet keeps a share."""
    settings = RiskSettings(gross_cap=1.0, net_cap=1.0, newcomer_share=0.1)
    shares = allot(np.array([1.0] * 9 + [0.0]), (), settings)
    assert shares.long[9] == pytest.approx(0.01)
    assert shares.long[0] == pytest.approx(0.99 / 9)
    greedy = allot(np.array([1.0] * 9 + [0.0]), (), RiskSettings(newcomer_share=0.0))
    assert greedy.long[9] == 0.0


def test_what_does_not_fit_is_shared_in_proportion() -> None:
    """Beyond the share of newcomers, who wants twice as much gets twice as much."""
    settings = RiskSettings(gross_cap=0.3, net_cap=0.3, newcomer_share=0.0)
    assert allot(np.array([0.28, -0.14]), (), settings).long == pytest.approx([0.2, 0.1])


def test_long_and_short_offset_each_other_in_net_only() -> None:
    """Net binds longs and shorts each for themselves; gross binds them together."""
    settings = RiskSettings(gross_cap=2.0, net_cap=0.5, newcomer_share=0.0)
    shares = allot(np.array([0.8, -0.8]), (), settings)
    assert shares.long[0] == pytest.approx(0.5)
    assert shares.short[1] == pytest.approx(0.5)


def test_the_room_of_a_series_names_its_cap() -> None:
    """L38: what a target was bound by can be told."""
    settings = RiskSettings(gross_cap=1.0, net_cap=1.0, group_cap=0.2, newcomer_share=0.0)
    shares = allot(np.array([0.5, 0.0, -0.5]), (np.array([0]),), settings)
    assert shares.room(0).long == pytest.approx(0.2)
    assert shares.room(0).long_limit is Limit.GROUP_CAP
    assert shares.room(2).short_limit is Limit.GROSS_CAP
    alone = allot(np.array([0.5]), (), RiskSettings(gross_cap=1.0, net_cap=0.9)).room(0)
    assert (alone.long, alone.long_limit) == (0.9, Limit.NET_CAP)
    whole = allot(np.array([0.5]), (), RiskSettings(gross_cap=0.6, net_cap=0.9)).room(0)
    assert (whole.long, whole.long_limit) == (0.6, Limit.GROSS_CAP)


def test_a_series_that_was_not_there_has_no_room() -> None:
    """What was not shared out cannot be used until the next moment."""
    assert allot(np.array([0.5]), (), RiskSettings()).room(1) == Room(0.0, 0.0)
    assert allot(np.empty(0), (), RiskSettings()).room(0) == Room(0.0, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    """L36: nothing is shared out by NaN."""
    with pytest.raises(ValueError, match="a wanted target is not a finite number"):
        allot(np.array([0.1, value]), (), RiskSettings())


def test_groups_are_found_by_symbol() -> None:
    """All intervals of a symbol are in its groups; a group without a series is empty."""
    settings = RiskSettings(groups=("majors BTC|ETH", "alts  DOGE", "all BTC|ETH|SOL"))
    rows = group_rows(("BTC", "SOL", "BTC", "ETH"), settings)
    assert [r.tolist() for r in rows] == [[0, 2, 3], [], [0, 1, 2, 3]]
    assert group_rows(("BTC",), RiskSettings()) == ()
