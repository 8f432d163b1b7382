"""Where jobs run: each has one result, whoever fails or dies on the way."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.replay.executors import (
    DIED,
    Done,
    Executor,
    ExecutorError,
    Processes,
    RayCluster,
)
from quantum_ai_engine.replay.multiple import benjamini_hochberg, holm

Job = tuple[str, str, int]  # what happens, where it is noted, a number


def work(job: Job) -> int:
    """Square the number, unless something happens first."""
    what, where, number = job
    times = Path(where, str(number))
    done = len(times.read_bytes()) if times.exists() else 0
    times.write_bytes(b"." * (done + 1))
    if what == "dies" or (what == "dies once" and not done):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "fails" or (what == "fails twice" and done < 2):
        raise ValueError(f"number {number} is not liked\nand there is more to say")
    return number * number


def all_of(executor: Executor, jobs: Sequence[Job], retries: int = 2) -> list[Done[int]]:
    return sorted(executor.run(work, jobs, retries), key=lambda done: done.place)


def troubled(directory: Path) -> list[Job]:
    whats = ("", "dies once", "fails twice", "fails", "", "dies", "")
    return [(what, str(directory), i) for i, what in enumerate(whats)]


def test_no_job_is_lost_whatever_happens_to_it(tmp_path: Path) -> None:
    """L47: a worker's death is the failure of its own job, which is tried again and then told."""
    done = all_of(Processes(2), troubled(tmp_path))
    assert [(one.result, one.error) for one in done] == [
        (0, ""),
        (1, ""),
        (4, ""),
        (None, "ValueError: number 3 is not liked"),
        (16, ""),
        (None, DIED),
        (36, ""),
    ]
    assert [one.attempts for one in done] == [1, 2, 3, 3, 1, 3, 1]


def test_no_workers_are_refused() -> None:
    with pytest.raises(ValueError, match="workers = 0"):
        Processes(0)


def test_ray_is_asked_for_by_its_extra_where_it_is_missing(monkeypatch: Any) -> None:
    """L10: what to install is said."""
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ExecutorError, match=r"quantum-ai-engine\[sweep\]"):
        all_of(RayCluster("local"), [("", ".", 1)])


p_values = st.lists(st.floats(0.0, 1.0), max_size=20)


@given(p_values)
def test_corrections_only_ever_raise_p_values_and_keep_their_order(p: list[float]) -> None:
    """Holm is never below Benjamini and Hochberg, nor either below the p-value itself."""
    strict, loose = holm(p).tolist(), benjamini_hochberg(p).tolist()
    for one, by_holm, by_bh in zip(p, strict, loose, strict=True):
        assert one <= by_bh + 1e-15
        assert by_bh <= by_holm + 1e-15
        assert by_holm <= min(1.0, one * len(p)) + 1e-15
    order = sorted(range(len(p)), key=lambda i: p[i])
    for values in (strict, loose):
        assert [values[i] for i in order] == sorted(values)


def test_corrections_refuse_what_is_no_p_value() -> None:
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="not from 0 to 1"):
            holm([p])
