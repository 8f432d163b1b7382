"""Files of trees: what is damaged or hostile is refused before a library sees it."""

import json
import re
from typing import Any

import numpy as np
import pytest

from quantum_ai_engine.agents.bundle import Bundle
from quantum_ai_engine.agents.forest import ForestError, lightgbm_model, xgboost_model


@pytest.fixture(scope="module")
def json_file(tabular: dict[str, Bundle]) -> bytes:
    return (tabular["xgboost"].path / "model.json").read_bytes()


@pytest.fixture(scope="module")
def text_file(tabular: dict[str, Bundle]) -> bytes:
    return (tabular["lightgbm"].path / "model.txt").read_bytes()


@pytest.fixture(scope="module")
def inputs(tabular: dict[str, Bundle]) -> int:
    return len(tabular["xgboost"].manifest.inputs)


def changed_tree(file: bytes, key: str, place: int, value: Any) -> bytes:
    """XGBoost's JSON with one number of its first tree changed."""
    document = json.loads(file)
    document["learner"]["gradient_booster"]["model"]["trees"][0][key][place] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("left_children", 9_999, "tree 0: a child is not in the tree"),
        ("left_children", 0, "tree 0: a child is not in the tree"),
        ("left_children", -1, "tree 0: a node has one child"),
        ("left_children", 2, "tree 0: a node is the child of two"),
        ("right_children", 2**40, "right_children"),
        ("split_indices", 9_999, "tree 0: a split is on an input that does not exist"),
        ("split_indices", -1, "tree 0: a split is on an input that does not exist"),
        ("split_conditions", 1e300, "tree 0: a value is not a float32 number"),
        ("split_type", 1, "split_type"),
    ],
)
def test_xgboost_nodes_that_lead_astray_are_refused(
    json_file: bytes, inputs: int, key: str, value: Any, why: str
) -> None:
    """L24: no node of a tree points outside of it, back, or at an input that is not there."""
    with pytest.raises(ForestError, match=why):
        xgboost_model(changed_tree(json_file, key, 0, value), inputs)


@pytest.mark.parametrize(
    ("pattern", "by", "why"),
    [
        (rb'"name":"gbtree"', b'"name":"dart"', "gbtree|dart"),
        (rb'"binary:logistic"', b'"multi:softmax"', "multi:softmax"),
        (rb'"base_score":"[^"]*"', b'"base_score":"[0]"', "base score 0.0 is no probability"),
        (rb'"base_score":"[^"]*"', b'"base_score":"[-]"', "could not convert"),
        (rb'"num_class":"0"', b'"num_class":"3"', "num_class"),
        (rb'"version":\[3', b'"version":[1', "version"),
        (rb'"tree_info":\[0,', b'"tree_info":[', "are announced"),
        (rb'"attributes":\{\}', b'"attributes":' + b"[" * 100_000, "recursion"),
        (rb"\}$", b"", "truncated"),
        (rb"^[\s\S]*", b"", "truncated"),
        (rb"^[\s\S]*", b"[]", "Expected `object`"),
    ],
)
def test_another_xgboost_model_is_refused(
    json_file: bytes, inputs: int, pattern: bytes, by: bytes, why: str
) -> None:
    """L20: only a forest for one logit is read; what is missing or cut off is said."""
    changed = re.sub(pattern, by, json_file, count=1)
    assert changed != json_file
    with pytest.raises(ForestError, match=why):
        xgboost_model(changed, inputs)


def shaped(file: bytes, left: list[int], right: list[int]) -> bytes:
    """XGBoost's JSON with one tree of this shape."""
    document = json.loads(file)
    model = document["learner"]["gradient_booster"]["model"]
    nodes = len(left)
    model["trees"] = [
        model["trees"][0]
        | {"left_children": left, "right_children": right, "split_indices": [0] * nodes}
        | {"split_conditions": [0.5] * nodes, "split_type": [0] * nodes}
    ]
    model["tree_info"] = [0]
    return json.dumps(document).encode()


def chain(splits: int) -> tuple[list[int], list[int]]:
    """The children of a tree in which each split hangs on the one before."""
    left, right = ([-1] * (2 * splits + 1) for _ in range(2))
    left[: 2 * splits : 2] = range(2, 2 * splits + 1, 2)
    right[: 2 * splits : 2] = range(1, 2 * splits, 2)
    return left, right


