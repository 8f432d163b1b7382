"""A walk-forward sweep on processes, and on a Ray cluster of which a worker is killed: same tables?

`python -m benchmarks.sweep FILE` prints both times and whether the tables are the same bytes. It
needs `pip install 'quantum-ai-engine[sweep]'`; the cluster is two nodes on this machine.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantum_ai_engine.cli.common import load_settings
from quantum_ai_engine.cli.sweep import train
from quantum_ai_engine.config import Loaded
from quantum_ai_engine.replay.executors import Executor, Processes, RayCluster
from quantum_ai_engine.replay.sweep import Sweep, plans, read_spec, run_sweep
from quantum_ai_engine.replay.sweep_page import verdict, write_table

SPEC = """
retries = 3
[[vary]]
"risk.long_threshold" = [0.52, 0.53, 0.54, 0.55, 0.56]
"risk.short_threshold" = [0.48, 0.47, 0.46, 0.45, 0.44]
[[vary]]
"risk.exit_hysteresis" = [0.0]
"risk.dead_band" = [0.0]
[[vary]]
"replay.fee_bps" = [1.0, 4.0]
[walk_forward]
train_bars = 1500
embargo_bars = 5
test_bars = 800
kinds = ["sigor"]
"""
TASK = "ray::run_trial"


def main(arguments: Sequence[str]) -> None:
    data = Path(arguments[0])
    with tempfile.TemporaryDirectory(prefix="qae-sweep-") as scratch:
        home = Path(scratch)
        spec = home / "spec.toml"
        spec.write_text(SPEC)
        tables = [_run(home, data, "processes", Processes(2))]
        tables.append(_on_ray(home, data))
        same = tables[0].read_bytes() == tables[1].read_bytes()
        print(f"the tables are {'the same bytes' if same else 'DIFFERENT'}")
        if not same:
            sys.exit(1)


def _run(home: Path, data: Path, name: str, executor: Executor) -> Path:
    def load(values: Mapping[str, Any]) -> Loaded:
        return load_settings(None, [f"{key}={value}" for key, value in values.items()])

    sweep = Sweep(read_spec(home / "spec.toml"), data, None, load, "bench", home / name, train)
    began = time.monotonic()
    table = run_sweep(sweep, executor, lambda *_: None)
    out = home / f"{name}.parquet"
    write_table(out, table)
    print(
        f"{name}: {len(plans(sweep))} trials, {table.trials} done, {time.monotonic() - began:.0f} s"
    )
    print("  ".join(verdict(table)))
    return out


def _on_ray(home: Path, data: Path) -> Path:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        killer = threading.Thread(target=_kill_one, daemon=True)
        killer.start()
        return _run(home, data, "ray", RayCluster(cluster.address))
    finally:
        cluster.shutdown()


def _kill_one() -> None:
    """Kill the first worker that is at a trial; it is one of ours, since its parents are."""
    while True:
        for pid in _descendants():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if words.startswith(TASK):
                os.kill(pid, signal.SIGKILL)
                print(f"killed worker {pid} ({words.split(chr(0))[0]})")
                return
        time.sleep(0.05)


def _descendants() -> list[int]:
    """All processes that this one has begun, by itself or through others."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, ours = [], {os.getpid()}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in ours and pid not in ours}
        grown = bool(more)
        ours |= more
        found += more
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
