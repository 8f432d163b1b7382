"""The normaliser: pure, frozen, applied once, clamped and counted."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from quantum_ai_engine.agents.normaliser import Normaliser, Standardiser, _one_pass

MEAN, SCALE, CLAMP = (0.5, -2.0, 100.0), (0.25, 4.0, 10.0), 3.0
values = st.floats(-1e6, 1e6)
any_windows = arrays.arrays(np.float64, (2, 4, 3), elements=values)


@pytest.fixture(scope="module")
def normaliser() -> Normaliser:
    return Normaliser(MEAN, SCALE, CLAMP)


def test_columns_are_standardised_each_by_its_own(normaliser: Normaliser) -> None:
    """The mean becomes 0 and a spread above it 1, column by column, as float32."""
    rows = np.array([[MEAN, np.add(MEAN, SCALE), np.subtract(MEAN, SCALE)]])
    z, clamped = normaliser.apply(rows)
    assert z.tolist() == [[[0.0] * 3, [1.0] * 3, [-1.0] * 3]]
    assert (z.dtype, clamped) == (np.dtype(np.float32), 0)


@given(any_windows)
def test_every_value_is_within_the_clamp_and_counted(windows: np.ndarray) -> None:
    """L19: a value beyond ±k is clamped to it and counted; every other value is untouched."""
    z, clamped = Normaliser(MEAN, SCALE, CLAMP).apply(windows)
    exact = (windows - np.array(MEAN)) / np.array(SCALE)
    beyond = np.abs(exact) > CLAMP
    assert np.abs(z).max() <= CLAMP
    assert clamped == beyond.sum()
    np.testing.assert_array_equal(z[~beyond], exact[~beyond].astype(np.float32))
    np.testing.assert_array_equal(z[beyond], np.copysign(np.float32(CLAMP), exact[beyond]))


def test_a_value_on_the_clamp_is_not_counted(normaliser: Normaliser) -> None:
    """L19: exactly ±k is inside."""
    edge = np.array([[np.add(MEAN, np.multiply(SCALE, 3.0)), np.subtract(MEAN, SCALE)]])
    assert normaliser.apply(edge)[1] == 0
    assert normaliser.apply(edge + 1e-6)[1] == 3


@given(any_windows)
def test_normalising_is_pure(windows: np.ndarray) -> None:
    """L17: windows are only read, and nothing is learnt: the same input gives the same bits."""
    frozen, before = Normaliser(MEAN, SCALE, CLAMP), windows.tobytes()
    first, _ = frozen.apply(windows)
    frozen.apply(windows * 1e3 + 7.0)
    again, _ = frozen.apply(windows)
    assert first.tobytes() == again.tobytes()
    assert windows.tobytes() == before
    assert frozen == Normaliser(MEAN, SCALE, CLAMP)


@given(arrays.arrays(np.float64, (9, 3), elements=values))
def test_a_row_is_the_same_in_every_window(rows: np.ndarray) -> None:
    """L17: overlapping windows do not normalise a row again: it has the same bits in each."""
    windows = np.stack([rows[start : start + 4] for start in range(6)])
    z, _ = Normaliser(MEAN, SCALE, CLAMP).apply(windows)
    for start in range(5):
        assert z[start, 1:].tobytes() == z[start + 1, :-1].tobytes()


def test_statistics_are_frozen(normaliser: Normaliser) -> None:
    """L17: nobody can change the statistics of the train span."""
    with pytest.raises(AttributeError):
        normaliser.clamp = 5.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        normaliser.mean[0] = 1.0  # type: ignore[index]


def test_what_is_no_number_stays_none(normaliser: Normaliser) -> None:
    """L02: NaN goes through as NaN, for the agent to abstain; it never becomes a number."""
    z, clamped = normaliser.apply(np.array([[[np.nan, -2.0, 100.0]]]))
    assert np.isnan(z[0, 0, 0])
    assert z[0, 0, 1:].tolist() == [0.0, 0.0]
    assert clamped == 0


@pytest.mark.parametrize(
    ("mean", "scale", "clamp"),
    [
        ((0.0,), (1.0, 1.0), 3.0),
        ((0.0, 0.0), (1.0,), 3.0),
        ((0.0,), (0.0,), 3.0),
        ((0.0,), (-1.0,), 3.0),
        ((0.0,), (1.0,), 0.0),
        ((0.0,), (1.0,), -3.0),
        ((np.nan,), (1.0,), 3.0),
        ((0.0,), (np.inf,), 3.0),
        ((0.0,), (1.0,), np.nan),
        ((0.0,), (1.0,), np.inf),
    ],
)
def test_unusable_statistics_are_refused(
    mean: tuple[float, ...], scale: tuple[float, ...], clamp: float
) -> None:
    """L19: lengths that differ, spreads of 0 and what is not finite are refused."""
    with pytest.raises(ValueError, match=r"\w"):
        Normaliser(mean, scale, clamp)


def test_windows_of_other_columns_are_refused(normaliser: Normaliser) -> None:
    """L12: one column is not spread over many, nor many statistics over one column."""
    with pytest.raises(ValueError, match=r"\w"):
        normaliser.apply(np.zeros((2, 4, 2)))
    with pytest.raises(ValueError, match=r"\w"):
        normaliser.apply(np.zeros((2, 4, 1)))
    with pytest.raises(ValueError, match=r"\w"):
        Normaliser((0.0,), (1.0,), 3.0).apply(np.zeros((2, 4, 3)))


@given(any_windows)
def test_writing_into_an_array_is_the_same(windows: np.ndarray) -> None:
    """L17: the one pass of serving gives the bits of `apply`, and touches nothing beside."""
    normaliser = Normaliser(MEAN, SCALE, CLAMP)
    expected, clamped = normaliser.apply(windows)
    buffer = np.full((5, *windows.shape[1:]), 7.0, dtype=np.float32)
    assert Standardiser(normaliser).into(windows, buffer[:2]) == clamped
    assert buffer[:2].tobytes() == expected.tobytes()
    assert (buffer[2:] == 7.0).all()


@given(arrays.arrays(np.float64, (6, 3), elements=st.floats(allow_nan=True)))
def test_the_compiled_pass_is_its_source(rows: np.ndarray) -> None:
    """L11: compiled or run by Python, the pass gives the same bits and the same count."""
    mean, scale = np.array(MEAN), np.array(SCALE)
    expected = np.empty((6, 3), dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        counted = _one_pass(rows, mean, scale, CLAMP, expected)
    normal, clamped = Normaliser(MEAN, SCALE, CLAMP).apply(rows)
    np.testing.assert_array_equal(normal, expected)
    assert clamped == counted


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1), slice(None, None, 2)])
def test_any_view_of_windows_is_read(normaliser: Normaliser, order: slice) -> None:
    """Turned and thinned windows, and those that may not be written, are read as what they show."""
    windows = np.random.default_rng(0).standard_normal((6, 4, 3))
    windows.setflags(write=False)
    expected, _ = normaliser.apply(windows)
    np.testing.assert_array_equal(normaliser.apply(windows[order])[0], expected[order])


def test_an_array_that_does_not_fit_is_refused(normaliser: Normaliser) -> None:
    """L12: nothing is written beyond an array, nor into a copy of it."""
    standard, windows = Standardiser(normaliser), np.zeros((2, 4, 3))
    with pytest.raises(ValueError, match="do not fit"):
        standard.into(windows, np.zeros((1, 4, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="do not fit"):
        standard.into(windows, np.zeros((4, 4, 3), dtype=np.float32)[::2])


def test_a_manifest_gives_the_normaliser_back(normaliser: Normaliser) -> None:
    """L23: it travels in the manifest bit for bit, and a field too many is refused."""
    text = msgspec.json.encode(normaliser)
    assert msgspec.json.decode(text, type=Normaliser) == normaliser
    with pytest.raises(msgspec.ValidationError, match="extra"):
        msgspec.json.decode(text[:-1] + b',"extra":1}', type=Normaliser)