def lightgbm_chain(file: bytes, splits: int) -> bytes:
    """LightGBM's text with one such tree."""
    left = [*range(1, splits), -splits - 1]
    fields: dict[str, list[Any]] = {
        "num_leaves": [splits + 1],
        "num_cat": [0],
        "split_feature": [0] * splits,
        "threshold": [0.5] * splits,
        "decision_type": [2] * splits,
        "left_child": left,
        "right_child": [~leaf for leaf in range(splits)],
        "leaf_value": [0.1] * (splits + 1),
        "is_linear": [0],
    }
    tree = "\n".join(f"{key}={' '.join(map(str, value))}" for key, value in fields.items())
    head = re.sub(rb"tree_sizes=.*", b"tree_sizes=1", file.partition(b"\nTree=")[0])
    return head + f"\nTree=0\n{tree}\n\nend of trees\n".encode()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ([-1, 2, 1, -1, -1], [-1, 3, 4, -1, -1]),  # beside a root that is a leaf
        ([3, 2, 1, -1, -1, -1, -1], [4, 5, 6, -1, -1, -1, -1]),  # beside a tree
        ([-1, 1, -1], [-1, 2, -1]),
    ],
)
def test_cycles_are_refused(
    json_file: bytes, inputs: int, left: list[int], right: list[int]
) -> None:
    """L24: nodes that are each other's parents, out of the root's reach, end XGBoost's reader."""
    with pytest.raises(ForestError, match="tree 0: a child comes before its parent"):
        xgboost_model(shaped(json_file, left, right), inputs)


def test_nodes_apart_are_refused(json_file: bytes, inputs: int) -> None:
    """L24: XGBoost's reader looks for the parent of each node, also of those that have none."""
    with pytest.raises(ForestError, match="tree 0: a node is nobody's child"):
        xgboost_model(shaped(json_file, [1, *[-1] * 4], [2, *[-1] * 4]), inputs)


def test_trees_without_end_are_refused(json_file: bytes, text_file: bytes, inputs: int) -> None:
    """L24: the libraries walk down a tree by recursion, which a chain of splits exhausts."""
    deep = "tree 0: it is 1001 splits deep, more than 1000"
    xgboost_model(shaped(json_file, *chain(1_000)), inputs)
    with pytest.raises(ForestError, match=deep):
        xgboost_model(shaped(json_file, *chain(1_001)), inputs)
    lightgbm_model(lightgbm_chain(text_file, 1_000), inputs)
    with pytest.raises(ForestError, match=deep):
        lightgbm_model(lightgbm_chain(text_file, 1_001), inputs)


@pytest.mark.parametrize(
    "options",
    [
        {"tree_method": "hist", "grow_policy": "lossguide", "max_leaves": 200, "max_depth": 0},
        {"tree_method": "approx", "max_depth": 8},
        {"tree_method": "exact", "max_depth": 8},
    ],
)
def test_every_way_in_which_xgboost_grows_trees_is_read(options: dict[str, Any]) -> None:
    """No tree that the library itself writes has a child before its parent."""
    import xgboost

    draw = np.random.default_rng(0)
    values = draw.standard_normal((1_000, 4))
    rose = values[:, 0] * values[:, 1] + draw.standard_normal(1_000) > 0
    data = xgboost.DMatrix(values, label=rose)
    booster = xgboost.train({"objective": "binary:logistic"} | options, data, 5)
    checked = xgboost.Booster()
    checked.load_model(bytearray(xgboost_model(bytes(booster.save_raw("json")), 4)))
    unnamed = xgboost.DMatrix(values)
    assert np.array_equal(checked.predict(unnamed), booster.predict(unnamed))


@pytest.mark.parametrize("boosting", ["gbdt", "dart", "rf"])
def test_every_way_in_which_lightgbm_grows_trees_is_read(boosting: str) -> None:
    """As above."""
    import lightgbm

    draw = np.random.default_rng(0)
    values = draw.standard_normal((1_000, 4))
    rose = values[:, 0] * values[:, 1] + draw.standard_normal(1_000) > 0
    options = {"objective": "binary", "num_leaves": 200, "min_data_in_leaf": 1, "verbose": -1}
    bagging = {"boosting": boosting, "bagging_freq": 1, "bagging_fraction": 0.5}
    booster = lightgbm.train(options | bagging, lightgbm.Dataset(values, label=rose), 5)
    assert lightgbm_model(booster.model_to_string().encode(), 4).count("Tree=") == 5


