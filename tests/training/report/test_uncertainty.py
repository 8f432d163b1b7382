"""Bands and errors, against what is known of them."""

import numpy as np
import pytest

from quantum_ai_engine.training.dataset import Samples
from quantum_ai_engine.training.report.uncertainty import (
    auc_stderr,
    by_count,
    by_width,
    calibration_error_by_chance,
    groups,
    wilson,
)
from quantum_ai_engine.training.scores import auc, reliability

from ..conftest import MINUTE_MS


def samples_of(rose: np.ndarray, symbols: int = 1) -> Samples:
    times = np.repeat(np.arange(len(rose) // symbols), symbols) * MINUTE_MS
    return Samples(np.arange(len(rose)), times, rose)


def test_wilson_is_the_solution_of_its_equation() -> None:
    """At the edges of the band the seen share is two standard errors away."""
    for share, n in ((0.3, 50.0), (0.0, 7.0), (0.98, 400.0)):
        for edge in wilson(share, n):
            if 0.0 < edge < 1.0:
                assert abs(share - edge) == pytest.approx(2.0 * np.sqrt(edge * (1 - edge) / n))


def test_a_share_lies_in_its_band() -> None:
    """Rounding moves no edge past the share: a picture cannot show a negative error."""
    for n in np.arange(1.0, 400.0, 0.7):
        for share in (0.0, 0.1, 1.0):
            low, high = wilson(share, n)
            assert 0.0 <= low <= share <= high <= 1.0


def test_groups_by_width_are_the_manifests_bins() -> None:
    """What is drawn as a bin is the bin that is published."""
    rng = np.random.default_rng(0)
    p, rose = rng.beta(4, 4, 2000), (rng.random(2000) < 0.5).astype(float)
    found = groups(by_width(p), p, samples_of(rose), 5, MINUTE_MS)
    assert [(g.count, g.mean_probability, g.rose) for g in found] == [
        (b.count, b.mean_probability, b.rose) for b in reliability(p, rose)
    ]


def test_equal_forecasts_are_one_group() -> None:
    """Ties are not torn apart, and distinct forecasts make ten groups of one size."""
    assert set(by_count(np.full(50, 0.5)).tolist()) == {0}
    assert np.bincount(by_count(np.random.default_rng(0).random(1000))).tolist() == [100] * 10


def test_symbols_that_move_as_one_carry_the_evidence_of_one() -> None:
    """Four equal symbols give a group the band of one."""
    rng = np.random.default_rng(0)
    rose = (rng.random(400) < 0.4).astype(float)
    alone, p = samples_of(rose), np.full(400, 0.5)
    together = samples_of(np.repeat(rose, 4), symbols=4)
    one = groups(by_width(p), p, alone, 1, MINUTE_MS)[0]
    four = groups(np.zeros(1600, dtype=np.int64), np.repeat(p, 4), together, 1, MINUTE_MS)[0]
    assert four.effective == pytest.approx(one.effective)
    assert one.effective == pytest.approx(400, rel=1e-6)


def test_agreement_of_overlapping_outcomes_is_no_certainty() -> None:
    """A group that always rose keeps a band as wide as its outcomes that do not overlap."""
    p = np.full(50, 0.6)
    group = groups(by_width(p), p, samples_of(np.ones(50)), 5, MINUTE_MS)[0]
    assert (group.effective, group.high) == (10.0, 1.0)
    assert group.low < 0.75


def test_the_error_of_the_auc_is_its_spread() -> None:
    """Over many draws of independent bars the AUC spreads as its standard error says."""
    rng = np.random.default_rng(0)
    areas, errors = [], []
    for _ in range(1500):
        rose = (rng.random(400) < 0.5).astype(float)
        p = 1.0 / (1.0 + np.exp(-rng.standard_normal(400) - 0.5 * rose))
        areas.append(auc(p, rose))
        errors.append(auc_stderr(p, samples_of(rose), 1, MINUTE_MS))
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.1)


def test_chance_alone_gives_a_calibration_error() -> None:
    """Perfect forecasts show the calibration error that is told for them, on average."""
    rng = np.random.default_rng(0)
    seen, told = [], []
    for _ in range(200):
        p = rng.uniform(0.2, 0.8, 500)
        rose = (rng.random(500) < p).astype(float)
        bins = reliability(p, rose)
        seen.append(sum(b.count * abs(b.mean_probability - b.rose) for b in bins) / 500)
        told.append(
            calibration_error_by_chance(groups(by_width(p), p, samples_of(rose), 1, MINUTE_MS))
        )
    assert np.mean(told) == pytest.approx(np.mean(seen), rel=0.1)
