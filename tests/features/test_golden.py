"""The golden pair: the same bars give the same bits in every process and on every machine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quantum_ai_engine.events import Bar
from quantum_ai_engine.features import golden, kernel

PRINT_DIGEST = "from quantum_ai_engine.features import golden; print(golden.digest())"


def started(cache: Path, **environment: str) -> subprocess.Popen[str]:
    """Another process, with a cache of its own, that prints the digest of its kernel."""
    variables = os.environ | {"NUMBA_CACHE_DIR": str(cache)} | environment
    return subprocess.Popen(
        [sys.executable, "-c", PRINT_DIGEST], env=variables, stdout=subprocess.PIPE, text=True
    )


def digest_of(process: subprocess.Popen[str]) -> str:
    printed, _ = process.communicate(timeout=100)
    return printed.strip()


def test_this_process_gives_the_golden_digest() -> None:
    """L11: the rows of the golden bars have the stated digest, again and again."""
    assert golden.digest() == golden.digest() == golden.DIGEST


def test_other_processes_give_the_golden_digest(tmp_path: Path) -> None:
    """L11: a cold and a warm cache, a generic CPU and the uncompiled source give the same bits."""
    at_once = {
        "cold cache": started(tmp_path / "own"),
        "generic CPU": started(tmp_path / "generic", NUMBA_CPU_NAME="generic"),
        "not compiled": started(tmp_path / "none", NUMBA_DISABLE_JIT="1"),
    }
    digests = {name: digest_of(process) for name, process in at_once.items()}
    assert list((tmp_path / "own").rglob("*.nbc")), "the first process compiled nothing"
    assert not (tmp_path / "none").exists(), "the uncompiled kernel was compiled"
    digests["warm cache"] = digest_of(started(tmp_path / "own"))
    assert digests == dict.fromkeys(digests, golden.DIGEST)


def test_the_golden_bars_are_bars() -> None:
    """Every golden bar could have happened: none is refused."""
    for i, ohlcv in enumerate(golden.bars().tolist()):
        assert Bar("GOLDEN", "1m", i * 60_000, *ohlcv).volume >= 0.0


def test_the_golden_bars_visit_the_neutral_values() -> None:
    """The pair proves the rare branches too: a market at rest, bars without volume, all columns."""
    bars, rows = golden.bars(), kernel.matrix(golden.bars())
    assert bars.shape == (golden.BARS, 5)
    assert (bars[:, 4] == 0.0).sum() > 20
    at = {name: position for position, (name, _) in enumerate(kernel.COLUMNS)}
    neutral = {"volume_ratio_20": 1.0, "bollinger_20": 0.5, "volatility_20": 0.0}
    unvisited = [name for name, value in neutral.items() if value not in rows[30:, at[name]]]
    assert not unvisited
    assert np.isfinite(rows[29:]).all()


@pytest.mark.parametrize("field", range(5))
def test_the_digest_notices_a_single_bit(field: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One last bit of one value of one late bar gives another digest."""
    bars = golden.bars()
    changed = 1_890  # a bar in the middle of the walk, outside the flat stretches
    bars[changed, field] = np.nextafter(bars[changed, field], np.inf)
    monkeypatch.setattr(golden, "bars", lambda: bars)
    assert golden.digest() != golden.DIGEST
