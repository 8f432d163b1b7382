"""Blocks of settled predictions: which bars are in them, what counts, what comes too late."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.supervisor.blocks import PAIRED, SCORES, Blocks, SavedBlocks, scores

probabilities = st.floats(0.0, 1.0)
outcomes = st.sampled_from([0.0, 1.0])
predictions = st.lists(st.tuples(probabilities, outcomes), min_size=1, max_size=12)


def scored(made: list[tuple[float, float]]) -> np.ndarray:
    p, y = np.array(made).T
    return scores(p, y, 0.48, 0.51)


def same(one: Blocks, other: Blocks) -> bool:
    return one.saved() == other.saved()


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 10_000))
def test_no_outcome_belongs_to_two_blocks(block_bars: int, horizon_bars: int, slot: int) -> None:
    """The first bar after a block whose prediction is in another lies a horizon or more ahead."""
    period = Blocks(block_bars, horizon_bars).period_bars

    def block_of(at: int) -> int | None:
        return at // period if at % period < block_bars else None

    near = [block_of(slot + step) for step in range(horizon_bars)]
    assert len(set(near) - {None}) <= 1


@given(probabilities, outcomes, probabilities, probabilities)
def test_scores_lie_between_what_was_known_before(
    p: float, y: float, base_rate: float, usual: float
) -> None:
    """L29: scores are in probability space, and their bounds need no outcome."""
    value, low, high = scores(np.array([p]), np.array([y]), base_rate, usual).reshape(3, SCORES)
    _, other_low, other_high = scores(np.array([p]), np.array([1.0 - y]), base_rate, usual).reshape(
        3, SCORES
    )
    assert (low <= value).all()
    assert (value <= high).all()
    assert (low == other_low).all()
    assert (high == other_high).all()
    assert value[PAIRED] == pytest.approx((p - y) ** 2 - (base_rate - y) ** 2)
    assert np.abs(value).max() <= 1.0


@given(predictions, st.integers(0, 12))
def test_the_grouping_of_calls_changes_no_bit(made: list[tuple[float, float]], cut: int) -> None:
    """All predictions of a bar in one call, or in two, give the same sums."""
    whole, parts = Blocks(10, 5), Blocks(10, 5)
    whole.update(3, scored(made))
    for part in (made[:cut], made[cut:]):
        if part:
            parts.update(3, scored(part))
    assert same(whole, parts)


@given(st.permutations(range(10)))
def test_the_order_of_bars_in_an_open_block_does_not_matter(order: list[int]) -> None:
    """A series that comes late counts as if it had come in time, as long as the block is open."""
    ascending, shuffled = Blocks(10, 5), Blocks(10, 5)
    made = {slot: scored([(0.05 * slot + 0.1, float(slot % 2))]) for slot in range(10)}
    for slot in range(10):
        ascending.update(slot, made[slot])
    for slot in order:
        shuffled.update(slot, made[slot])
    assert same(ascending, shuffled)


def test_the_embargo_is_in_no_block_and_counted() -> None:
    """Predictions of the last horizon − 1 bars of a period are not tested."""
    blocks = Blocks(3, 3)
    for slot in range(5):
        blocks.update(slot, scored([(0.6, 1.0), (0.4, 1.0)]))
    assert blocks.embargoed == 4
    assert blocks.get().value.shape == (SCORES, 3)


@given(st.lists(st.tuples(st.integers(0, 30), predictions), max_size=10))
def test_what_comes_for_an_ended_block_is_left_out(
    late: list[tuple[int, list[tuple[float, float]]]],
) -> None:
    """Late predictions are counted and change no bit of the block that is open."""
    blocks = Blocks(10, 5)
    blocks.update(45, scored([(0.6, 1.0)]))
    before = blocks.saved()
    for slot, made in late:
        assert not blocks.is_ended_by(slot)
        blocks.update(slot, scored(made))
    after = blocks.saved()
    assert (after.sums, after.counts, after.number) == (before.sums, before.counts, before.number)
    assert after.left_out + after.embargoed == sum(len(made) for _, made in late)


def test_a_bar_counts_once_however_many_symbols_it_has() -> None:
    """Symbols that move together are one observation: a bar is the mean of its predictions."""
    blocks = Blocks(2, 1)
    blocks.update(0, scored([(0.8, 1.0)] * 9))
    blocks.update(1, scored([(0.8, 0.0)]))
    p, q = (0.2**2 - 0.52**2), (0.8**2 - 0.48**2)
    assert blocks.get().value[PAIRED] == pytest.approx([p, q])


def test_a_block_ends_with_the_first_prediction_of_a_later_one() -> None:
    """Also when that one is under the embargo; a block without predictions does not end."""
    blocks = Blocks(10, 5)
    assert not blocks.is_ended_by(3)
    blocks.update(3, scored([(0.5, 1.0)]))
    assert not blocks.is_ended_by(13)
    assert blocks.is_ended_by(14)
    assert blocks.is_ended_by(27)
    blocks.update(27, scored([(0.5, 1.0)]))
    assert not blocks.is_ended_by(28)


@given(st.lists(st.tuples(st.integers(0, 60), predictions), max_size=20), st.integers(0, 20))
def test_blocks_continue_where_they_were_saved(
    made: list[tuple[int, list[tuple[float, float]]]], cut: int
) -> None:
    """L43: saved and restored through bytes anywhere, no later bit changes."""
    whole, restored = Blocks(7, 3), Blocks(7, 3)
    for at, (slot, some) in enumerate(made):
        if at == cut:
            sent = msgspec.msgpack.encode(restored.saved())
            restored = Blocks(7, 3)
            restored.restore(msgspec.msgpack.decode(sent, type=SavedBlocks))
        for blocks in (whole, restored):
            blocks.update(slot, scored(some))
    assert same(whole, restored)


def test_blocks_of_another_size_are_not_restored() -> None:
    """A saved block of other settings is refused in one sentence."""
    with pytest.raises(ValueError, match="the saved block has 7 bars, not 8"):
        Blocks(8, 3).restore(Blocks(7, 3).saved())
