"""Certificates of several partitions: each of its own, and only of its own."""

from pathlib import Path

import pytest

from quantum_ai_engine.cli.certify import STREAM, Certified, certify
from quantum_ai_engine.cli.common import CommandError, UsageError
from quantum_ai_engine.config import Loaded, Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

from ..daemon.test_app import (
    changed,
    feed,
    published,
    run_through,
    serving,
    until,
    with_one_agent,
)
from .test_certificate import certified, lines

PARTITIONS = 2


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return changed(with_one_agent(settings, tmp_path), "redis", partitions=PARTITIONS)


@pytest.fixture
def parts(history: BarTable) -> list[list[Bar]]:
    """The bars of each partition."""
    bars = list(history.rows(0, 600).bars())
    parts = [[b for b in bars if partition_of(b.symbol, PARTITIONS) == p] for p in (0, 1)]
    assert all(parts)
    return parts


def keys_of(partition: int) -> Keys:
    return Keys("quantum", PARTITIONS, partition)


async def test_one_engine_of_two_partitions_is_certified_one_by_one(
    settings: Settings, client: Client, parts: list[list[Bar]], tmp_path: Path
) -> None:
    """L45: a certificate is of the bars and the signals of its own partition."""
    async with serving(settings) as daemon:
        for partition, bars in enumerate(parts):
            await feed(client, bars, keys_of(partition))
        await until(lambda: daemon.status.seen >= sum(map(len, parts)))
    said = [await published(client, keys_of(partition)) for partition in (0, 1)]
    assert {one["symbol"] for one in said[0]}.isdisjoint(one["symbol"] for one in said[1])
    for partition, bars in enumerate(parts):
        certificate = await certified(settings, tmp_path / "out", partition=partition)
        assert certificate.is_exact, certificate.verdict
        assert certificate.signals.same == len(said[partition]) > 100
        assert certificate.bars.count == len(bars)
        assert not certificate.not_comparable
    with pytest.raises(UsageError, match=r"2 partitions, each .*: name one with --partition"):
        await certified(settings, tmp_path / "none")
    with pytest.raises(UsageError, match="--partition 2: there are 2, counted from 0"):
        await certified(settings, tmp_path / "none", partition=2)
    path = lines(tmp_path / "said.jsonl", said[0])
    with pytest.raises(CommandError, match=f"{said[0][0]['symbol']} .* partition 0 of 2, not 1"):
        await certified(settings, tmp_path / "none", signals=path, partition=1)
    other = changed(settings, "redis", prefix="other")
    with pytest.raises(CommandError, match=r"to other:\{1\}:state.*redis\.prefix"):
        await certified(other, tmp_path / "none", partition=1)
    undivided = changed(settings, "redis", partitions=1)
    with pytest.raises(CommandError, match=r"to quantum:state.*redis\.partitions"):
        await certified(undivided, tmp_path / "none")
    assert not (tmp_path / "none").exists()


async def test_an_engine_of_one_partition_is_certified_by_its_own_settings(
    settings: Settings, client: Client, parts: list[list[Bar]], tmp_path: Path
) -> None:
    """L45: settings that serve one partition name it; those of its neighbour are refused."""
    owns = [changed(settings, "redis", partition=str(partition)) for partition in (0, 1)]
    for own, bars in zip(owns, parts, strict=True):
        await run_through(own, client, bars)
    for own, bars in zip(owns, parts, strict=True):
        certificate = await certified(own, tmp_path / "out")
        assert certificate.is_exact, certificate.verdict
        assert certificate.bars.count == len(bars)
    what = Certified(STREAM, STREAM, partition=1)
    with pytest.raises(CommandError, match=r"made with settings .*, these are"):
        await certify(Loaded(owns[0], {}), None, what, tmp_path / "none")
