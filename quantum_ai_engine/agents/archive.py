"""What a TorchScript archive may hold: sums over its own numbers, nothing that touches files."""

import io
import pickle
import re
from typing import Any

import torch

LARGEST_RATIO = 32  # of all records together to the archive: weights are stored, code shrinks
# TorchScript cannot reach Python, but it can save tensors to any path, map any file into memory,
# and run code while it is being loaded. Each needs its name spelt out in the archive's code.
FORBIDDEN = re.compile(
    rb"\b(?:save|from_file|__setstate__|rpc_\w+)\b"
    # Some of the other namespaces do not look where they write; these two of oneDNN's do.
    rb"|\bops\b(?!\.(?:prim|aten)\.|\.mkldnn\._(?:reorder_linear_weight|linear_pointwise)\b)"
    rb"|\bgetattr\b(?!\([\w.]+, \"\w+\"\))"  # a name that could be spelt otherwise
)
_FLATBUFFER = b"PTMF"  # at byte 4: a second format that `torch.jit.load` would take
_BYTES = {
    **dict.fromkeys(("DoubleStorage", "LongStorage"), 8),
    **dict.fromkeys(("FloatStorage", "IntStorage"), 4),
    **dict.fromkeys(("HalfStorage", "BFloat16Storage", "ShortStorage"), 2),
    **dict.fromkeys(("CharStorage", "ByteStorage", "BoolStorage"), 1),
}
_UNREADABLE = (pickle.UnpicklingError, EOFError, ArithmeticError, LookupError, TypeError)


def check_archive(data: bytes) -> None:
    """Refuse, before it is loaded, an archive that torch would not load or run safely.

    That is one which unpacks without bound, touches files, or holds fewer numbers than it says:
    torch would read beyond them. Raises `ValueError`, and `RuntimeError` for what is no archive.
    A model is code all the same: how long it runs and how much memory it takes, nobody can tell.
    """
    if data[4:8] == _FLATBUFFER:
        raise ValueError("it is a flatbuffer")
    reader = torch._C.PyTorchFileReader(io.BytesIO(data))
    names = reader.get_all_records()
    size = sum(reader.get_record_size(name) for name in names)
    if size > LARGEST_RATIO * len(data):
        raise ValueError(f"its {len(data)} bytes unpack to {size}")
    for name in names:
        folded = name.lower()  # torch finds a record under its name in any case
        if not folded.startswith("code/") or not folded.endswith(".py"):
            continue
        if found := FORBIDDEN.search(reader.get_record(name)):
            raise ValueError(f"its code names {found[0].decode()!r}, which no model needs")
    for folder in ("data", "constants"):
        _check_numbers(reader, folder)


def _check_numbers(reader: Any, folder: str) -> None:
    """Refuse an archive in which a tensor's record is shorter than its pickle says."""
    storages = _Storages(io.BytesIO(reader.get_record(f"{folder}.pkl")))
    try:
        storages.load()
    except _UNREADABLE as error:
        raise ValueError(f"its {folder}.pkl cannot be read: {error}") from error
    for key, size in storages.bytes.items():
        held = reader.get_record_size(f"{folder}/{key}")
        if held != size:
            raise ValueError(f"its {folder}/{key} has {held} bytes of {size}")


class _Inert:
    """Stands for whatever a pickle would make; it does nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class _Storages(pickle.Unpickler):
    """Reads from a pickle how many bytes its tensors have, and makes nothing of it.

    It looks nothing up: every name stands for `_Inert`, or for a width in bytes.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.bytes: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name.endswith("Storage"):
            return _BYTES[name]
        return _Inert

    def persistent_load(self, pid: Any) -> object:
        _, width, key, _, count = pid
        self.bytes[str(key)] = max(width * count, self.bytes.get(str(key), 0))
        return _Inert()
