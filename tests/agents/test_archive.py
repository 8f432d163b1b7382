"""What an archive may hold: pickles are bounded before they are read, ordinary modules pass."""

import io
import tracemalloc
from pathlib import Path

import pytest
import torch
from torch import nn

from quantum_ai_engine.agents.archive import check_archive

from .fuzzer import rewritten


@pytest.fixture(scope="module")
def archive(bundles: Path) -> bytes:
    return (bundles / "gru" / "model.pt").read_bytes()


def with_record(archive: bytes, record: str, data: bytes) -> bytes:
    """The archive with other bytes in the record whose name ends so."""
    return rewritten(archive, lambda name, old: data if name.endswith(record) else old)


@pytest.mark.parametrize("record", ["/data.pkl", "constants.pkl", "gru.py.debug_pkl"])
@pytest.mark.parametrize(
    "hungry",
    [
        b"\x80\x02Nr\0\0\0\x02.",  # put into place 2^25 of a list
        b"\x80\x02Np33554432\n.",
        b"\x80\x05\x96\0\0\0\0\x02\0\0\0.",  # 2^33 bytes, which do not follow
    ],
)
def test_pickles_that_want_memory(archive: bytes, record: str, hungry: bytes) -> None:
    """L24: twenty bytes that have a reader set aside hundreds of MiB are not given to one."""
    payload = with_record(archive, record, hungry)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"{record.strip('/')} cannot be read"):
            check_archive(payload)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "storage",
    [
        b"(X\1\0\0\0sC\1xX\1\0\0\0kX\1\0\0\0cJ\0\0\0\x10tQ.",  # 2^28 times a byte
        b"(X\1\0\0\0sK\4(K\1tX\1\0\0\0cK\4tQ.",  # under a key that is no name
    ],
)
def test_storages_of_no_numbers(archive: bytes, storage: bytes) -> None:
    """L24: a width, key or count of another type is refused before anything is made of it."""
    with pytest.raises(ValueError, match=r"data\.pkl cannot be read: a storage without"):
        check_archive(with_record(archive, "/data.pkl", b"\x80\x02" + storage))


@pytest.mark.parametrize(
    "model",
    [
        nn.LSTM(9, 8, 2),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 2),
        nn.Sequential(nn.Conv1d(32, 4, 3), nn.BatchNorm1d(4), nn.GELU(), nn.AdaptiveAvgPool1d(1)),
        nn.utils.parametrizations.weight_norm(nn.Linear(9, 1)),
        nn.Sequential(nn.Upsample(scale_factor=2.0), nn.InstanceNorm1d(3), nn.GroupNorm(1, 3)),
    ],
    ids=["lstm", "transformer", "convolution", "weight_norm", "upsampling"],
)
def test_ordinary_modules_pass(model: nn.Module) -> None:
    """A module of torch's own parts is no suspect."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(model.eval()), buffer)
    check_archive(buffer.getvalue())
