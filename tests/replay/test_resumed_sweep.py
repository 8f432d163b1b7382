"""Interrupted sweeps: what was finished is not made again, and nothing else is mixed in."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from quantum_ai_engine.cli import sweep as command
from quantum_ai_engine.cli.common import CommandError
from quantum_ai_engine.replay.executors import Done, Job, Result
from quantum_ai_engine.replay.finished import Finished, asked
from quantum_ai_engine.replay.streams import Moments
from quantum_ai_engine.replay.sweep import Sweep, run_sweep
from quantum_ai_engine.replay.sweep_page import write_table
from quantum_ai_engine.replay.trial import Figures, Outcome

from .test_sweep import SPEC, Shuffled, data, quiet, spec, sweep_of

__all__ = ["data", "spec"]  # fixtures
BEGUN = "from quantum_ai_engine.__main__ import main; main()"
PATIENCE_S = 240.0
KEPT = ".results-unfinished"


class Counting:
    """Runs jobs here, and remembers how many it was given at a time."""

    def __init__(self) -> None:
        self.jobs: list[int] = []

    def run(
        self, call: Callable[[Job], Result], jobs: Sequence[Job], retries: int
    ) -> Iterator[Done[Result]]:
        self.jobs.append(len(jobs))
        yield from Shuffled(1).run(call, jobs, retries)


def test_finished_trials_are_not_made_again(spec: Path, data: Path, tmp_path: Path) -> None:
    """L43: from what was kept and what was missing comes the table of one undisturbed run."""
    whole = run_sweep(sweep_of(spec, data, tmp_path / "whole"), Shuffled(1), quiet)
    write_table(tmp_path / "whole.parquet", whole)
    sweep = sweep_of(spec, data, tmp_path / "kept")
    begun = Finished(sweep.scratch)
    begun.begin(asked(sweep))
    for done in Shuffled(2, frozenset({1, 2})), Counting():
        again = Finished(sweep.scratch)
        again.begin(asked(sweep))
        table = run_sweep(sweep, done, quiet, again)
        write_table(tmp_path / "kept.parquet", table)
    assert isinstance(done, Counting)
    assert done.jobs == [0, 2]  # no training, and the two trials that had failed
    assert (tmp_path / "kept.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def kept(sweep: Sweep) -> None:
    """Four trials are there."""
    finished = Finished(sweep.scratch)
    finished.begin(asked(sweep))
    for number in range(4):
        finished.add(number, Outcome(Figures(bars=number), Moments()))


def test_a_torn_trial_is_made_again(spec: Path, data: Path, tmp_path: Path) -> None:
    """L24: what cannot be read does not count."""
    sweep = sweep_of(spec, data, tmp_path / "kept")
    kept(sweep)
    [first, *others] = sorted(sweep.scratch.glob("trial-*"))
    first.write_bytes(first.read_bytes()[:-3])
    again = Finished(sweep.scratch)
    again.begin(asked(sweep))
    assert [one.figures.bars for one in again.outcomes.values()] == [1, 2, 3]
    assert len(others) == 3


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        (("4.0]", "5.0]"), False),
        (("train_bars = 1500", "train_bars = 1400"), False),
        (("retries = 2", "retries = 7"), True),  # no result hangs on it
    ],
)
def test_another_question_is_refused(
    spec: Path, data: Path, tmp_path: Path, change: tuple[str, str], is_same: bool
) -> None:
    """L25: nothing of another sweep is mixed in, and none is thrown away unasked."""
    out = tmp_path / "results.parquet"
    sweep = sweep_of(spec, data, tmp_path / KEPT)
    kept(sweep)
    spec.write_text(SPEC.replace(*change))
    other = sweep_of(spec, data, tmp_path / KEPT)
    assert (asked(other) == asked(sweep)) is is_same
    if not is_same:
        with pytest.raises(CommandError, match=r"has 4 finished trials of another sweep: give"):
            command.sweep(spec, data, out, workers=1)
        assert len([*(tmp_path / KEPT).glob("trial-*")]) == 4


def test_other_bars_are_another_question(spec: Path, data: Path, tmp_path: Path) -> None:
    """L25: the bars are known by their bytes, wherever they lie."""
    copy = tmp_path / data.name
    shutil.copy(data, copy)
    sweep, moved = (sweep_of(spec, path, tmp_path / "kept") for path in (data, copy))
    assert asked(sweep) == asked(moved)
    copy.write_text(copy.read_text().replace(",1m,", ",5m,", 1))
    assert asked(sweep) != asked(moved)


def sweep_process(*arguments: object) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", BEGUN, "sweep", *map(str, arguments), "--workers", "1"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def children_of(process: int) -> list[int]:
    """The processes that this one has begun."""
    path = Path(f"/proc/{process}/task")
    return [int(n) for one in path.glob("*/children") for n in one.read_text().split()]


@pytest.mark.timeout(4 * PATIENCE_S)
def test_a_killed_sweep_goes_on_and_writes_the_same_bytes(
    spec: Path, data: Path, tmp_path: Path
) -> None:
    """L43: killed with -9 after a trial: the same command makes the others, and says so."""
    out, whole = tmp_path / "out" / "results.parquet", tmp_path / "whole" / "results.parquet"
    given = (spec, "--data", data, "--out")
    process = sweep_process(*given, out)
    end = time.monotonic() + PATIENCE_S
    while not (trials := [*(out.parent / KEPT).glob("trial-*.msgpack")]):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    workers = children_of(process.pid)
    process.kill()
    process.communicate()
    assert workers
    assert not out.exists()
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < end, "workers outlive who began them"
        time.sleep(0.01)
    last = sweep_process(*given, out)
    _, error = last.communicate(timeout=PATIENCE_S)
    assert last.returncode == 0, error
    assert f"going on: {len(trials)} trials had come to an end" in error.decode()
    undisturbed = sweep_process(*given, whole)
    _, error = undisturbed.communicate(timeout=PATIENCE_S)
    assert undisturbed.returncode == 0, error
    assert b"going on" not in error
    for suffix in (".parquet", ".html"):
        assert out.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes()
    assert sorted(path.name for path in out.parent.iterdir()) == ["results.html", "results.parquet"]
