"""Sweeps on a Ray cluster of two nodes on this machine, where Ray is installed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quantum_ai_engine.replay.executors import DIED, Processes, RayCluster

from .test_executors import all_of, troubled

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[sweep]'")
pytestmark = pytest.mark.filterwarnings("default")  # those of Ray's own libraries are not ours


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a core each; whoever runs jobs connects and leaves."""
    from ray.cluster_utils import Cluster

    one = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    one.add_node(num_cpus=1)
    yield one
    one.shutdown()


def test_a_cluster_gives_what_processes_give(cluster: Any, tmp_path: Path) -> None:
    """L47: failures and killed workers included: each job once, with the same result or failure."""
    results = []
    for name, executor in (("ray", RayCluster(cluster.address)), ("here", Processes(2))):
        directory = tmp_path / name
        directory.mkdir()
        done = all_of(executor, troubled(directory))
        results.append([(one.result, one.error, one.attempts) for one in done])
    assert results[0] == results[1]
    assert results[0][5] == (None, DIED, 3)
