"""Cold starts: from the bar at which a state says that it has settled, it never stopped."""

from hashlib import sha256

import numpy as np
import pytest

from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.columns import COLUMNS, EVERYTHING, NAMES

from ..features import bars as made
from ..features.bars import CHICAGO, HOUR, MINUTE, NEW_YORK, Floats

STARTS = 12  # of each kind
BARS, NEWEST_START = 4_200, 1_800
# A recursion forgets a move of a factor x after ln(x) / α bars more than the 48 / α that a column
# declares: prices that go up a millionfold within a bar are none to any market.
BEYOND_MARKETS = {"huge jumps", "one bad print"}


def kinds() -> dict[str, Floats]:
    """Long series; sessions of 24, 7 or 23 bars, so that openings pass soon."""
    found = {
        name: made.market(values(BARS, seed), HOUR).bars()
        for seed, (name, values) in enumerate(made.VALUES.items(), 50)
    }
    return found | {
        "New York": made.venue_market(BARS, HOUR, NEW_YORK).bars(),
        "Chicago": made.venue_market(BARS, HOUR, CHICAGO).bars(),
        "gaps": made.with_gaps(made.market(made.walk(2 * BARS, 70), HOUR), 70).bars(),
    }


KINDS = kinds()


def cold(bars: Floats) -> tuple[Floats, Floats]:
    """The rows of a state that begins with these bars, and at which of them it has settled."""
    states, rows = kernel.new_states(1), np.empty((len(bars), kernel.COLUMN_COUNT))
    settled = np.empty(len(bars), dtype=np.bool_)
    for i, bar in enumerate(bars):
        kernel.step(states[0], bar, rows[i], EVERYTHING)
        settled[i] = kernel.settled(states)[0]
    return rows, settled


def digests(rows: Floats) -> list[str]:
    return [sha256(row.tobytes()).hexdigest() for row in rows]


def seen_openings(bars: Floats) -> Floats:
    """How many sessions have opened at each bar since the first."""
    opened = np.concatenate([[0.0], bars[1:, 7] != bars[:-1, 7]])
    return np.cumsum(opened)


@pytest.mark.parametrize("kind", KINDS)
def test_a_settled_state_has_the_bits_of_one_that_never_stopped(kind: str) -> None:
    """L43: after a cold start at any bar, each row from the first settled one has equal bits."""
    bars = KINDS[kind]
    whole = kernel.matrix(bars)
    random = np.random.default_rng(len(kind))
    for start in random.integers(1, NEWEST_START, STARTS):
        never_stopped = whole[start:]
        rows, settled = cold(bars[start:])
        first = int(np.argmax(settled))
        assert settled[first:].all()
        assert not settled[:first].any()
        assert digests(rows[first:]) == digests(never_stopped[first:])


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - BEYOND_MARKETS))
def test_each_column_settles_at_its_bar(kind: str) -> None:
    """L43: a column has equal bits from its own `settled_at` on, when its sessions have opened."""
    bars = KINDS[kind]
    whole = kernel.matrix(bars)
    random = np.random.default_rng(1_000 + len(kind))
    for start in random.integers(1, NEWEST_START, STARTS):
        rows, settled = cold(bars[start:])
        openings = seen_openings(bars[start:])
        for at, column in enumerate(COLUMNS):
            begin = max(column.settled_at - 1, int(np.argmax(openings >= column.sessions)))
            if column.name == "amihud_20":  # shows its last value, and needs to have had one
                begin = int(np.argmax(settled))
            same = rows[begin:, at].tobytes() == whole[start + begin :, at].tobytes()
            assert same, (NAMES[at], start)


def test_a_state_settles_no_sooner_than_it_can_know() -> None:
    """Too few bars, too few openings, or no price that ever moved: it has not settled."""
    days = made.market(made.walk(1_600, 1), HOUR)
    _, settled = cold(days.bars())
    last_settled_at = max(column.settled_at for column in COLUMNS)
    assert int(np.argmax(settled)) == last_settled_at - 1
    _, settled = cold(made.market(made.walk(2_900, 1), MINUTE).bars())
    assert not settled[: 1_440 * 2].any()
    assert settled[1_440 * 2 :].all()
    _, settled = cold(made.market(made.dots([5.0] * 1_600), HOUR).bars())
    assert not settled.any()


def test_windows_forget_a_bad_print() -> None:
    """L18: once a print of 6e9 has left the windows, nothing of it is left in their columns.

    The recursions forget it too, some ln(6e7) / α bars later than a print of a sane size.
    """
    clean = made.market(made.walk(2_400, 7), HOUR).bars()
    dirty = clean.copy()
    dirty[50, :5] = 6e9, 6e9, 6e9, 6e9, 1e15
    rows, again = kernel.matrix(clean), kernel.matrix(dirty)
    windows = [i for i, c in enumerate(COLUMNS) if c.ready_at == c.settled_at and not c.sessions]
    assert len(windows) > 100
    assert rows[50 + 62 :, windows].tobytes() == again[50 + 62 :, windows].tobytes()
    assert rows[2_100:].tobytes() == again[2_100:].tobytes()
