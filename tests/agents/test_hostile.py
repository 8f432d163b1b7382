"""Payloads that mean harm, vouched for by their manifests: all are refused, and none is run.

One kind cannot be told beforehand: a module that loops for ever hangs where it is tried, in
start-up, before any bar is taken.
"""

import io
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantum_ai_engine.agents.bundle import BundleError, read_bundle
from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.market.table import BarTable

from .fuzzer import Fuzzer, rewritten, vouch


@pytest.fixture(scope="module")
def fuzzer(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    """Of the `gru`; it tells at the end how many there were (`pytest -s`)."""
    made = Fuzzer(bundles / "gru", tmp_path_factory.mktemp("fuzz"))
    yield made
    print(f"\n{made.count} hostile bundles, all refused")


class Hostile:
    """Unpickled by Python, it leaves a mark."""

    def __init__(self, marker: Path, by_shell: bool) -> None:
        self._marker, self._by_shell = str(marker), by_shell

    def __reduce__(self) -> tuple[Any, ...]:
        if self._by_shell:
            return os.system, (f"touch {self._marker}",)
        return exec, (f"open({self._marker!r}, 'w').close()",)


@pytest.mark.parametrize("by_shell", [True, False])
@pytest.mark.parametrize("protocol", range(6))
def test_pickles(fuzzer: Fuzzer, by_shell: bool, protocol: int) -> None:
    """L24: no pickle is ever given to Python, as a payload or inside an archive."""
    hostile = pickle.dumps(Hostile(fuzzer.marker, by_shell), protocol)
    fuzzer.refused_payload(hostile)
    for record in ("data.pkl", "constants.pkl", "version", "gru.py"):

        def change(name: str, data: bytes, record: str = record) -> bytes:
            return hostile if name.endswith(record) else data

        fuzzer.refused_payload(rewritten(fuzzer.payload, change))
    pickle.loads(hostile)  # it would have left its mark
    assert fuzzer.marker.exists()
    fuzzer.marker.unlink()


@pytest.mark.parametrize("legacy", [True, False])
def test_a_saved_pickle(fuzzer: Fuzzer, legacy: bool) -> None:
    """L24: what `torch.save` wrote is no model, and is not opened."""
    buffer = io.BytesIO()
    torch.save(
        {"weights": Hostile(fuzzer.marker, True)},
        buffer,
        _use_new_zipfile_serialization=not legacy,
    )
    fuzzer.refused_payload(buffer.getvalue())


def test_archives_in_pieces(fuzzer: Fuzzer) -> None:
    """L24: an archive without one of its records, or with an empty one, does not load."""
    with zipfile.ZipFile(io.BytesIO(fuzzer.payload)) as archive:
        names = archive.namelist()
    needed = [n for n in names if not n.endswith(("debug_pkl", "byteorder", "serialization_id"))]
    for name in needed:
        if not name.endswith("utils/rnn.py"):  # a type that no answer needs
            for instead in (None, b""):
                if name.endswith("version") and instead is None:
                    continue
                fuzzer.refused_payload(
                    rewritten(fuzzer.payload, lambda n, d, i=instead, w=name: i if n == w else d)
                )


def test_a_bomb(fuzzer: Fuzzer) -> None:
    """L24: an archive that would unpack to a thousand times its size is not unpacked."""

    def change(name: str, data: bytes) -> bytes:
        return bytes(64 << 20) if name.endswith("data/0") else data

    bomb = rewritten(fuzzer.payload, change, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 18
    assert "unpack to" in fuzzer.refused_payload(bomb)


def test_the_other_format(fuzzer: Fuzzer) -> None:
    """L24: torch takes an archive for a flatbuffer by four bytes of it; the checks do not."""
    said = fuzzer.refused_payload(fuzzer.payload[:4] + b"PTMF" + fuzzer.payload[8:])
    assert "it is a flatbuffer" in said


class Base(nn.Module):
    """The smallest model of `gru9`; the hostile ones differ in one thing each."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(9, 1)

    def forward(self, windows: Tensor) -> Tensor:
        logits: Tensor = self.linear(windows[:, -1]).squeeze(1)  # [batch]
        return logits


class Writes(Base):
    """Writes a file when it answers."""

    def forward(self, windows: Tensor) -> Tensor:
        torch.save(windows, "MARKER")
        return self.linear(windows[:, -1]).squeeze(1)


class Maps(Base):
    """Maps a file into memory and writes to it."""

    def forward(self, windows: Tensor) -> Tensor:
        mapped = torch.from_file("MARKER", shared=True, size=4)
        return self.linear(windows[:, -1]).squeeze(1) + mapped.fill_(1.0).sum()


class WritesAtLoad(Base):
    """Writes a file while it is being loaded."""

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.linear.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        torch.save(state[0], "MARKER")
        self.training = state[1]


class Forks(Base):
    """Starts a thread when it answers."""

    def forward(self, windows: Tensor) -> Tensor:
        newest: Tensor = torch.jit.wait(torch.jit.fork(torch.neg, windows[:, -1]))
        return self.linear(newest).squeeze(1)


class Awaits(Base):
    """Puts work off until it is asked for."""

    def forward(self, windows: Tensor) -> Tensor:
        newest: Tensor = torch.jit._awaitable_wait(torch.jit._awaitable(torch.neg, windows[:, -1]))
        return self.linear(newest).squeeze(1)


class PointsElsewhere(Base):
    """Makes, of numbers, a tensor that lies where they point."""

    def forward(self, windows: Tensor) -> Tensor:
        far = torch.full([1, 4], 1 << 40, dtype=torch.int64)
        sparse = torch.ops.aten._sparse_coo_tensor_unsafe(
            far, torch.ones(4), [8], is_coalesced=True
        )
        return self.linear(windows[:, -1]).squeeze(1) + sparse.to_dense().sum()


class OtherInputs(Base):
    """Reads 10 columns."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 1)


class OneAnswer(Base):
    """Gives one answer for a whole batch."""

    def forward(self, windows: Tensor) -> Tensor:
        return self.linear(windows[:1, -1]).squeeze(1)  # [1]


class Scalar(Base):
    """Gives a number without a dimension."""

    def forward(self, windows: Tensor) -> Tensor:
        return self.linear(windows[0, -1]).squeeze(0)


class Number(Base):
    """Gives a float instead of a tensor."""

    def forward(self, windows: Tensor) -> float:
        return float(windows.sum())


class Pair(Base):
    """Gives two tensors."""

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        return windows[:, 0, 0], windows[:, 0, 0]


class Complex(Base):
    """Gives complex numbers."""

    def forward(self, windows: Tensor) -> Tensor:
        return torch.complex(windows[:, -1, 0], windows[:, -1, 1])


class Short(Base):
    """Gives a type that numpy does not know."""

    def forward(self, windows: Tensor) -> Tensor:
        return self.linear(windows[:, -1]).squeeze(1).to(torch.bfloat16)


class Whole(Base):
    """Gives integers."""

    def forward(self, windows: Tensor) -> Tensor:
        return windows[:, -1, 0].to(torch.int64)


class Raises(Base):
    """Raises when it is asked."""

    def forward(self, windows: Tensor) -> Tensor:
        if len(windows) > 0:
            raise ValueError("two\nlines")
        return windows[:, 0, 0]


class Constant(Base):
    """Says the same of every window."""

    def forward(self, windows: Tensor) -> Tensor:
        return torch.zeros(len(windows))


class Missing(Base):
    """Has NaN among its weights."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.linear.weight, float("nan"))


class Greedy(Base):
    """Wants more memory than there is."""

    def forward(self, windows: Tensor) -> Tensor:
        return torch.zeros([1 << 61, len(windows)])[0]


def saved(model: nn.Module, marker: Path) -> bytes:
    """A model as `torch.jit.save` writes it, with the marker's path put into its code."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(model.eval()), buffer)
    return rewritten(
        buffer.getvalue(),
        lambda name, data: (
            data.replace(b"MARKER", str(marker).encode()) if name.endswith(".py") else data
        ),
    )


@pytest.mark.parametrize("model", [Writes, Maps, WritesAtLoad, Forks, Awaits, PointsElsewhere])
def test_models_that_do_more_than_sums(fuzzer: Fuzzer, model: type[nn.Module]) -> None:
    """L24: TorchScript can write files, start threads and end the process; it is not loaded."""
    assert "its code names" in fuzzer.refused_payload(saved(model(), fuzzer.marker))


@pytest.mark.parametrize(
    "spelling",
    [
        b"torch . save (windows, ",
        b"torch.\\\n    save(windows, ",
        b"ops.aten.save(windows, ",
        b'getattr(torch, "save")(windows, ',
        b'getattr(torch, "sa\\166e")(windows, ',
        b"getattr(torch, 'sa\\166e')(windows, ",
        b'getattr (torch, "sa\\166e")(windows, ',
    ],
)
@pytest.mark.parametrize("folder", ["code/", "CODE/"])
def test_other_spellings(fuzzer: Fuzzer, spelling: bytes, folder: str) -> None:
    """L24: torch reads code under any case of its name, and names spelt by escapes."""
    archive = rewritten(
        saved(Writes(), fuzzer.marker),
        lambda _, data: data.replace(b"torch.save(windows, ", spelling),
    )
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name.replace("code/", folder), old.read(name))
    fuzzer.refused_payload(out.getvalue())


@pytest.mark.parametrize(
    "operator",
    [
        *(b"ops.inductor._reinterpret_tensor", b'getattr(ops, "inductor")._x', b"ops\\\n.x"),
        *(b"ops.aten.select", b"ops.prim.TimePoint", b"torch._sparse_csr_tensor_unsafe"),
        *(b"torch.sparse_coo_tensor", b"torch.segment_reduce", b"torch.ctc_loss"),
        *(b"torch.mkldnn_rnn_layer", b"torch.max_pool2d_with_indices_backward"),
        *(b"torch._pad_packed_sequence", b"(windows)._values"),
    ],
)
def test_operators_that_do_not_look(fuzzer: Fuzzer, operator: bytes) -> None:
    """L24: some of torch's own operators read and write beyond a tensor."""
    archive = rewritten(
        saved(Base(), fuzzer.marker), lambda _, data: data.replace(b"torch.select", operator)
    )
    assert "its code names" in fuzzer.refused_payload(archive)


@pytest.mark.parametrize(
    "model",
    [
        *(OtherInputs, OneAnswer, Scalar, Number, Pair, Complex, Short, Whole),
        *(Raises, Constant, Missing, Greedy, Base),
    ],
)
def test_models_that_are_not_the_manifests(fuzzer: Fuzzer, model: type[nn.Module]) -> None:
    """L20: other inputs, other answers, none, NaN, or just another model: none serves."""
    torch.manual_seed(0)
    fuzzer.refused_payload(saved(model(), fuzzer.marker))


def test_flipped_bytes_that_are_vouched_for(fuzzer: Fuzzer) -> None:
    """L24: with a right hash, what is changed inside an archive is refused or changes no answer."""
    draw = random.Random(3)
    refused = 0
    for turn in range(90):
        ending = ("data.pkl", "gru.py", "modules/rnn.py")[turn % 3]

        def change(name: str, data: bytes, ending: str = ending) -> bytes:
            flipped = bytearray(data)
            if name.endswith(ending):
                flipped[draw.randrange(len(flipped))] ^= draw.randrange(1, 256)
            return bytes(flipped)

        payload = rewritten(fuzzer.payload, change)
        refused += fuzzer.allowed(lambda path, payload=payload: vouch(path, payload)) is None
    assert refused > 45


@pytest.fixture(scope="module", params=["xgboost", "lightgbm", "sigor"])
def other(
    request: pytest.FixtureRequest, history: BarTable, tmp_path_factory: pytest.TempPathFactory
) -> Fuzzer:
    """Of a kind whose payload is text."""
    from quantum_ai_engine.training.export import train_bundle
    from quantum_ai_engine.training.options import TrainOptions

    folder = tmp_path_factory.mktemp(request.param)
    options = TrainOptions(samples_per_epoch=800)
    train_bundle(request.param, history, folder, options, lambda _: None)
    return Fuzzer(folder / request.param, folder)


def test_text_that_is_no_model(other: Fuzzer) -> None:
    """L24: garbage, pickles and pieces that the manifest vouches for; the process lives on."""
    draw = random.Random(4)
    for garbage in (b"", b"\0" * 164, b"{}", b"[" * 100_000, b"tree\n", b"\xff\xfe", b"null"):
        other.refused_payload(garbage)
    other.refused_payload(pickle.dumps(Hostile(other.marker, True)))
    size = len(other.payload.rstrip()) // 2
    for _ in range(40):
        other.refused_payload(other.payload[: draw.randrange(size)])
    refused = other.count
    for _ in range(60):
        data = bytearray(other.payload)
        data[draw.randrange(len(data))] = draw.randrange(256)
        other.allowed(lambda path, data=data: vouch(path, bytes(data)))
    assert other.count > refused


def test_what_was_verified_is_what_is_loaded(bundles: Path, tmp_path: Path) -> None:
    """L25: a payload exchanged between the check and the loading is found out."""
    path = Path(shutil.copytree(bundles / "gru", tmp_path / "gru"))
    bundle = read_bundle(path)
    shutil.copy(bundles / "patchtst" / "model.pt", path / "model.pt")
    with pytest.raises(BundleError, match="does not have the SHA-256 of the manifest"):
        load_agent(bundle)
    with pytest.raises(BundleError, match=r"the manifest lists no other\.pt"):
        bundle.read("other.pt")
