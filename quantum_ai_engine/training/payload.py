"""What is inside a payload: a module's parameters, a forest's trees, a rule's numbers."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.bundle import Bundle, BundleError
from quantum_ai_engine.agents.load import load_agent

TOP_INPUTS = 10

Summary = dict[str, Any]


def summarise(bundle: Bundle) -> Summary:
    """What the payload of a verified bundle holds, in plain values; a kind unknown here: nothing.

    The agent is loaded first, which refuses a payload that must not be opened; where its library is
    missing, that is all there is to say. Raises `BundleError`.
    """
    summarised = _BY_FILE.keys() & bundle.manifest.files.keys()
    if not summarised:
        return {}
    agent = load_agent(bundle)
    if agent.unavailable:
        return {"unopened": agent.unavailable}
    name = min(summarised)
    try:
        return _BY_FILE[name](bundle)
    except (LookupError, TypeError, ValueError) as error:  # of what serving does not read
        raise BundleError(f"bundle {bundle.path}: {name} cannot be summed up: {error!r}") from error


def _module(bundle: Bundle) -> Summary:
    """Of TorchScript: its layers and buffers, and what its last bias alone would answer."""
    from quantum_ai_engine.agents.torchscript import PAYLOAD, opened

    module = opened(bundle.read(PAYLOAD))
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    biases = [value for value in parameters.values() if value.numel() == 1]
    summary: Summary = {
        "parameters": sum(value.numel() for value in parameters.values()),
        "methods": sorted(module._c._method_names()),
        "layers": [_numbers(name, value) for name, value in parameters.items()],
        "buffers": [_numbers(name, value) for name, value in module.named_buffers()],
    }
    if biases:
        bias = float(biases[-1])
        probability = bundle.manifest.calibration.apply(np.array([bias]))
        summary["head"] = {"bias": bias, "probability": float(probability[0])}
    return summary


def _numbers(name: str, tensor: Any) -> Summary:
    """Shape, type and spread of one tensor; the spread is of its finite values."""
    values = tensor.to("cpu").double().numpy()
    finite = values[np.isfinite(values)]
    return {
        "name": name,
        "shape": list(tensor.shape),
        "dtype": str(tensor.dtype).removeprefix("torch."),
        **_spread(finite),
        "zeros": float(np.mean(values == 0.0)) if values.size else 0.0,
        "not_finite": int(values.size - finite.size),
    }


def _spread(values: NDArray[np.float64]) -> Summary:
    if not values.size:
        return dict.fromkeys(("mean", "std", "min", "max"))
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def _xgboost(bundle: Bundle) -> Summary:
    """Of XGBoost: gains stand in the same places as thresholds of inner nodes."""
    file = msgspec.json.decode(bundle.read("model.json"))
    trees = file["learner"]["gradient_booster"]["model"]["trees"]
    gains: dict[int, float] = {}
    depths = []
    for tree in trees:
        left, right = tree["left_children"], tree["right_children"]
        for node, feature in enumerate(tree["split_indices"]):
            if left[node] != -1:
                gains[feature] = gains.get(feature, 0.0) + tree["loss_changes"][node]
        depths.append(_depth(left, right))
    return _forest(bundle, depths, gains)


def _depth(left: list[int], right: list[int]) -> int:
    """The splits above the deepest leaf."""
    deepest, waiting = 0, [(0, 0)]
    while waiting:
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        if left[node] != -1:
            waiting += [(left[node], depth + 1), (right[node], depth + 1)]
    return deepest


def _lightgbm(bundle: Bundle) -> Summary:
    """Of LightGBM: a child below 0 is a leaf."""
    gains: dict[int, float] = {}
    depths = []
    for block in bundle.read("model.txt").decode("ascii").split("\nTree=")[1:]:
        tree = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        left, right, features = (
            [int(value) for value in tree.get(key, "").split()]
            for key in ("left_child", "right_child", "split_feature")
        )
        depths.append(_lightgbm_depth(left, right))
        for feature, gain in zip(features, tree.get("split_gain", "").split(), strict=False):
            gains[feature] = gains.get(feature, 0.0) + float(gain)
    return _forest(bundle, depths, gains)


def _lightgbm_depth(left: list[int], right: list[int]) -> int:
    deepest, waiting = 0, [(0, 1)] if left else []
    while waiting:
        node, depth = waiting.pop()
        deepest = max(deepest, depth)
        waiting += [(child, depth + 1) for child in (left[node], right[node]) if child >= 0]
    return deepest


def _forest(bundle: Bundle, depths: list[int], gains: Mapping[int, float]) -> Summary:
    best = sorted(gains.items(), key=lambda item: -item[1])[:TOP_INPUTS]
    return {
        "trees": len(depths),
        "depth": max(depths),
        "inputs_used": len(gains),
        "top_inputs": [
            {"name": bundle.manifest.inputs[feature], "gain": gain} for feature, gain in best
        ],
    }


def _rule(bundle: Bundle) -> Summary:
    return dict(msgspec.json.decode(bundle.read("rule.json")))


_BY_FILE: dict[str, Callable[[Bundle], Summary]] = {
    "model.pt": _module,
    "model.json": _xgboost,
    "model.txt": _lightgbm,
    "rule.json": _rule,
}
