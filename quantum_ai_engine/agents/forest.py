"""Files of boosted trees, taken apart, checked and put together again for their libraries.

Both libraries end the process on a damaged file, or read beyond an array when a node points there.
So they are only given what was written here, from trees in which every node has been checked.
"""

import math
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

LARGEST = float(np.finfo(np.float32).max)
DEEPEST = 1_000  # splits on one path; the libraries walk down a tree by recursion

Index = Annotated[int, Meta(ge=-1, le=2**32)]
Indices = NDArray[np.int64]


class ForestError(ValueError):
    """A file that is no forest of these inputs: what is wrong with it."""


class _TreeSize(msgspec.Struct, frozen=True):
    size_leaf_vector: Literal["1"]


class _Tree(msgspec.Struct, frozen=True):
    """A tree of XGBoost; `split_conditions` hold the thresholds and, in leaves, the values."""

    left_children: list[Index]
    right_children: list[Index]
    split_indices: list[Index]
    split_conditions: list[float]
    split_type: list[Literal[0]]
    tree_param: _TreeSize


class _Trees(msgspec.Struct, frozen=True):
    tree_info: list[Literal[0]]
    trees: list[_Tree]


class _Booster(msgspec.Struct, frozen=True):
    name: Literal["gbtree"]
    model: _Trees


class _Parameters(msgspec.Struct, frozen=True):
    base_score: Annotated[str, Meta(pattern=r"^\[[-+.0-9eE]+\]$")]
    num_class: Literal["0"]
    num_feature: str
    num_target: Literal["1"]


class _Objective(msgspec.Struct, frozen=True):
    name: Literal["binary:logistic"]


class _Learner(msgspec.Struct, frozen=True):
    gradient_booster: _Booster
    learner_model_param: _Parameters
    objective: _Objective


class _File(msgspec.Struct, frozen=True):
    """What serving reads of XGBoost's own JSON; the rest of it is left out."""

    learner: _Learner
    version: tuple[Literal[3], int, int]


def xgboost_model(payload: bytes, inputs: int) -> bytes:
    """XGBoost's JSON of the checked trees of its own JSON. Raises `ForestError`."""
    try:
        file = msgspec.json.decode(payload, type=_File)
        base = float(file.learner.learner_model_param.base_score.strip("[]"))
    except (ValueError, RecursionError) as error:
        raise ForestError(str(error)) from error
    parameters, forest = file.learner.learner_model_param, file.learner.gradient_booster.model
    _check_inputs(parameters.num_feature, inputs)
    if not 0.0 < base < 1.0:
        raise ForestError(f"its base score {base} is no probability")
    if not 0 < len(forest.trees) == len(forest.tree_info):
        raise ForestError(f"{len(forest.trees)} trees, but {len(forest.tree_info)} are announced")
    trees = [_xgboost_tree(i, tree, inputs) for i, tree in enumerate(forest.trees)]
    model = {
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
        "iteration_indptr": list(range(len(trees) + 1)),
        "tree_info": forest.tree_info,
        "trees": trees,
        "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
    }
    learner = {
        "attributes": {},
        "feature_names": [],
        "feature_types": [],
        "gradient_booster": {"model": model, "name": "gbtree"},
        "learner_model_param": {**msgspec.to_builtins(parameters), "boost_from_average": "1"},
        "objective": {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}},
    }
    return msgspec.json.encode({"learner": learner, "version": file.version})


def _xgboost_tree(number: int, tree: _Tree, inputs: int) -> dict[str, object]:
    nodes = len(tree.left_children)
    left, right = _indices(tree.left_children), _indices(tree.right_children)
    feature, values = _indices(tree.split_indices), np.array(tree.split_conditions)
    if not 0 < nodes == len(right) == len(feature) == len(values) == len(tree.split_type):
        raise ForestError(f"tree {number}: its lists differ in length")
    splits = left != -1
    children = np.concatenate([left[splits], right[splits]])
    parent_of = np.tile(np.flatnonzero(splits), 2)
    if ((right != -1) != splits).any():
        raise ForestError(f"tree {number}: a node has one child")
    _check_tree(number, parent_of, children, nodes)
    _check_splits(number, feature[splits], values, inputs)
    parents = np.full(nodes, 2**31 - 1)
    parents[children] = parent_of
    zeros = [0] * nodes
    return {
        "id": number,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(inputs),
            "num_nodes": str(nodes),
            "size_leaf_vector": "1",
        },
        "left_children": tree.left_children,
        "right_children": tree.right_children,
        "parents": parents.tolist(),
        "split_indices": np.where(splits, feature, 0).tolist(),
        "split_conditions": tree.split_conditions,
        "split_type": zeros,
        "default_left": zeros,
        "base_weights": [0.0] * nodes,
        "loss_changes": [0.0] * nodes,
        "sum_hessian": [0.0] * nodes,
        "categories": [],
        "categories_nodes": [],
        "categories_segments": [],
        "categories_sizes": [],
    }


def lightgbm_model(payload: bytes, inputs: int) -> str:
    """LightGBM's text of the checked trees of its own text. Raises `ForestError`."""
    try:
        return _lightgbm_model(payload.decode("ascii"), inputs)
    except KeyError as error:
        raise ForestError(f"{error.args[0]} is missing") from error
    except (ValueError, OverflowError) as error:
        raise ForestError(str(error)) from error


