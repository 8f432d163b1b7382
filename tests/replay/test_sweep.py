"""Sweeps: one table, whoever made the trials and in whatever order."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from quantum_ai_engine.cli import sweep as command
from quantum_ai_engine.cli.common import CommandError
from quantum_ai_engine.config import ConfigError
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.replay.executors import Done, Job, Processes, Result, described
from quantum_ai_engine.replay.sweep import (
    Spec,
    Sweep,
    SweepError,
    Table,
    WalkForward,
    plans,
    read_spec,
    run_sweep,
    windows,
)
from quantum_ai_engine.replay.sweep_page import page_of, verdict, write_table

from ..conftest import START_MS

PAGE = Path(__file__).parents[2] / "docs" / "sweep.md"
SPEC = """
retries = 2
[[vary]]
"risk.long_threshold" = [0.51]
"risk.short_threshold" = [0.49]
"risk.exit_hysteresis" = [0.0]
"risk.dead_band" = [0.0]
[[vary]]
"replay.fee_bps" = [0.0, 4.0]
[walk_forward]
train_bars = 1500
embargo_bars = 5
test_bars = 150
roll_bars = 300
kinds = ["momentum"]
"""


class Shuffled:
    """Runs jobs here, in an order of its own; some fail at first."""

    def __init__(self, seed: int, hopeless: frozenset[int] = frozenset()) -> None:
        self._chance, self._hopeless = random.Random(seed), hopeless

    def run(
        self, call: Callable[[Job], Result], jobs: Sequence[Job], retries: int
    ) -> Iterator[Done[Result]]:
        order = [*range(len(jobs))]
        self._chance.shuffle(order)
        for place in order:
            if len(jobs) > 2 and place in self._hopeless:
                yield Done(place, None, "ValueError: hopeless", retries + 1)
                continue
            try:
                yield Done(place, call(jobs[place]), "", self._chance.randint(1, retries + 1))
            except ValueError as error:
                yield Done(place, None, described(error), retries + 1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "bars.csv"
    rows = ["symbol,interval,open_time,open,high,low,close,volume"]
    for bar in PaperMarket(7, 2, start_ms=START_MS).table(2_100).bars():
        values = ",".join(repr(value) for value in bar.ohlcv)
        rows.append(f"{bar.symbol},{bar.interval},{bar.open_time},{values}")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(SPEC)
    return path


def sweep_of(spec: Path, data: Path, scratch: Path) -> Sweep:
    def load(values: Any) -> Any:
        return command.load_settings(None, [f"{key}={value}" for key, value in values.items()])

    return Sweep(read_spec(spec), data, None, load, "0+test", scratch, command.train)


def quiet(_: str, __: int, ___: int) -> None: ...


def test_the_table_is_the_same_whoever_made_it(spec: Path, data: Path, tmp_path: Path) -> None:
    """L27: trials on processes, here, and in any order: the same file, byte for byte."""
    made: list[Table] = []
    executors = (Shuffled(1), Processes(2))
    for i, executor in enumerate(executors):
        made.append(run_sweep(sweep_of(spec, data, tmp_path / str(i)), executor, quiet))
        write_table(tmp_path / f"{i}.parquet", made[-1])
    assert made[0].trials == len(made[0].rows) == 4
    files = [(tmp_path / f"{i}.parquet").read_bytes() for i in range(2)]
    assert files[0] == files[1]
    rows = parquet.read_table(tmp_path / "0.parquet").to_pylist()
    assert [row["trial"] for row in rows] == [*range(4)]
    assert {row["window"] for row in rows} == {0, 1}
    for row in rows:
        assert row["train_to_ms"] + 5 * 60_000 <= row["test_from_ms"]
        assert row["signals"] > 0
        assert row["skill_p"] <= row["skill_p_bh"] <= row["skill_p_holm"]
        assert row["trials"] == 4
    free, paid = ([r for r in rows if r["replay.fee_bps"] == fee] for fee in (0.0, 4.0))
    assert all(a["total_return"] > b["total_return"] for a, b in zip(free, paid, strict=True))
    page = page_of("sweep", made[0])
    assert "beyond luck" in page
    assert page.count("<figure") == 3


def test_a_trial_that_fails_is_recorded(spec: Path, data: Path, tmp_path: Path) -> None:
    """L41: its row is there, with why; the others are corrected for those that came to an end."""
    table = run_sweep(sweep_of(spec, data, tmp_path), Shuffled(1, frozenset({3})), quiet)
    assert [row.plan.number for row in table.rows if row.figures is None] == [3]
    assert table.rows[3].error == "ValueError: hopeless"
    assert table.trials == 3
    assert "1 trials failed" in page_of("sweep", table)


def test_a_training_that_fails_takes_its_trials_with_it(
    spec: Path, data: Path, tmp_path: Path
) -> None:
    """L41: what could not be trained is told in the rows of its window."""
    spec.write_text(SPEC.replace('"momentum"', '"nonsense"'))
    table = run_sweep(sweep_of(spec, data, tmp_path), Shuffled(1), quiet)
    for row in table.rows:
        assert row.plan.window is not None
        where = f"nonsense in window {row.plan.window.number}"
        assert row.error.startswith(f"training: TrainingError: {where}: no kind 'nonsense' can be")
    assert verdict(table) == ("No trial came to an end.",)
    write_table(tmp_path / "none.parquet", table)
    assert parquet.read_table(tmp_path / "none.parquet").num_rows == 4


@given(
    st.integers(1, 400), st.integers(1, 60), st.integers(0, 20), st.integers(1, 40),
    st.integers(1, 50),
)  # fmt: skip
def test_windows_never_let_a_test_touch_its_training(
    bars: int, train: int, embargo: int, test: int, roll: int
) -> None:
    """L27: train, embargo, test, in this order, of the lengths asked for, as many as fit."""
    walk = WalkForward(train_bars=train, embargo_bars=embargo, test_bars=test, roll_bars=roll)
    made = windows(np.arange(bars) * 10, walk)
    assert len(made) == max(0, (bars - train - embargo - test) // roll + 1)
    for i, window in enumerate(made):
        assert (window.number, window.train_from_ms) == (i, 10 * roll * i)
        assert window.train_to_ms == window.train_from_ms + 10 * train
        assert window.test_from_ms == window.train_to_ms + 10 * embargo
        assert window.test_to_ms - window.test_from_ms in (10 * test, 10 * test - 9)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (("retries = 2", "retrys = 2"), "unknown field `retrys`"),
        (("[0.49]", "[0.49, 0.45]"), "need equally many values"),
        (("kinds =", 'kinds = ["sigor"]\nkinds ='), "cannot read"),
        (("embargo_bars = 5", "embargo_bars = 4"), "below the horizon of 5 bars"),
        (("retries = 2", 'bundles = ["a"]'), "either bundles or walk_forward.kinds"),
        (("train_bars = 1500", "train_bars = 15000"), "too short for one window"),
        (('"replay.fee_bps"', '"risk.long_threshold"'), "varied in two tables"),
        (("retries = 2", 'symbols = ["NONE"]'), "has no bars of NONE; leave it out of symbols"),
    ],
)
def test_a_wrong_specification_is_refused(
    spec: Path, data: Path, tmp_path: Path, change: tuple[str, str], wrong: str
) -> None:
    """L38: what would not be varied as asked is said before anything runs."""
    spec.write_text(SPEC.replace(*change))
    with pytest.raises(SweepError, match=wrong):
        plans(sweep_of(spec, data, tmp_path))


def test_the_example_of_the_page_is_one_that_runs(data: Path, tmp_path: Path) -> None:
    """L38: all that a reader would copy is accepted; only its spans are those of these bars."""
    example = PAGE.read_text().split("```toml")[1].split("```")[0]
    for long, short in (("20000", "1500"), ("140", "5"), ("5000", "150")):
        example = example.replace(long, short)
    path = tmp_path / "example.toml"
    path.write_text(example)
    sweep = sweep_of(path, data, tmp_path)
    made = plans(sweep)
    assert len(made) == 6 * len({plan.window for plan in made})
    for plan in made:
        sweep.load(plan.settings)


def test_settings_that_cannot_be_are_refused_before_the_first_trial(
    spec: Path, data: Path, tmp_path: Path
) -> None:
    """L38: an unknown key or a value out of bounds is named."""
    spec.write_text(SPEC.replace('"replay.fee_bps"', '"replay.fees"'))
    with pytest.raises(ConfigError, match=r"replay\.fees"):
        run_sweep(sweep_of(spec, data, tmp_path), Shuffled(1), quiet)


def test_the_command_writes_table_and_page(
    spec: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """L05: it says what is left after so many tries; nothing else stays behind."""
    out = tmp_path / "made" / "results.parquet"
    spec.write_text(SPEC.replace("[0.0, 4.0]", "[4.0]"))
    command.sweep(spec, data, out, workers=1)
    assert sorted(path.name for path in out.parent.iterdir()) == ["results.html", "results.parquet"]
    assert "trials have a Sharpe ratio beyond luck" in capsys.readouterr().out
    spec.write_text(SPEC.replace("train_bars = 1500", "train_bars = 50"))
    with pytest.raises(typer.Exit):
        command.sweep(spec, data, out, workers=1)
    assert parquet.read_table(out).column("error").null_count == 0
    with pytest.raises(CommandError, match="no such file"):
        command.sweep(spec, tmp_path / "none.csv", out)


def test_a_sweep_of_nothing_is_one_trial(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_text("")
    assert read_spec(path) == Spec()
    assert len(plans(sweep_of(path, data, tmp_path))) == 1
