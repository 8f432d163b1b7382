"""Tests of the names in Redis."""

from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.config import RedisSettings
from quantum_ai_engine.daemon.keys import Keys, partition_of

NAMES = ("bars", "state", "signals", "dead", "heartbeat")


def test_one_partition_has_plain_names() -> None:
    """So that a person can XADD without knowing of partitions."""
    keys = Keys.of(RedisSettings())
    assert [getattr(keys, name) for name in NAMES] == [f"quantum:{name}" for name in NAMES]


def test_partitions_share_no_key_but_all_channels() -> None:
    """Subscribers need not know how many partitions there are."""
    first, second = (Keys("q", 2, partition) for partition in (0, 1))
    assert not {getattr(first, n) for n in NAMES} & {getattr(second, n) for n in NAMES}
    assert first.bars_channel == second.bars_channel == "q:bars"
    assert first.heartbeat_channel == second.heartbeat_channel == "q:heartbeat"
    assert first.signal_channel("A") == second.signal_channel("A") == "q:signals:A"
    assert first.signal_channels == "q:signals:*"


def test_keys_of_a_partition_lie_in_one_cluster_slot() -> None:
    """The commit's script needs state, signals and dead letters on one node."""
    keys = Keys("q", 4, 3)
    assert {getattr(keys, name).partition("{")[2].partition("}")[0] for name in NAMES} == {"3"}


def test_settings_name_the_partition() -> None:
    settings = RedisSettings(prefix="p", partitions=4, partition=2)
    assert Keys.of(settings) == Keys("p", 4, 0).at(2)
    assert Keys.of(settings).feed("paper") == "p:{2}:feed:paper"


def test_settings_name_several_partitions() -> None:
    settings = RedisSettings(prefix="p", partitions=8, partition="2-4")
    assert Keys.served(settings) == tuple(Keys("p", 8, partition) for partition in (2, 3, 4))
    assert Keys.of(settings) == Keys("p", 8, 2)
    assert Keys.served(RedisSettings()) == (Keys("quantum"),)


@given(symbol=st.text(), partitions=st.integers(1, 64))
def test_each_symbol_has_one_home(symbol: str, partitions: int) -> None:
    """The same for every process and at every time."""
    home = partition_of(symbol, partitions)
    assert 0 <= home < partitions
    assert home == partition_of(symbol, partitions)


def test_the_home_does_not_depend_on_the_process() -> None:
    """Python's own hash of a text differs from process to process; CRC-32 does not."""
    assert partition_of("BTCUSDT", 1000) == 187
