"""Agents whose model is a forest of boosted trees: logits from single values of raw windows."""

import ctypes
import importlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.bundle import Bundle, BundleError, printable
from quantum_ai_engine.agents.bundled import BundledAgent
from quantum_ai_engine.agents.forest import LARGEST, ForestError, lightgbm_model, xgboost_model
from quantum_ai_engine.features.schema import FeatureSet

PAYLOADS = {"xgboost": "model.json", "lightgbm": "model.txt"}

Inputs = NDArray[np.float32]
Margins = Callable[[Inputs], NDArray[np.float64]]


class TreesAgent(BundledAgent):
    """One bundle of boosted trees.

    `margins` gives the logits [n] of inputs [n, inputs] in one thread, each row for itself.
    A window that holds NaN or infinity has no answer: trees would take NaN for "missing" and send
    it on.
    """

    def __init__(self, bundle: Bundle, margins: Margins) -> None:
        super().__init__(bundle)
        self._margins = margins
        back, column = places(bundle.manifest.inputs, bundle.feature_set)
        window, columns = bundle.feature_set.window, len(bundle.feature_set.columns)
        self._flat = (window - 1 - back) * columns + column

    def logits(self, windows: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
        if not len(windows):
            return np.empty(0), 0
        flat = windows.reshape(len(windows), -1)  # [n, window · columns]
        rows = flat.take(self._flat, axis=1)  # [n, inputs]
        clamped = 0
        if not np.abs(rows).max() <= LARGEST:  # seldom: NaN, infinity or beyond float32
            clamped = int(np.count_nonzero(np.isfinite(rows) & (np.abs(rows) > LARGEST)))
            rows = np.clip(np.nan_to_num(rows), -LARGEST, LARGEST)
        logits = self._margins(rows.astype(np.float32))
        return np.where(np.isfinite(flat).all(axis=1), logits, np.nan), clamped


def load(bundle: Bundle) -> TreesAgent:
    """The agent of a verified bundle. Raises `BundleError`, `ImportError` without its library."""
    kind, inputs = bundle.manifest.kind, len(bundle.manifest.inputs)
    name = PAYLOADS[kind]
    require(kind)
    make = _xgboost if kind == "xgboost" else _lightgbm
    try:
        return TreesAgent(bundle, make(bundle.read(name), inputs))
    except ForestError as error:
        raise BundleError(f"bundle {bundle.path}: {name}: {printable(str(error))}") from error
    except InputsError as error:
        raise BundleError(f"bundle {bundle.path}: {printable(str(error))}") from error


class InputsError(ValueError):
    """Names of inputs that a feature set does not have."""


def places(
    inputs: Sequence[str], feature_set: FeatureSet
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many rows before the newest, and in which column, each input [inputs] stands.

    >>> from quantum_ai_engine.features.schema import FeatureSet
    >>> places(["clv", "ret_1@2"], FeatureSet("two", ("ret_1", "clv"), window=4))
    (array([0, 2]), array([1, 0]))
    """
    columns = {name: i for i, name in enumerate(feature_set.columns)}
    backs = {f"@{back}": back for back in range(1, feature_set.window)} | {"": 0}
    places = []
    for name in inputs:
        column, at, back = name.partition("@")
        if column not in columns or at + back not in backs:
            raise InputsError(f"{feature_set.name} has no input {name!r}")
        places.append((backs[at + back], columns[column]))
    if not places:
        raise InputsError("the manifest names no inputs, which a model of trees needs")
    back_rows, column_indices = np.array(places, dtype=np.int64).T
    return back_rows, column_indices


def require(name: str) -> None:
    """Import a library, here where it fails. Raises `ImportError` with its name."""
    try:
        importlib.import_module(name)
    except (OSError, ValueError) as error:  # a shared library that it needs is missing
        reason = str(error).strip().splitlines()[0]
        raise ImportError(reason, name=name) from error


# Both are called below their Python front ends, which make a class or a cycle of objects on every
# call: rubbish that only the collector takes away, and three quarters of the time.


def _xgboost(payload: bytes, inputs: int) -> Margins:
    import xgboost
    from xgboost.core import _LIB, _check_call

    booster = xgboost.Booster({"nthread": 1})
    try:
        booster.load_model(bytearray(xgboost_model(payload, inputs)))
    except xgboost.core.XGBoostError as error:
        raise ForestError(str(error).splitlines()[0]) from error
    booster.set_param({"nthread": 1})  # again: a file brings settings of its own

    def margins(rows: Inputs) -> NDArray[np.float64]:
        length, dimensions = ctypes.POINTER(ctypes.c_uint64)(), ctypes.c_uint64()
        answers = ctypes.POINTER(ctypes.c_float)()
        _check_call(
            _LIB.XGBoosterPredictFromDense(
                booster.handle,
                b'{"data":[%d,true],"shape":[%d,%d],"typestr":"<f4","version":3}'
                % (_address(rows), *rows.shape),
                b'{"type":1,"training":false,"iteration_begin":0,"iteration_end":0,'
                b'"missing":NaN,"strict_shape":false,"cache_id":0}',  # type 1: margins
                None,
                ctypes.byref(length),
                ctypes.byref(dimensions),
                ctypes.byref(answers),
            )
        )
        out = np.empty(len(rows), np.float32)  # what the library shows lasts until its next call
        ctypes.memmove(_address(out), answers, out.nbytes)
        return out.astype(np.float64)

    margins(np.zeros((1, inputs), np.float32))  # it configures itself in the first call
    return margins


def _lightgbm(payload: bytes, inputs: int) -> Margins:
    import lightgbm
    from lightgbm.basic import _safe_call
    from lightgbm.libpath import _LIB

    try:
        booster = lightgbm.Booster(model_str=lightgbm_model(payload, inputs))
    except lightgbm.basic.LightGBMError as error:
        raise ForestError(str(error).splitlines()[0]) from error

    def margins(rows: Inputs) -> NDArray[np.float64]:
        out, written = np.empty(len(rows)), ctypes.c_int64()
        _safe_call(
            _LIB.LGBM_BoosterPredictForMat(
                booster._handle,
                ctypes.c_void_p(_address(rows)),
                0,  # float32
                len(rows),
                rows.shape[1],
                1,  # row by row
                1,  # raw scores
                0,
                -1,  # all trees
                b"num_threads=1",
                ctypes.byref(written),
                ctypes.c_void_p(_address(out)),
            )
        )
        return out

    return margins


def _address(array: NDArray[np.generic]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
