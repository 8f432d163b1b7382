"""The audit: outcomes by the identity of bars, scores as elsewhere, and gates that are counted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.config import RiskSettings, Venue
from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import Abstained, Abstention, Risk
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.replay.audit import BARS_AT_ONCE, ENSEMBLE, Audit, Audited, Voter
from quantum_ai_engine.replay.gates import Gates, Passage
from quantum_ai_engine.replay.regimes import Regimes
from quantum_ai_engine.replay.step import Step
from quantum_ai_engine.training.scores import auc, newey_west

from .steps import MINUTE, bar, said, step, told

HORIZON = 3
VOTERS = (Voter("gru", "gru", 0.4), Voter("sigor", "sigor", 0.5))


def audited(steps: Sequence[Step], calendars: Calendars | None = None) -> Audited:
    audit = Audit(VOTERS, HORIZON, RiskSettings(), calendars or Calendars({}))
    for one in steps:
        audit.take(one)
    return audit.get()


def walk(n: int, seed: int = 1) -> tuple[list[Step], Any, Any]:
    """Bars of one symbol with forecasts: steps, forecasts and closes."""
    random = np.random.default_rng(seed)
    closes = 100.0 * np.exp(np.cumsum(random.normal(0.0, 0.01, n)))
    p = random.uniform(0.1, 0.9, n)
    steps = [
        step(bar(k, 100.0, float(closes[k])), [said(k, float(p[k]), ("gru", float(p[k])))])
        for k in range(n)
    ]
    return steps, p, closes


def test_scores_are_those_of_the_whole_series() -> None:
    """Brier, skill, bias, AUC and their errors are what the training's own functions give."""
    n = BARS_AT_ONCE + 500
    steps, p, closes = walk(n)
    found = audited(steps)
    rose = (closes[HORIZON:] > closes[:-HORIZON]).astype(float)
    own, times = p[:-HORIZON], np.arange(n - HORIZON) * MINUTE
    ensemble = found.sources[-1]
    paired = (own - rose) ** 2 - (found.base_rate - rose) ** 2
    assert found.base_rate == pytest.approx(0.45)
    assert found.rose_frac == pytest.approx(rose.mean())
    assert (ensemble.name, ensemble.count) == (ENSEMBLE, n - HORIZON)
    assert ensemble.brier == pytest.approx(((own - rose) ** 2).mean())
    assert ensemble.paired == pytest.approx(paired.mean())
    assert ensemble.paired_stderr == pytest.approx(newey_west(paired, times, HORIZON, MINUTE))
    assert ensemble.bias == pytest.approx((own - rose).mean())
    assert ensemble.bias_stderr == pytest.approx(newey_west(own - rose, times, HORIZON, MINUTE))
    assert ensemble.auc == pytest.approx(auc(own, rose), abs=1e-4)
    strong = (own >= 0.7) | (own <= 0.3)
    assert ensemble.strong == strong.sum()
    right = np.where(own > 0.5, rose, 1.0 - rose)[strong]
    assert ensemble.strong_hit_frac == pytest.approx(right.mean())
    shares = ensemble.long_frac, ensemble.flat_frac, ensemble.short_frac
    assert shares == pytest.approx(
        ((own >= 0.6).mean(), ((own < 0.6) & (own > 0.4)).mean(), (own <= 0.4).mean())
    )
    assert sum(b.count for b in ensemble.calibration) == ensemble.count
    gru = found.sources[0]
    assert (gru.name, gru.brier) == ("gru", ensemble.brier)
    assert found.unheard == ("sigor",)
    assert found.pending == HORIZON
    for groups in (found.by_symbol, found.by_hour, found.by_regime):
        assert sum(g.count for g in groups if g.source == ENSEMBLE) == ensemble.count


def test_an_outcome_is_the_bar_at_the_horizon_and_never_the_next_in_line() -> None:
    """L53, L33: where that bar is missing the prediction is void, and counted as that."""
    bars = [0, 1, 2, 4, 5, 6, 9]
    found = audited([step(bar(k, 100.0, 100.0 + k), [said(k, 0.9)]) for k in bars])
    # 1 → 4, 2 → 5, 6 → 9 have outcomes; of 0 and 4 the bars 3 and 7 are missing, 8 of 5.
    assert found.settled == 3
    assert found.void == {"missing": 3}
    assert found.pending == 1


def test_a_bar_that_did_not_move_and_closed_hours_are_void() -> None:
    """L21: unlabelled is never class 0; after the close of the market nothing is missing."""
    still = audited([step(bar(k), [said(k, 0.9)]) for k in range(10)])
    assert (still.settled, still.void) == (0, {"unmoved": 7})
    assert still.sources == ()
    assert still.rose_frac is None
    venue = Venue("UTC", "09:30", "16:00")
    day = 24 * 60
    minutes = [*range(955, 960), *range(day + 570, day + 575)]
    steps = [step(bar(k, 100.0, 100.0 + k / 100), [said(k, 0.9)]) for k in minutes]
    closed = audited(steps, Calendars({"AAA": venue}))
    assert closed.void == {"session": 3}


