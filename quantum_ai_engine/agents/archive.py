"""What a TorchScript archive may hold: sums over its own numbers, nothing that touches files.

A net, not a wall: a bundle is code, to be taken only from whom one trusts. Torch's operators were
not written against hostile arguments, and some that every model needs can still end the process.
"""

import io
import pickle
import pickletools
import re
from typing import Any

import torch

LARGEST_RATIO = 32  # of all records together to the archive: weights are stored, code shrinks
# TorchScript cannot reach Python, but it can save tensors to any path, map any file into memory,
# start threads, and run code while it is being loaded. Each needs its name spelt out in the code.
FORBIDDEN = re.compile(
    rb"\b(?:save|from_file|__setstate__|rpc_\w+|fork|awaitable\w*)\b"
    # Operators that read or write wherever their arguments point, and that only training needs.
    rb"|\b(?:(?:to_)?sparse_\w+|segment_reduce|mkldnn_\w+|ctc_loss|\w+_backward)\b"
    # What torch writes as "ops" for ordinary modules, and two of oneDNN's that look where they go.
    rb"|\bops\b(?!\.prim\.(?:RaiseException|NumToTensor|abs|data|device|dtype|is_\w+|itemsize"
    rb"|layout|max|min|requires_grad|type)\b"
    rb"|\.mkldnn\._(?:reorder_linear_weight|linear_pointwise)\b)"
    rb"|\bgetattr\b(?!\([\w.]+, \"\w+\"\))"  # a name that could be spelt otherwise
)
# Of torch's internal operators, which trust their callers, those that ordinary modules contain.
_USUAL = re.compile(
    r"__\w+|_convolution|_weight_norm|_upsample_\w+|_native_multi_head_attention"
    r"|_nested_tensor_from_mask(?:_left_aligned)?|_transformer_encoder_layer_fwd"
)
_OPERATORS = {schema.name for schema in torch._C._jit_get_all_schemas()}
INTERNAL = frozenset(
    name.removeprefix("aten::").encode()
    for name in _OPERATORS
    if name.startswith("aten::_") and not _USUAL.fullmatch(name.removeprefix("aten::"))
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

    That is one which unpacks without bound, names what no model needs, or holds fewer numbers than
    it says: torch would read beyond them. Raises `ValueError`, and `RuntimeError` for what is no
    archive. A model is code all the same: how long it runs and how much memory it takes, nobody
    can tell.
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
        if folded.endswith("pkl"):
            _check_pickle(name, reader.get_record(name))
        elif folded.startswith("code/") and folded.endswith(".py"):
            _check_code(reader.get_record(name))
    for folder in ("data", "constants"):
        _check_numbers(reader, folder)


def _check_code(code: bytes) -> None:
    named = FORBIDDEN.findall(code) or sorted(INTERNAL.intersection(re.findall(rb"\w+", code)))
    if named:
        raise ValueError(f"its code names {named[0].decode()!r}, which no model needs")


def _check_pickle(name: str, data: bytes) -> None:
    """Refuse a pickle that makes its reader set aside more memory than it has bytes."""
    try:
        for code, argument, _ in pickletools.genops(data):  # it reads no length beyond the end
            place = argument if code.name.endswith("PUT") else None  # in the reader's list
            if place is not None and place > len(data):
                raise ValueError(f"place {place} in {len(data)} bytes")
    except ValueError as error:
        raise ValueError(f"its {name} cannot be read: {error}") from error


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
        if not (isinstance(width, int) and isinstance(key, str) and isinstance(count, int)):
            raise pickle.UnpicklingError("a storage without width, key and count")
        self.bytes[key] = max(width * count, self.bytes.get(key, 0))
        return _Inert()
