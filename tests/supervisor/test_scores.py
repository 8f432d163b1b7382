"""Scores: as a plain recomputation has them, none before there is data, kept over a restart."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.supervisor.scores import RECENT_OUTCOMES, SavedScores, Scores

Moment = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
SERIES = 4
seeds = st.integers(0, 2**32 - 1)


def agents(count: int) -> list[tuple[str, str]]:
    return [(f"a{i}", f"b{i}") for i in range(count)]


def moments(seed: int, count: int, sources: int = 3) -> list[Moment]:
    """Settled predictions, sometimes two of one series in a moment, some abstained."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        n = int(rng.integers(0, 6))
        series = rng.integers(0, SERIES, n)
        if rng.random() < 0.5:
            series = np.unique(series)
        n = len(series)
        probabilities = rng.choice([0.0, 1.0, *rng.random(6)], (sources, n))
        probabilities[rng.random((sources, n)) < 0.3] = np.nan
        made.append((series, probabilities, rng.random(n), (rng.random(n) < 0.5).astype(float)))
    return made


def scored(scores: Scores, made: list[Moment]) -> Scores:
    for moment in made:
        scores.update(*moment)
    return scores


def fresh(count: int = 2) -> Scores:
    scores = Scores(agents(count))
    scores.reserve(SERIES)
    return scores


def told(scores: Scores) -> list[Any]:
    """All that can be asked."""
    sources = range(3)
    return [
        [scores.pooled(i) for i in sources],
        [scores.recent(i) for i in sources],
        [scores.calibration(i) for i in sources],
        [scores.of(i, s) for i in sources for s in range(SERIES)],
    ]


@given(seeds, st.integers(1, 20))
def test_scores_are_those_of_a_plain_recomputation(seed: int, count: int) -> None:
    """L28: per agent, pooled and per series: the means over exactly what has settled."""
    made = moments(seed, count)
    scores = scored(fresh(), made)
    series, base, rose = (np.concatenate([m[i] for m in made]) for i in (0, 2, 3))
    probabilities = np.concatenate([m[1] for m in made], axis=1)
    for source, p in enumerate(probabilities):
        for at in (None, *range(SERIES)):
            inside = ~np.isnan(p) & ((series == at) if at is not None else True)
            got = scores.pooled(source) if at is None else scores.of(source, at)
            if not inside.any():
                assert got is None
                continue
            assert got is not None
            residual = p[inside] - rose[inside]
            paired = residual**2 - (base[inside] - rose[inside]) ** 2
            assert got.count == inside.sum()
            assert got.brier == pytest.approx((residual**2).mean())
            assert got.bias == pytest.approx(residual.mean())
            assert got.paired == pytest.approx(paired.mean())
            assert got.paired_spread == pytest.approx(paired.std(), abs=1e-7)


@given(seeds, st.integers(1, 20))
def test_calibration_bins_hold_every_prediction_once(seed: int, count: int) -> None:
    """L21: each bin says how many, their mean and the share that rose; together they are all."""
    made = moments(seed, count)
    scores = scored(fresh(), made)
    rose = np.concatenate([m[3] for m in made])
    p = np.concatenate([m[1][0] for m in made])
    y, p = rose[~np.isnan(p)], p[~np.isnan(p)]
    bins = scores.calibration(0)
    assert sum(b.count for b in bins) == len(p)
    for b in bins:
        inside = (p >= b.low) & ((p < b.high) | (b.high == 1.0))
        assert b.count == inside.sum()
        assert b.mean_probability == pytest.approx(p[inside].mean())
        assert b.rose == pytest.approx(y[inside].mean())


def test_no_data_is_no_score() -> None:
    """L08: before there is data every figure is None, not 0 and not ½."""
    scores = fresh()
    scores.update(np.zeros(0, np.int64), np.zeros((3, 0)), np.zeros(0), np.zeros(0))
    scores.update(np.array([0]), np.full((3, 1), np.nan), np.array([0.5]), np.array([1.0]))
    assert told(scores) == [[None] * 3, [None] * 3, [()] * 3, [None] * 3 * SERIES]