def test_symbols_are_never_mixed() -> None:
    """One symbol rises, one falls, and a forecaster who knows which is right each time."""
    steps = [
        step(
            [bar(k, 100.0, 100.0 + k, "AAA"), bar(k, 100.0, 100.0 - k / 10, "BBB")],
            [said(k, 0.9, symbol="AAA"), said(k, 0.1, symbol="BBB")],
        )
        for k in range(50)
    ]
    found = audited(steps)
    assert found.sources[-1].auc == 1.0
    assert found.sources[-1].strong_hit_frac == 1.0
    assert [one.group for one in found.by_symbol] == ["AAA 1m", "BBB 1m"]


def test_a_forecast_made_anew_takes_the_place_of_the_first() -> None:
    steps = [step(bar(k, 100.0, 100.0 + k), [said(k, 0.1), said(k, 0.9)]) for k in range(9)]
    assert audited(steps).sources[-1].brier == pytest.approx(0.01)


@given(st.integers(0, 100), st.floats(0.5, 2.0))
def test_later_bars_change_no_outcome_before_them(seed: int, factor: float) -> None:
    """L16: what is settled stays as it is."""
    steps, _, _ = walk(60, seed)
    moved = step(bar(60, 100.0, 100.0 * factor))
    one, other = (Audit(VOTERS, HORIZON, RiskSettings(), Calendars({})) for _ in range(2))
    for each in steps:
        one.take(each)
        other.take(each)
    before = one.get().sources[-1].brier * one.get().sources[-1].count
    other.take(moved)
    after = other.get()
    last = after.settled - one.get().settled
    assert after.sources[-1].brier * after.sources[-1].count >= before
    assert 0 <= last <= 1


def test_regimes_are_terciles_of_what_came_before() -> None:
    """About a third each on a steady market, and wild is where it moves most."""
    random = np.random.default_rng(1)
    moves = random.normal(0.0, 0.01, 6_000)
    moves[3_000:3_200] *= 10.0
    closes = 100.0 * np.exp(np.cumsum(moves))
    regimes = Regimes()
    found = np.array([regimes.update(0, bar(k, 100.0, float(c))) for k, c in enumerate(closes)])
    shares = np.bincount(found[500:3_000], minlength=3) / 2_500
    assert shares == pytest.approx([1 / 3] * 3, abs=0.12)
    assert (found[3_020:3_200] == 2).mean() > 0.95


def passage(*signals: Any, **told_more: Any) -> Passage:
    gates = Gates(RiskSettings())
    gates.update(Round(signals=list(signals), **told_more), len(signals))
    return gates.get()


def flat(p: float, *reasons: str, breakers: tuple[str, ...] = (), state: str = "ACTIVE") -> Any:
    return told(0, 0.0, probability=p, risk=Risk(state, breakers, reasons))


def test_each_signal_comes_to_one_end() -> None:
    """Dead band, thresholds, a turn, breakers and caps: the first that made it 0 stopped it."""
    found = passage(
        flat(0.51),
        flat(0.55),
        flat(0.65),
        flat(0.65, "drawdown of 0.11", "halted", breakers=("drawdown",), state="HALTED"),
        flat(0.65, "gross_cap", "kelly"),
        flat(0.65, "data_quality"),
        told(0, 0.3, risk=Risk("ACTIVE", (), ("kelly",))),
        told(0, -0.3, probability=0.3),
    )
    assert found.stopped == {
        "dead_band": 1,
        "threshold": 1,
        "turn": 1,
        "data_quality": 1,
        "halted": 1,
        "gross_cap": 1,
    }
    assert found.passed == 2
    assert sum(found.stopped.values()) + found.passed == found.signals == 8
    assert found.limited == {"data_quality": 1, "halted": 1, "gross_cap": 1, "kelly": 2}
    assert found.breakers == {"drawdown": 1}
    assert found.states == {"ACTIVE": 7, "HALTED": 1}
    assert (found.sides.long, found.sides.flat, found.sides.short) == (1, 6, 1)
    assert found.sides.one_sided_frac == 0.5


def test_bars_without_a_signal_and_abstentions_are_counted_by_reason() -> None:
    """L01, L41: nothing is dropped in silence."""
    from collections import Counter

    quiet = Abstention("gru", Abstained.WARMING_UP)
    found = passage(
        told(0, 0.3, abstained=(Abstention("gru", Abstained.GAP),)),
        told(0, 0.2, version=1),
        silent=Counter({"burn_in": 3}),
        unheard=[quiet, quiet],
    )
    assert found.silent == {"burn_in": 3}
    assert found.abstained == {"gru": {"gap": 1, "warming_up": 2}}
    assert found.amended == 1
