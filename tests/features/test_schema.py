"""Feature sets: which columns, in which order, and what a bundle may promise of them."""

import re

import numpy as np
import pytest

from quantum_ai_engine.features import columns, kernel, schema
from quantum_ai_engine.features.columns import EVERYTHING
from quantum_ai_engine.features.schema import SETS, FeatureSet, SchemaError, feature_set

from . import oracle

GRU9 = SETS["gru9"]


@pytest.mark.parametrize(
    ("name", "columns", "window", "ready_at"),
    [
        ("gru9", 9, 32, 30),
        ("patchtst8", 8, 128, 26),
        ("transformer173", 173, 64, 61),
        ("tree173", 173, 6, 61),
        ("sigor10", 10, 1, 61),
        ("momentum2", 2, 1, 31),
    ],
)
def test_the_sets_have_the_contracts_shape(
    name: str, columns: int, window: int, ready_at: int
) -> None:
    """L13: number of columns, window and readiness are the contract's: warm-up + W − 1 bars."""
    s = feature_set(name)
    assert (s.name, len(s.columns), s.window) == (name, columns, window)
    assert s.ready_at == ready_at
    assert s.window_ready_at == ready_at + window - 1


@pytest.mark.parametrize("name", SETS)
def test_indices_lead_to_the_named_columns(name: str) -> None:
    """L13: the offset of a column comes from its name, in the order of the set."""
    s = SETS[name]
    behind = tuple(s.kernel_name(column) for column in s.columns)
    assert tuple(kernel.COLUMNS[i].name for i in s.indices) == behind
    assert [column.name for column in s.kernel_columns()] == list(behind)
    assert s.indices.dtype == np.int64


def test_the_names_are_the_contracts() -> None:
    """L12: names and order of the three sets, as the oracle has them from the contract."""
    assert SETS["transformer173"].columns == tuple(oracle.TRANSFORMER)
    for name, table in (("gru9", oracle.GRU), ("patchtst8", oracle.PATCHTST)):
        assert tuple(f"{name}.{column}" for column in SETS[name].columns) == tuple(table)


def test_trees_read_the_columns_of_the_transformer() -> None:
    """L12: they differ in the rows that are read at once, so that both read one ring of rows."""
    assert SETS["tree173"].hash == SETS["transformer173"].hash


@pytest.mark.parametrize("name", ["sigor10", "momentum2"])
def test_rules_read_no_prices(name: str) -> None:
    """Their columns are among the 173: fractions, ratios and scores, the same at any price."""
    assert set(SETS[name].columns) < set(SETS["transformer173"].columns)


def test_a_further_set_is_a_list() -> None:
    """A set selects by name from the kernel's columns, in its own order and under its own names."""
    mine = FeatureSet("mine", ("calm", "rsi_14", "clv"), 4, aliases={"calm": "rv_60"})
    assert [kernel.COLUMNS[i].name for i in mine.indices] == ["rv_60", "rsi_14", "clv"]
    assert (mine.ready_at, mine.window_ready_at) == (61, 64)


def test_a_kept_promise_passes() -> None:
    """L12: the same ordered names and the same hash are accepted."""
    for s in SETS.values():
        s.check(s.columns, s.hash)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (("sma_10", "log_return", *GRU9.columns[2:]), ["column 0", "log_return", "sma_10"]),
        ((*GRU9.columns[:4], "macd", *GRU9.columns[5:]), ["column 4", "rsi_14", "macd"]),
        (GRU9.columns[:-1], ["9", "8", "open_close"]),
        ((*GRU9.columns, "macd"), ["9", "10", "macd"]),
        ((), ["9", "0", "log_return"]),
        (("log_return", *GRU9.columns), ["column 1", "sma_10", "log_return"]),
    ],
    ids=["exchanged", "replaced", "missing", "extra", "empty", "shifted"],
)
def test_other_columns_are_refused_by_the_first_that_differs(
    columns: tuple[str, ...], named: list[str]
) -> None:
    """L12: nothing is filled or cut; the refusal names the set and the first column that differs.

    It is refused even with the right hash.
    """
    with pytest.raises(SchemaError) as refused:
        GRU9.check(columns, GRU9.hash)
    message = str(refused.value)
    assert "gru9" in message
    assert all(re.search(rf"\b{word}\b", message) for word in named), message


def test_another_hash_is_refused() -> None:
    """L12: the right names under another hash are another kernel's, to be trained again."""
    with pytest.raises(SchemaError, match=r"gru9.*0123456789abcdef.*train it again"):
        GRU9.check(GRU9.columns, "0123456789abcdef")


def test_the_hash_depends_on_the_order() -> None:
    """L12: the same names in another order have another hash; a hash is 16 hex digits."""
    exchanged = FeatureSet("gru9", GRU9.columns[::-1], 32, GRU9.aliases)
    assert exchanged.hash != GRU9.hash
    lists = {(s.columns, tuple(s.aliases)) for s in SETS.values()}
    assert len({s.hash for s in SETS.values()} | {schema.KERNEL_HASH}) == len(lists) + 1
    assert all(re.fullmatch(r"[0-9a-f]{16}", s.hash) for s in SETS.values())


def test_the_hash_is_of_what_stands_behind_a_name() -> None:
    """L12: a name that means another column of the kernel has another hash."""
    ours = FeatureSet("mine", ("rsi",), 4, aliases={"rsi": "rsi_14"})
    theirs = FeatureSet("mine", ("rsi",), 4, aliases={"rsi": "rsi_21"})
    assert ours.hash != theirs.hash


def test_the_hash_depends_on_the_kernel_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """L12: a bundle of another kernel version is refused although its names are the same."""
    old = GRU9.hash
    monkeypatch.setattr(schema, "KERNEL_VERSION", kernel.KERNEL_VERSION + 1)
    assert GRU9.hash != old
    with pytest.raises(SchemaError, match="another kernel version"):
        GRU9.check(GRU9.columns, old)


def test_the_hash_is_that_of_the_names_alone() -> None:
    """Name and window of a set are no part of the schema: the columns are."""
    assert FeatureSet("other", GRU9.columns, 5, GRU9.aliases).hash == GRU9.hash


def test_an_unknown_column_is_refused_at_birth() -> None:
    """L12: a set can only select what the kernel computes."""
    with pytest.raises(SchemaError, match="feature set mine: the kernel has no column rsi_15"):
        FeatureSet("mine", ("ret_1", "rsi_15"), 4)


def test_an_unknown_set_is_refused_naming_those_that_exist() -> None:
    """The sentence names what was asked for and what there is."""
    with pytest.raises(SchemaError) as refused:
        feature_set("gru10")
    assert all(name in str(refused.value) for name in ("gru10", *SETS))


def test_a_set_asks_for_the_stages_of_its_columns() -> None:
    """What a set asks of the kernel makes its columns; a small set asks for less than a large."""
    for s in SETS.values():
        assert all(column.stage and s.asked & column.stage for column in s.kernel_columns())
        assert s.asked & ~EVERYTHING == 0
    assert SETS["gru9"].asked & columns.MEMORY == 0
    assert SETS["transformer173"].asked == EVERYTHING