def _lightgbm_model(text: str, inputs: int) -> str:
    forest, end, _ = text.partition("\nend of trees\n")
    head, *blocks = forest.split("\nTree=")
    if not end or not blocks or head.partition("\n")[0] != "tree":
        raise ForestError("it does not hold a whole LightGBM model")
    header = _fields(head)
    for key, value in _LIGHTGBM_HEADER.items():
        if header[key] != value:
            raise ForestError(f"{key} is {header[key]}, not {value}")
    _check_inputs(str(int(header["max_feature_idx"]) + 1), inputs)
    if len(header["tree_sizes"].split()) != len(blocks):
        raise ForestError("it does not hold as many trees as it says")
    trees = [
        f"Tree={i}\n{_lightgbm_tree(i, _fields(block), inputs)}\n\n\n"
        for i, block in enumerate(blocks)
    ]
    lines = {
        **_LIGHTGBM_HEADER,
        "label_index": "0",
        "max_feature_idx": str(inputs - 1),
        "feature_names": " ".join(f"Column_{i}" for i in range(inputs)),
        "feature_infos": " ".join(["[-inf:inf]"] * inputs),
        "tree_sizes": " ".join(str(len(tree)) for tree in trees),
    }
    return f"tree\n{_lines(lines)}\n\n{''.join(trees)}end of trees\n"


_LIGHTGBM_HEADER = {
    "version": "v4",
    "num_class": "1",
    "num_tree_per_iteration": "1",
    "objective": "binary sigmoid:1",
}
_NUMERICAL = {"0", "2", "8", "10"}  # no category, and zero is a number like others


def _lightgbm_tree(number: int, tree: dict[str, str], inputs: int) -> str:
    leaves, values = int(tree["num_leaves"]), _floats(tree["leaf_value"])
    if not 0 < leaves == len(values):
        raise ForestError(f"tree {number}: its lists differ in length")
    if tree["num_cat"] != "0" or tree["is_linear"] != "0":
        raise ForestError(f"tree {number}: categories and linear leaves are not served")
    lines = {"num_leaves": str(leaves), "num_cat": "0"}
    if leaves > 1:
        lines |= _lightgbm_splits(number, tree, leaves, inputs)
    lines |= {"leaf_value": _text(values), "is_linear": "0", "shrinkage": "1"}
    return _lines(lines)


def _lightgbm_splits(number: int, tree: dict[str, str], leaves: int, inputs: int) -> dict[str, str]:
    left, right, feature = (
        _indices([int(v) for v in tree[key].split()])
        for key in ("left_child", "right_child", "split_feature")
    )
    thresholds, decisions = _floats(tree["threshold"]), tree["decision_type"].split()
    splits = leaves - 1
    if any(len(part) != splits for part in (left, right, feature, thresholds, decisions)):
        raise ForestError(f"tree {number}: its lists differ in length")
    if not _NUMERICAL.issuperset(decisions):
        raise ForestError(f"tree {number}: categories and zeros as missing are not served")
    children = np.concatenate([left, right])
    # One numbering for all nodes: splits as they are, leaves (~leaf in the file) behind them.
    nodes = np.where(children < 0, splits + ~children, children)
    _check_tree(number, np.tile(np.arange(splits), 2), nodes, splits + leaves)
    _check_splits(number, feature, thresholds, inputs)
    return {
        "split_feature": _text(feature),
        "threshold": _text(thresholds),
        "decision_type": " ".join(decisions),
        "left_child": _text(left),
        "right_child": _text(right),
    }


def _check_inputs(features: str, inputs: int) -> None:
    if features != str(inputs):
        raise ForestError(f"it reads {features} inputs, the manifest names {inputs}")


def _check_tree(number: int, parents: Indices, children: Indices, nodes: int) -> None:
    """Each node but 0 is behind its only parent, as both libraries write it: there is no cycle."""
    if len(children) and (children.min() < 1 or children.max() >= nodes):
        raise ForestError(f"tree {number}: a child is not in the tree")
    if len(np.unique(children)) != len(children):
        raise ForestError(f"tree {number}: a node is the child of two")
    if len(children) != nodes - 1:  # XGBoost's exact method prunes so, and its reader ends on ours
        raise ForestError(f"tree {number}: a node is nobody's child; train with tree_method=hist")
    if (children <= parents).any():
        raise ForestError(f"tree {number}: a child comes before its parent")
    depths = [0] * nodes
    for parent, child in sorted(zip(parents.tolist(), children.tolist(), strict=True)):
        depths[child] = depths[parent] + 1
    if max(depths) > DEEPEST:
        raise ForestError(f"tree {number}: it is {max(depths)} splits deep, more than {DEEPEST}")


def _check_splits(number: int, feature: Indices, values: NDArray[np.float64], inputs: int) -> None:
    if len(feature) and (feature.min() < 0 or feature.max() >= inputs):
        raise ForestError(f"tree {number}: a split is on an input that does not exist")
    if not (np.abs(values) <= LARGEST).all():
        raise ForestError(f"tree {number}: a value is not a float32 number")


def _indices(values: list[int]) -> Indices:
    return np.array(values, dtype=np.int64)


def _floats(text: str) -> NDArray[np.float64]:
    values = [float(value) for value in text.split()]
    if not all(math.isfinite(value) for value in values):
        raise ForestError("a value is not a finite number")
    return np.array(values, dtype=np.float64)


def _text(values: NDArray[np.float64] | Indices) -> str:
    return " ".join(repr(value) for value in values.tolist())


def _fields(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def _lines(fields: dict[str, str]) -> str:
    return "\n".join(f"{key}={value}" for key, value in fields.items())
