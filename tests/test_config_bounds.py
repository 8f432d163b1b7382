"""Settings inside and outside of their bounds: partitions that are served, and single values."""

from typing import Any

import pytest

from quantum_ai_engine.config import load

from .test_config import refusal, with_values


@pytest.mark.parametrize(
    ("partition", "served"),
    [(0, [0]), (7, [7]), ("7", [7]), ("0-7", list(range(8))), ("2-4", [2, 3, 4]), ("5-5", [5])],
)
def test_a_process_serves_one_partition_or_a_range(partition: int | str, served: list[int]) -> None:
    """L45: which ones is said in one place, as a number or as first and last."""
    settings = with_values(redis__partition=partition, redis__partitions=8)
    assert list(settings.redis.served) == served
    from_text = load(
        None, environ={"QAE_REDIS__PARTITION": str(partition), "QAE_REDIS__PARTITIONS": "8"}
    )
    assert list(from_text.settings.redis.served) == served


@pytest.mark.parametrize("partition", [-1, "", "a", "1-", "-1", "1-2-3", "1,2", 1.5])
def test_a_range_that_is_none_is_refused(partition: Any) -> None:
    """L48: the key is named."""
    assert "redis.partition" in refusal(redis__partition=partition, redis__partitions=8)


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("ingest__late_bars", -1),
        ("ingest__late_bars", 65),
        ("ingest__gap_fill", "linear"),
        ("ingest__lagging_ms", 0),
        ("redis__standby", "maybe"),
        ("redis__lease_ms", 999),
        ("redis__checks", "none"),
        ("engine__stale_intervals", 0),
        ("engine__snapshot_bars", 0),
        ("engine__snapshot_s", 0.0),
        ("engine__valid_intervals", 101),
    ],
)
def test_a_setting_outside_its_band_is_refused(key: str, bad: Any) -> None:
    """L48: bounds are checked where settings are read, by the name of the key."""
    assert key.replace("__", ".") in refusal(**{key: bad})