def test_the_recent_score_forgets() -> None:
    """L08: years of good scores do not hide that an agent is bad now; asleep it forgets nothing."""
    scores = fresh(1)
    good, bad = np.full((2, 1), 0.9), np.array([[0.1], [np.nan]])
    for p in [good] * 5 * RECENT_OUTCOMES + [bad] * 2 * RECENT_OUTCOMES:
        scores.update(np.array([0]), p, np.array([0.5]), np.array([1.0]))
    pooled, recent, slept = scores.pooled(0), scores.recent(0), scores.recent(1)
    assert pooled is not None
    assert recent is not None
    assert slept is not None
    assert pooled.brier < 0.3
    assert recent.brier == pytest.approx(0.81 - 0.8 * np.exp(-2.0), abs=0.01)
    assert slept.brier == pytest.approx(0.01)
    assert recent.count == pytest.approx(RECENT_OUTCOMES, rel=0.01)


@settings(max_examples=50)
@given(seeds, st.integers(0, 15))
def test_a_restart_anywhere_changes_no_bit(seed: int, cut: int) -> None:
    """L43: saved, sent and restored, all scores go on as if nothing had been."""
    made = moments(seed, 15)
    whole = scored(fresh(), made)
    saved = scored(fresh(), made[:cut]).saved()
    again = Scores(agents(2))
    again.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(saved), type=SavedScores))
    scored(again, made[cut:])
    assert again.saved() == whole.saved()
    assert told(again) == told(whole)


@given(seeds)
def test_a_restart_with_other_agents_and_series(seed: int) -> None:
    """L43: known bundles keep their scores in any order, series theirs at any place."""
    before = scored(fresh(), moments(seed, 15))
    after = Scores([("a1", "b1"), ("a0", "new")])
    after.restore(before.saved([3, 1]), [0, 5])
    assert after.pooled(0) == before.pooled(1)
    assert after.recent(2) == before.recent(2)
    assert after.calibration(0) == before.calibration(1)
    assert (after.pooled(1), after.recent(1), after.calibration(1)) == (None, None, ())
    assert (after.of(0, 0), after.of(2, 5)) == (before.of(1, 3), before.of(2, 1))
    assert after.of(0, 3) is None


@given(seeds)
def test_a_series_is_scored_alike_alone_and_among_others(seed: int) -> None:
    """L53: what is said of a series depends on its own outcomes only, bit for bit."""
    made = moments(seed, 15)
    together, alone = scored(fresh(), made), fresh()
    for series, probabilities, base, rose in made:
        for i in range(len(series)):
            one = slice(i, i + 1)
            alone.update(series[one], probabilities[:, one], base[one], rose[one])
    assert told(alone)[3] == told(together)[3]


def test_the_state_is_bounded() -> None:
    """L42: 8 agents and 5,000 series are 1.8 MB, however long it runs."""
    scores = Scores(agents(8))
    scores.reserve(5000)
    assert len(msgspec.msgpack.encode(scores.saved())) < 1_900_000


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"probabilities": [[0.5], [0.5]]}, r"\[3, 1\]"),
        ({"base": [0.5, 0.5]}, "are not"),
        ({"probabilities": [[0.5], [1.5], [0.5]]}, "probability"),
        ({"probabilities": [[0.5], [np.inf], [0.5]]}, "probability"),
        ({"base": [np.nan]}, "base rate"),
        ({"rose": [np.nan]}, "outcome"),
        ({"rose": [0.5]}, "outcome"),
        ({"series": [SERIES]}, "series"),
        ({"series": [-1]}, "series"),
    ],
)
def test_what_cannot_be_scored_is_refused(change: dict[str, Any], why: str) -> None:
    """L28: what is no prediction with its outcome is refused, and changes nothing."""
    given_ = {"series": [0], "probabilities": [[0.5]] * 3, "base": [0.5], "rose": [1.0]} | change
    scores = fresh()
    with pytest.raises(ValueError, match=why):
        scores.update(**{name: np.array(value) for name, value in given_.items()})
    assert scores.pooled(0) is None


def test_scores_of_other_series_or_agents_twice_are_refused() -> None:
    """L53: saved series are given as many places; an agent is there once."""
    with pytest.raises(ValueError, match="1 places"):
        fresh().restore(fresh().saved(), [0])
    with pytest.raises(ValueError, match="same name"):
        Scores([*agents(1), *agents(1)])


def test_reserving_less_takes_nothing_away() -> None:
    """L53: room is only ever added; those that are there keep their scores."""
    scores = scored(fresh(), moments(1, 10))
    before = told(scores)
    scores.reserve(1)
    assert told(scores) == before