def test_xgboost_lists_of_two_lengths_are_refused(json_file: bytes, inputs: int) -> None:
    """L24: a tree's lists are of one length."""
    document = json.loads(json_file)
    document["learner"]["gradient_booster"]["model"]["trees"][1]["right_children"].pop()
    with pytest.raises(ForestError, match="tree 1: its lists differ in length"):
        xgboost_model(json.dumps(document).encode(), inputs)


@pytest.mark.parametrize(
    ("pattern", "by", "why"),
    [
        (rb"left_child=\S+", b"left_child=9999", "tree 0: a child is not in the tree"),
        (rb"left_child=\S+", b"left_child=0", "tree 0: a child is not in the tree"),
        (rb"left_child=\S+", b"left_child=-9999", "tree 0: a child is not in the tree"),
        (rb"right_child=(\S+) \S+", rb"right_child=\1 \1", "tree 0: a node is the child of two"),
        (rb"left_child=\S+ ", b"left_child=", "tree 0: its lists differ in length"),
        (rb"left_child=\S+", b"left_child=" + b"9" * 30, "too large"),
        (rb"left_child=\S+", b"left_child=x", "invalid literal"),
        (rb"split_feature=\S+", b"split_feature=9999", "on an input that does not exist"),
        (rb"threshold=\S+", b"threshold=nan", "a value is not a finite number"),
        (rb"threshold=\S+", b"threshold=1e300", "tree 0: a value is not a float32 number"),
        (rb"leaf_value=\S+", b"leaf_value=inf", "a value is not a finite number"),
        (rb"leaf_value=\S+ ", b"leaf_value=", "tree 0: its lists differ in length"),
        (rb"leaf_value=", b"other=", "leaf_value is missing"),
        (rb"decision_type=\S+", b"decision_type=1", "categories and zeros as missing"),
        (rb"num_cat=0", b"num_cat=1", "categories and linear leaves are not served"),
        (rb"is_linear=0", b"is_linear=1", "categories and linear leaves are not served"),
        (rb"num_leaves=\d+", b"num_leaves=-1", "tree 0: its lists differ in length"),
        (rb"objective=binary", b"objective=multiclass", "objective is multiclass sigmoid:1, not"),
        (rb"\nmax_feature_idx=\d+", b"\nmax_feature_idx=3", "it reads 4 inputs"),
        (rb"tree_sizes=\S+ ", b"tree_sizes=", "it does not hold as many trees as it says"),
        (rb"\nend of trees[\s\S]*", b"", "it does not hold a whole LightGBM model"),
        (rb"^[\s\S]*", b"", "it does not hold a whole LightGBM model"),
        (rb"version", b"v\xffrsion", "can't decode"),
    ],
)
def test_damaged_lightgbm_models_are_refused(
    text_file: bytes, inputs: int, pattern: bytes, by: bytes, why: str
) -> None:
    """L24: what would end the process in LightGBM's own reader is said in a sentence."""
    changed = re.sub(pattern, by, text_file, count=1)
    assert changed != text_file
    with pytest.raises(ForestError, match=why):
        lightgbm_model(changed, inputs)


def test_a_forest_of_other_inputs_is_refused(
    json_file: bytes, text_file: bytes, inputs: int
) -> None:
    """L12: as many inputs as the manifest names, no more and no less."""
    for read, file in ((xgboost_model, json_file), (lightgbm_model, text_file)):
        with pytest.raises(ForestError, match=f"it reads {inputs} inputs, the manifest names 9"):
            read(file, 9)


def test_what_was_written_reads_the_same(json_file: bytes, text_file: bytes, inputs: int) -> None:
    """A checked forest is a file of its own kind: checked again, it stays as it is."""
    once = xgboost_model(json_file, inputs)
    assert xgboost_model(once, inputs) == once
    written = lightgbm_model(text_file, inputs)
    assert lightgbm_model(written.encode(), inputs) == written


def test_a_tree_of_one_leaf_is_read(text_file: bytes, inputs: int) -> None:
    """A tree that splits nothing is a constant, and stays one."""
    leaf = "num_leaves=1\nnum_cat=0\nleaf_value=0.25\nis_linear=0\nshrinkage=1\n"
    head = re.sub(rb"tree_sizes=.*", b"tree_sizes=1", text_file.partition(b"\nTree=")[0])
    file = head + f"\nTree=0\n{leaf}\n\nend of trees\n".encode()
    assert "num_leaves=1\nnum_cat=0\nleaf_value=0.25\n" in lightgbm_model(file, inputs)
