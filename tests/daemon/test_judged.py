"""Tests of what is judged, as metrics: figures of the state itself, or none."""

import pytest
from prometheus_client import CollectorRegistry

from quantum_ai_engine.daemon.judged import JudgedCollector
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.supervisor.ledger import Void

from ..state.streams import bars_at, process_all
from ..state.test_judgement import eager


def shown(*engines: Engine) -> CollectorRegistry:
    """What the collector of a process shows of its partitions."""
    registry = CollectorRegistry()
    registry.register(JudgedCollector(lambda: [one.state.judgement for one in engines]))
    return registry


@pytest.fixture(scope="module")
def settled() -> Engine:
    """An engine whose predictions have outcomes."""
    engine = eager()
    process_all(engine, [[bar] for bar in bars_at(range(120))])
    return engine


def test_the_base_rate_is_scored_on_the_same_bars(settled: Engine) -> None:
    """L28: an agent's Brier score less the base rate's is its paired score."""
    registry, scores = shown(settled), settled.state.judgement.scores
    for place, name in enumerate(["with", "against", "ensemble"]):
        score = scores.pooled(place)
        assert score is not None
        own = registry.get_sample_value("qae_brier", {"agent": name})
        base = registry.get_sample_value("qae_base_rate_brier", {"agent": name})
        assert own == pytest.approx(score.brier)
        assert own is not None
        assert base is not None
        assert own - base == pytest.approx(score.paired)


def test_no_outcome_is_no_score() -> None:
    """L08: before anything has settled there is no figure, and counters stand at 0."""
    registry = shown(eager())
    assert registry.get_sample_value("qae_brier", {"agent": "with"}) is None
    assert registry.get_sample_value("qae_base_rate_brier", {"agent": "with"}) is None
    assert registry.get_sample_value("qae_settled_predictions_total") == 0
    reasons = {why.value for why in Void}
    assert {
        registry.get_sample_value("qae_void_predictions_total", {"reason": reason})
        for reason in reasons
    } == {0.0}


def test_partitions_are_pooled(settled: Engine) -> None:
    """Twice the same outcomes are twice as many, and the same mean."""
    one, two = shown(settled), shown(settled, settled)
    for name in ("qae_brier", "qae_base_rate_brier", "qae_bias"):
        of = {"agent": "against"}
        assert two.get_sample_value(name, of) == pytest.approx(one.get_sample_value(name, of))
    counts = [each.get_sample_value("qae_settled_predictions_total") for each in (one, two)]
    assert counts[1] == 2 * (counts[0] or 0) > 0
