"""Tests of how many log lines of one kind are written, by a clock of their own."""

import io
import json
import logging
from collections import Counter
from contextlib import closing
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from quantum_ai_engine.daemon import loglimit
from quantum_ai_engine.daemon.loglimit import LineLimit
from quantum_ai_engine.daemon.logs import LogHandle, configure
from quantum_ai_engine.daemon.metrics import Metrics


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(clock: Clock, burst: int = 3, level: str = "info") -> tuple[LogHandle, io.StringIO]:
    """A log that writes JSON lines to memory."""
    stream = io.StringIO()
    limit = LineLimit(burst, 60.0, clock)
    return configure(level, "json", environ={}, stream=stream, limit=limit), stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """The JSON lines of the stream."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_flood_is_a_burst_and_then_a_line_a_minute(clock: Clock) -> None:
    """L54: four lines a second for ten minutes become 3 + 9, and each says what it stands for."""
    handle, stream = opened(clock)
    log = structlog.get_logger()
    with closing(handle):
        for _ in range(4 * 600):
            log.warning("A hole", event_name="gap", symbol="BTCUSDT")
            clock.now_s += 0.25
        clock.now_s += 60.0
        log.warning("A hole", event_name="gap", symbol="BTCUSDT")
    written = lines(stream)
    assert len(written) == 3 + 9 + 1
    assert len(written) + sum(line.get("suppressed", 0) for line in written) == 4 * 600 + 1
    assert handle.suppressed == {"gap": 4 * 600 - 12}


def test_kinds_do_not_hide_each_other(clock: Clock) -> None:
    """L54: a flood of one symbol or event holds back no line of another."""
    handle, stream = opened(clock)
    log = structlog.get_logger()
    with closing(handle):
        for _ in range(5):
            log.warning("A hole", event_name="gap", symbol="BTCUSDT")
        log.warning("A hole", event_name="gap", symbol="ETHUSDT")
        log.warning("Late", event_name="late", symbol="BTCUSDT")
        for agent in ("gru", "sigor"):
            log.error("It failed", event_name="agent_failed", agent=agent)
    told = [(line["event"], line.get("symbol", line.get("agent"))) for line in lines(stream)]
    assert told[3:7] == [
        ("gap", "ETHUSDT"),
        ("late", "BTCUSDT"),
        ("agent_failed", "gru"),
        ("agent_failed", "sigor"),
    ]


def test_what_no_line_has_told_is_told_at_the_end(clock: Clock) -> None:
    """L41, L54: a flood that just ends is summed up by the last line of the log."""
    handle, stream = opened(clock)
    log = structlog.get_logger()
    with closing(handle):
        for symbol in ("BTCUSDT", "ETHUSDT"):
            for _ in range(5):
                log.warning("A hole", event_name="gap", symbol=symbol)
    last = lines(stream)[-1]
    assert (last["event"], last["lines"], last["by_event"]) == (
        "log_lines_suppressed",
        4,
        {"gap": 4},
    )


def test_libraries_are_limited_by_logger(clock: Clock) -> None:
    """L54: a library that complains without end does not fill the disk, nor silence another."""
    handle, stream = opened(clock)
    with closing(handle):
        for number in range(100):
            logging.getLogger("chatty").warning("complaint %d", number)
        logging.getLogger("quiet").warning("once")
    assert Counter(line["logger"] for line in lines(stream))["chatty"] == 3
    assert "once" in [line["message"] for line in lines(stream)]
    assert handle.suppressed == {"library": 97}


def test_debug_lines_are_all_written(clock: Clock) -> None:
    """Who asks for every line gets every line."""
    handle, stream = opened(clock, level="debug")
    with closing(handle):
        for number in range(50):
            structlog.get_logger().debug("Step", event_name="step", number=number)
    assert len(lines(stream)) == 50


def test_held_back_lines_are_a_metric(clock: Clock) -> None:
    """L09, L54: they are counted by event, never by symbol."""
    metrics = Metrics("1", "a", "b")
    handle, _ = opened(clock)
    metrics.observe_log(handle)
    with closing(handle):
        for symbol in ("BTCUSDT", "ETHUSDT"):
            for _ in range(5):
                structlog.get_logger().warning("A hole", event_name="gap", symbol=symbol)
        text = metrics.render().decode()
    samples = {
        (sample.name, *sample.labels.items()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["qae_log_lines_suppressed_total", ("event", "gap")] == 4
    assert samples[("qae_log_records_dropped",)] == 0


@given(
    burst=st.integers(1, 5),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 90.0)), max_size=200),
)
def test_every_line_is_written_told_or_counted(burst: int, steps: list[tuple[str, float]]) -> None:
    """L41, L54: written and held-back lines are all lines, and no kind exceeds its rate."""
    clock = Clock()
    began_s, limit = clock.now_s, LineLimit(burst, 60.0, clock)
    written, told = Counter[str](), 0
    for subject, wait_s in steps:
        before = limit.take("gap", subject)
        if before is not None:
            written[subject] += 1
            told += before
        clock.now_s += wait_s
    held_back = sum(limit.suppressed.values())
    assert written.total() + held_back == len(steps)
    assert told + sum(limit.untold().values()) == held_back
    assert limit.untold() == {}
    most = burst + (clock.now_s - began_s) / 60.0
    assert all(count <= most + 1e-6 for count in written.values())


def test_memory_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """L41: a kind that is forgotten takes what was held back into the last word."""
    monkeypatch.setattr(loglimit, "MOST_KINDS", 2)
    limit = LineLimit(1, 60.0, clock)
    for subject in ("a", "a", "b", "c", "d"):
        limit.take("gap", subject)
    assert limit.suppressed == {"gap": 1}
    assert limit.take("gap", "a") == 0
    assert limit.untold() == {"gap": 1}
