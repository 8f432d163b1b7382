"""Feature sets: ordered selections by name from the kernel's columns, each with a hash."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.features.kernel import COLUMNS, KERNEL_VERSION

_COLUMN_NAMES = tuple(name for name, _ in COLUMNS)


class SchemaError(ValueError):
    """A feature set or column that the kernel does not have, or not as promised."""


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """An ordered list of columns and the number of rows that its agents read at once.

    >>> FeatureSet("two", ("log_return", "sma_10"), window=4).ready_at
    10
    """

    name: str
    columns: tuple[str, ...]
    window: int

    def __post_init__(self) -> None:
        for column in self.columns:
            if column not in _COLUMN_NAMES:
                raise SchemaError(f"feature set {self.name}: the kernel has no column {column}")

    @property
    def indices(self) -> NDArray[np.int64]:
        """Where each column stands in a kernel row."""
        return np.array([_COLUMN_NAMES.index(column) for column in self.columns], dtype=np.int64)

    @property
    def ready_at(self) -> int:
        """The bar, counted from 1, whose row is the first with every column whole."""
        return max(ready_at for name, ready_at in COLUMNS if name in self.columns)

    @property
    def window_ready_at(self) -> int:
        """The bar at which a whole window of ready rows exists."""
        return self.ready_at + self.window - 1

    @property
    def hash(self) -> str:
        """16 hex digits over the kernel version and the ordered names."""
        return schema_hash(self.columns)

    def check(self, columns: tuple[str, ...], expected_hash: str) -> None:
        """Refuse a promise of other columns, naming the first that differs."""
        for position, (here, there) in enumerate(zip(self.columns, columns, strict=False)):
            if here != there:
                raise SchemaError(
                    f"feature set {self.name}: column {position} is {here}, the bundle has {there}"
                )
        if len(self.columns) != len(columns):
            first = max(self.columns, columns, key=len)[min(len(self.columns), len(columns))]
            raise SchemaError(
                f"feature set {self.name} has {len(self.columns)} columns, the bundle "
                f"{len(columns)}: the first that differs is {first}"
            )
        if self.hash != expected_hash:
            raise SchemaError(
                f"feature set {self.name}: schema hash {expected_hash} of the bundle is not "
                f"{self.hash}; it was made with another kernel version, train it again"
            )


def schema_hash(columns: tuple[str, ...]) -> str:
    """16 hex digits of the SHA-256 over the kernel version and the ordered names."""
    text = "\n".join((f"kernel {KERNEL_VERSION}", *columns))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


KERNEL_HASH = schema_hash(_COLUMN_NAMES)

SETS = {
    feature_set.name: feature_set
    for feature_set in (
        FeatureSet(
            "gru9",
            (
                "log_return",
                "sma_10",
                "sma_30",
                "momentum_5",
                "rsi_14",
                "bollinger_20",
                "volume_ratio_20",
                "high_low",
                "open_close",
            ),
            window=32,
        ),
        FeatureSet(
            "patchtst8",
            (
                "log_return",
                "log_high",
                "log_low",
                "log_volume_ratio",
                "volatility_20",
                "rsi_14",
                "macd",
                "momentum_10",
            ),
            window=128,
        ),
    )
}


def feature_set(name: str) -> FeatureSet:
    """The set of that name. Raises `SchemaError` naming those that exist."""
    try:
        return SETS[name]
    except KeyError:
        raise SchemaError(f"no feature set {name!r}; there are {', '.join(SETS)}") from None
