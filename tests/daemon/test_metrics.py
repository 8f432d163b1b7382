"""Tests of the metrics: names, labels, and that each moves with the work it counts."""

from collections import Counter
from collections.abc import Iterable

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from quantum_ai_engine.daemon.commit import DeadLetter
from quantum_ai_engine.daemon.metrics import (
    OUTCOMES,
    REDIS_FAILURES,
    SILENCES,
    SNAPSHOT_FAILURES,
    Metrics,
)
from quantum_ai_engine.daemon.status import STATES, Status
from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import Abstained, Abstention, Reason, Refused, Stance

from .test_commit import signal

Labels = dict[str, str]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.0", "abc", "def")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """A sample, or None where there is none."""
    return metrics.registry.get_sample_value(name, labels)


def parsed(text: bytes) -> dict[str, set[str]]:
    """Sample name → the names of its labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_all_names_have_the_prefix_and_base_units(metrics: Metrics) -> None:
    for name in parsed(metrics.render()):
        assert name.startswith("qae_")
        assert not name.endswith(("_ms", "_us", "_created"))


def test_nothing_is_labelled_by_symbol(metrics: Metrics) -> None:
    """A thousand symbols must not become a thousand series."""
    metrics.update(Round(processed=1, signals=[signal()]), [], 0.01)
    assert all("symbol" not in labels for labels in parsed(metrics.render()).values())


def test_a_round_moves_what_it_did(metrics: Metrics) -> None:
    """L09: each counter moves by the work of the round, and no other does."""
    short = msgspec.structs.replace(signal(3), stance=Stance.SHORT, target=-0.5, probability=0.25)
    dead = [DeadLetter(Refused(Reason.LATE, "late"), b"1-0", {})] * 2
    done = Round(
        processed=10,
        duplicates=3,
        gaps=1,
        signals=[signal(), short],
        silent=Counter(burn_in=8),
    )
    metrics.update(done, dead, 0.004)
    assert value(metrics, "qae_bars_total", outcome="processed") == 10
    assert value(metrics, "qae_bars_total", outcome="duplicate") == 3
    assert value(metrics, "qae_bars_total", outcome="dead") == 2
    assert value(metrics, "qae_dead_letters_total", reason="late") == 2
    assert value(metrics, "qae_dead_letters_total", reason="revision") == 0
    assert value(metrics, "qae_signals_total", stance="long") == 1
    assert value(metrics, "qae_signals_total", stance="short") == 1
    assert value(metrics, "qae_gaps_total") == 1
    assert value(metrics, "qae_silent_bars_total", reason="burn_in") == 8
    assert value(metrics, "qae_bar_to_signal_seconds_count") == 2
    assert value(metrics, "qae_bar_to_signal_seconds_bucket", le="0.005") == 2
    assert value(metrics, "qae_bar_to_signal_seconds_bucket", le="0.003") == 0
    assert value(metrics, "qae_effective_votes") == 1.0
    assert value(metrics, "qae_trust", agent="gru") == 1.0


def test_a_round_without_signals_measures_no_latency(metrics: Metrics) -> None:
    """L08: no data shows as no data."""
    metrics.update(Round(processed=10), [], 0.004)
    assert value(metrics, "qae_bar_to_signal_seconds_count") == 0
    assert value(metrics, "qae_trust", agent="gru") is None


def test_abstentions_are_counted_and_take_trust_away(metrics: Metrics) -> None:
    """L01, L02: a failed agent has no share, and with none there are no effective votes."""
    quiet = (Abstention("patchtst", Abstained.DEADLINE),)
    metrics.update(Round(signals=[msgspec.structs.replace(signal(), abstained=quiet)]), [], 0.01)
    assert value(metrics, "qae_trust", agent="patchtst") == 0.0
    metrics.update(Round(processed=1, unheard=[Abstention("gru", Abstained.ERROR)]), [], 0.01)
    assert value(metrics, "qae_abstentions_total", agent="patchtst", reason="deadline") == 1
    assert value(metrics, "qae_abstentions_total", agent="gru", reason="error") == 1
    assert value(metrics, "qae_effective_votes") == 0.0


@pytest.mark.parametrize(
    ("name", "label", "values"),
    [
        ("qae_bars_total", "outcome", OUTCOMES),
        ("qae_signals_total", "stance", Stance),
        ("qae_silent_bars_total", "reason", SILENCES),
        ("qae_dead_letters_total", "reason", Reason),
        ("qae_redis_failures_total", "kind", REDIS_FAILURES),
        ("qae_snapshot_failures_total", "kind", SNAPSHOT_FAILURES),
    ],
)
def test_a_counter_stands_at_0_before_the_first_event(
    metrics: Metrics, name: str, label: str, values: Iterable[str]
) -> None:
    """L09: the first event is a rise from 0, which `increase()` sees."""
    assert {value(metrics, name, **{label: str(one)}) for one in values} == {0.0}


def test_a_state_is_one_of_those_that_are_shown(metrics: Metrics) -> None:
    """L05: exactly one word is 1, and it is the one that /health says."""
    status = Status.of([])
    metrics.show(status)
    shown = {state: value(metrics, "qae_state", state=state) for state in STATES}
    assert [state for state, is_on in shown.items() if is_on] == [status.state()]
    assert value(metrics, "qae_ready") == 0


def test_the_process_is_measured(metrics: Metrics) -> None:
    """Memory, CPU time and start, under our prefix."""
    memory = value(metrics, "qae_process_resident_memory_bytes")
    assert memory is not None
    assert memory > 1_000_000
    assert value(metrics, "qae_process_start_time_seconds") is not None
    assert value(metrics, "qae_process_cpu_seconds_total") is not None


def test_the_build_is_named(metrics: Metrics) -> None:
    """L45: which code and which settings run."""
    build = {"version": "1.0", "build": "abc", "config": "def"}
    assert value(metrics, "qae_build_info", **build) == 1


def test_two_daemons_in_one_process_count_apart() -> None:
    first, second = Metrics("1", "a", "b"), Metrics("1", "a", "b")
    first.conflicts.inc()
    assert value(first, "qae_commit_conflicts_total") == 1
    assert value(second, "qae_commit_conflicts_total") == 0
