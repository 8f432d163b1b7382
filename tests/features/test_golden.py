"""The golden pair: the same bars give the same bits in every process and on every machine."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quantum_ai_engine.config import Venue
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features import golden, kernel
from quantum_ai_engine.features.columns import AT
from quantum_ai_engine.features.sessions import Calendar

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


def cpus() -> list[str]:
    """Targets of the compiler that this processor can run: without vectors, and with fused ones."""
    info = Path("/proc/cpuinfo")
    return ["generic", "haswell"] if "avx2" in info.read_text() else ["generic"]


def test_other_processes_give_the_golden_digest(tmp_path: Path) -> None:
    """L11: a cold and a warm cache, other target CPUs and the uncompiled source: the same bits."""
    at_once = {cpu: started(tmp_path / cpu, NUMBA_CPU_NAME=cpu) for cpu in cpus()}
    at_once["not compiled"] = started(tmp_path / "none", NUMBA_DISABLE_JIT="1")
    digests = {name: digest_of(process) for name, process in at_once.items()}
    compiled = {file: file.stat().st_mtime_ns for file in (tmp_path / "generic").rglob("*.nbc")}
    assert compiled, "the first process compiled nothing"
    assert not (tmp_path / "none").exists(), "the uncompiled kernel was compiled"
    digests["warm cache"] = digest_of(started(tmp_path / "generic", NUMBA_CPU_NAME="generic"))
    assert all(file.stat().st_mtime_ns == at for file, at in compiled.items())
    assert digests == dict.fromkeys(digests, golden.DIGEST)


def test_the_golden_bars_are_bars() -> None:
    """Every golden bar could have happened, in a session of the day that it is of."""
    calendar = Calendar(Venue())
    for bar in golden.bars().tolist():
        open_time, interval_ms, session_open, session_close, weekday = map(int, bar[5:])
        assert Bar("GOLDEN", "10m", open_time, *bar[:5]).interval_ms == interval_ms
        assert calendar.of(open_time) == (session_open, session_close, weekday)


def test_the_golden_bars_visit_the_neutral_values() -> None:
    """The pair proves the rare branches too: a market at rest, bars without volume, all columns."""
    bars, rows = golden.bars(), kernel.matrix(golden.bars())
    assert bars.shape == (golden.BARS, kernel.BAR_WIDTH)
    assert (bars[:, 4] == 0.0).sum() > 20
    assert len(set(bars[:, 7].tolist())) > 10
    neutral = {"volume_ratio_20": 1.0, "bollinger_20": 0.5, "rv_20": 0.0, "stoch_20": 0.5}
    unvisited = [name for name, value in neutral.items() if value not in rows[61:, AT[name]]]
    assert not unvisited
    assert np.isfinite(rows[60:]).all()
    patterns = ("doji", "hammer", "shooting_star", "engulf_bull", "engulf_bear", "inside_bar")
    assert all(0 < rows[1:, AT[name]].sum() < golden.BARS / 2 for name in patterns)


@pytest.mark.parametrize("field", range(5))
def test_the_digest_notices_a_single_bit(field: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One last bit of one value of one late bar gives another digest."""
    bars = golden.bars()
    changed = 1_890  # a bar in the middle of the walk, outside the flat stretches
    bars[changed, field] = np.nextafter(bars[changed, field], np.inf)
    monkeypatch.setattr(golden, "bars", lambda: bars)
    assert golden.digest() != golden.DIGEST
