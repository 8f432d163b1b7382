"""Checks of a bundle: each finds what it is there for, and says its numbers."""

import json
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quantum_ai_engine.agents import load
from quantum_ai_engine.agents.bundle import Bundle, read_bundle
from quantum_ai_engine.agents.bundled import BundledAgent
from quantum_ai_engine.config import Venue
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training import verify as verify_module
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.matrix import FeatureMatrix
from quantum_ai_engine.training.options import TrainingError, TrainOptions
from quantum_ai_engine.training.payload import summarise
from quantum_ai_engine.training.verify import Check, drawn, recent, verify

from ..agents.fuzzer import rewritten, vouch
from .conftest import make_walk

ALL = (
    *("files", "schema", "reference", "libraries", "payload", "golden pair", "finite"),
    "not constant",
    *("batch invariance", "latency, batch 1", "latency, batch 64", "eager = scripted"),
)


@pytest.fixture
def path(bundles: Path, tmp_path: Path) -> Path:
    """A copy of the `gru`, free to be changed."""
    return Path(shutil.copytree(bundles / "gru", tmp_path / "gru"))


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    edit(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def calibrated(path: Path, slope: float, intercept: float) -> None:
    """Another calibration, and a golden pair that agrees with it."""
    change(path, lambda m: m["calibration"].update(up=slope, down=slope, intercept=intercept))
    bundle = read_bundle(path)
    answers = load.load_agent(bundle).predict(bundle.golden()[0])
    change(path, lambda m: m["golden"].update(probabilities=answers.tolist()))


def checks(path: Path, table: BarTable | None = None) -> dict[str, Check]:
    return {check.name: check for check in verify(path, table, {})}


@pytest.mark.parametrize("kind", ["gru", "patchtst"])
@pytest.mark.parametrize("real", [True, False])
def test_a_whole_bundle_passes(bundles: Path, history: BarTable, kind: str, real: bool) -> None:
    """L24: every check is made, and none fails, on recorded bars and on drawn windows."""
    made = checks(bundles / kind, history if real else None)
    assert tuple(made) == ALL
    assert {check.state for check in made.values()} == {"ok", "measured"}
    wanted = "the newest 510 windows of the data" if real else "drawn from the train statistics"
    assert wanted in made["finite"].says


def test_a_broken_bundle_is_one_failure(path: Path) -> None:
    """L24: what cannot follow a failure is left out; the failure is the refusal's sentence."""
    (path / "model.pt").write_bytes(b"")
    (only,) = verify(path, None, {})
    assert only.state == "failed"
    assert only.says.startswith(f"bundle {path}: model.pt (0 bytes) does not have")


def test_a_wrong_golden_pair_fails(path: Path) -> None:
    """L20: the model's own answers decide."""
    change(path, lambda m: m["golden"].update(probabilities=[1.0, 0.0]))
    assert "the golden input gives probabilities off by" in checks(path)["bundle"].says


@pytest.mark.parametrize("slope", [0.0, 1e-4])
def test_a_constant_fails_on_real_bars(path: Path, history: BarTable, slope: float) -> None:
    """L01: an agent that says the same of every bar is no agent, though all else is right."""
    calibrated(path, slope, 0.7)
    made = checks(path, history)
    assert made["golden pair"].state == "ok"
    assert made["not constant"].state == "failed"
    assert "probabilities from 0.66" in made["not constant"].says


def test_neutral_fails_on_real_bars(path: Path, history: BarTable) -> None:
    """L02: 0.5 for everything is no neutral opinion, and its share is said."""
    calibrated(path, 1e-4, 0.0)
    made = checks(path, history)["not constant"]
    assert made.state == "failed"
    assert "1.000 within 0.001 of 0.5" in made.says


def test_drawn_windows_fail_only_a_constant(path: Path) -> None:
    """L01: what is drawn shows less than bars do: hardly a spread is a warning that says so."""
    calibrated(path, 1e-4, 0.7)
    made = checks(path)["not constant"]
    assert made.state == "warning"
    assert "give --data to judge it on real bars" in made.says
    calibrated(path, 0.0, 0.7)
    assert checks(path)["not constant"].state == "failed"


def test_other_versions_are_named(path: Path) -> None:
    """L23: a library that changed since is named; the golden pair decides whether it matters."""
    change(path, lambda m: m["libraries"].update(numpy="1.0", elsewhere="3", python="2.7"))
    made = checks(path)
    assert made["libraries"].state == "warning"
    assert f"numpy was 1.0 in training, here {np.__version__}" in made["libraries"].says
    assert "elsewhere was 3 in training, here not installed" in made["libraries"].says
    assert "python was 2.7 in training, here 3." in made["libraries"].says
    assert made["golden pair"].state == "ok"


def test_a_missing_library_is_a_failure(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L03: a bundle that can answer nothing here is broken, with the sentence that says why."""
    monkeypatch.setitem(load.LOADERS, "gru", "no_such_library.agents:load")
    made = checks(path)
    assert list(made)[-1] == "bundle"
    assert made["bundle"].state == "failed"
    assert "no_such_library is not installed: install no_such_library" in made["bundle"].says


class Moody(BundledAgent):
    """Answers by the size of the batch: a stand-in for a loader of somebody else."""

    def logits(self, windows: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
        few = len(windows) <= len(self.source.manifest.golden.probabilities)
        return windows[:, -1, 0] * 0.0 + (0.0 if few else len(windows) * 1e-9), 0


def test_an_answer_that_follows_the_batch_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L22: a bar's probability must not depend, by one bit, on the bars beside it."""
    change(path, lambda m: m["golden"].update(probabilities=[0.5, 0.5]))
    change(path, lambda m: m["calibration"].update(up=1.0, down=1.0, intercept=0.0))
    monkeypatch.setitem(load.LOADERS, "gru", f"{__name__}:Moody")
    made = checks(path)
    assert made["batch invariance"].state == "failed"
    assert made["batch invariance"].says.startswith(tuple("123456789"))


class Silent(BundledAgent):
    """Has no answer to what is not in its golden pair."""

    def logits(self, windows: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
        few = len(windows) <= len(self.source.manifest.golden.probabilities)
        return np.full(len(windows), 0.0 if few else np.nan), 0


def test_answers_that_are_no_numbers_fail(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L02: NaN is counted and fails; whether it is constant is then no question."""
    change(path, lambda m: m["golden"].update(probabilities=[0.5, 0.5]))
    change(path, lambda m: m["calibration"].update(up=1.0, down=1.0, intercept=0.0))
    monkeypatch.setitem(load.LOADERS, "gru", f"{__name__}:Silent")
    made = checks(path)
    assert made["finite"].state == "failed"
    assert made["finite"].says.startswith("0 of 256 answers")
    assert made["not constant"].state == "not checked"


def replaced(path: Path, old: bytes, new: bytes) -> None:
    """Another text in the code of the payload, and a golden pair that agrees with it."""
    payload = (path / "model.pt").read_bytes()

    def edit(name: str, data: bytes) -> bytes:
        return data.replace(old, new) if name.endswith("models/gru.py") else data

    edited = rewritten(payload, edit)
    assert edited != rewritten(payload, lambda _, data: data)
    vouch(path, edited)
    slope = read_bundle(path).manifest.calibration.up
    calibrated(path, slope, 0.0)


def test_code_that_is_not_the_models_fails(path: Path) -> None:
    """L22: the payload has the model's weights, but computes otherwise than the model."""
    replaced(path, b"addcmul_(new, reset, hidden)", b"addcmul_(new, update, hidden)")
    made = checks(path)
    assert made["golden pair"].state == "ok"
    assert made["eager = scripted"].state == "failed"


def test_a_library_that_is_missing_is_all_there_is_to_say(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A payload that cannot be opened here is told, and stops nobody who inspects."""
    monkeypatch.setitem(load.LOADERS, "gru", "no_such_library.agents:load")
    summary = summarise(read_bundle(bundles / "gru"))
    assert summary["unopened"].startswith("no_such_library is not installed")


def test_weights_of_another_model_are_not_compared(path: Path) -> None:
    """L22: a payload made elsewhere has nothing here to be compared with; that is said."""
    payload = rewritten(
        (path / "model.pt").read_bytes(),
        lambda _, data: data.replace(b"read_out", b"the_head"),
    )
    vouch(path, payload)
    made = checks(path)["eager = scripted"]
    assert made.state == "not checked"
    assert "the payload is not this version's gru" in made.says


def test_recent_windows_are_the_newest_ready_ones(bundles: Path, history: BarTable) -> None:
    """L14: windows end at the newest bars of each symbol, and are those of the kernel."""
    from quantum_ai_engine.features.sessions import Calendars

    bundle = read_bundle(bundles / "gru")
    windows = recent(bundle, history, {})
    assert windows.values.shape == (510, 32, 9)
    rows, _ = FeatureMatrix(Calendars({})).rows(history)
    last = [np.flatnonzero(history.symbol_index == i)[-32:] for i in range(3)]
    newest = [rows[at][:, bundle.feature_set.indices].tobytes() for at in last]
    given = [window.tobytes() for window in windows.values]
    assert set(newest) <= set(given)


def test_recent_windows_do_not_depend_on_the_parts(
    bundles: Path, history: BarTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L11: the newest rows, kept part by part, are those of all rows at once."""
    bundle = read_bundle(bundles / "gru")
    whole = recent(bundle, history, {})
    monkeypatch.setattr(verify_module, "PART_BARS", 7)
    np.testing.assert_array_equal(recent(bundle, history, {}).values, whole.values)


def test_memory_does_not_grow_with_the_bars(bundles: Path) -> None:
    """A file of four times the bars needs hardly more: only the newest rows are kept."""
    bundle, peaks = read_bundle(bundles / "gru"), []
    for bars in (10_000, 40_000):
        table = make_walk(1, bars)
        tracemalloc.start()
        recent(bundle, table, {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 30_000 < 20


def test_bars_that_cannot_judge_are_a_failure(bundles: Path, history: BarTable) -> None:
    """L12: that --data says nothing of a bundle is a line of its own; all else is checked."""
    made = checks(bundles / "gru", history.rows(0, 60))
    assert (*ALL[:6], "data", *ALL[6:]) == tuple(made)
    assert made["data"].state == "failed"
    assert "0 windows for gru of the 64" in made["data"].says
    assert {c.state for c in made.values() if c.name != "data"} == {"ok", "measured"}


def test_bars_that_cannot_judge_are_refused(bundles: Path, history: BarTable) -> None:
    """L12: too few bars, or bars of another interval, are one sentence."""
    bundle = read_bundle(bundles / "gru")
    with pytest.raises(TrainingError, match=r"0 windows for gru of the 64 that are needed"):
        recent(bundle, history.rows(0, 60), {})
    hourly = BarTable(
        *(history.symbols, history.symbol_index, "1h"), history.open_time, history.ohlcv
    )
    with pytest.raises(TrainingError, match="bars of 1h, but gru reads 1m"):
        recent(bundle, hourly, {})


def test_drawn_windows_are_the_same_each_time(bundles: Path) -> None:
    """They follow from the bundle alone; without a normaliser they lie near the golden ones."""
    bundle = read_bundle(bundles / "gru")
    assert drawn(bundle).values.tobytes() == drawn(bundle).values.tobytes()
    manifest = bundle.manifest
    raw = Bundle(_without_normaliser(manifest), bundle.path, bundle.digest)
    golden, _ = raw.golden()
    near = drawn(raw)
    assert "around the golden ones" in near.origin
    assert np.all(np.ptp(near.values, axis=(0, 1)) > 0.0)
    assert np.abs(near.values.mean(axis=(0, 1)) - golden.mean(axis=(0, 1))).max() < 0.1


def _without_normaliser(manifest: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(manifest, normaliser=None)


def test_a_module_is_summed_up(bundles: Path) -> None:
    """Parameters, layers and buffers are those of the module; the head's bias is a probability."""
    summary = summarise(read_bundle(bundles / "gru"))
    assert summary["parameters"] == 10_497
    assert sum(int(np.prod(layer["shape"])) for layer in summary["layers"]) == 10_497
    assert all(layer["not_finite"] == 0 for layer in summary["layers"])
    assert summary["layers"][-1]["name"] == "read_out.bias"
    assert summary["head"]["bias"] == summary["layers"][-1]["mean"]
    assert 0.0 < summary["head"]["probability"] < 1.0
    buffers = summarise(read_bundle(bundles / "patchtst"))["buffers"]
    assert [(buffer["name"], buffer["shape"]) for buffer in buffers] == [("positions", [8, 128])]


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm", "sigor"])
def test_forests_and_rules_are_summed_up(kind: str, history: BarTable, tmp_path: Path) -> None:
    """Trees, depth and the inputs of most gain; of a rule its numbers."""
    from quantum_ai_engine.training.export import train_bundle
    from quantum_ai_engine.training.options import TrainOptions

    options = TrainOptions(samples_per_epoch=800)
    bundle = train_bundle(kind, history, tmp_path, options, lambda _: None).bundle
    summary = summarise(bundle)
    if kind == "sigor":
        assert {"gain", "most", "detectors"} == set(summary)
        return
    assert summary["trees"] >= 1
    assert 1 <= summary["depth"] <= 4
    gains = [top["gain"] for top in summary["top_inputs"]]
    assert gains == sorted(gains, reverse=True)
    assert {top["name"] for top in summary["top_inputs"]} <= set(bundle.manifest.inputs)
    assert checks(bundle.path)["eager = scripted"].state == "not checked"


def test_sessions_other_than_those_of_the_training_fail(tmp_path: Path) -> None:
    """L11: what `serve` would refuse does not validate."""
    trends = PaperMarket(2, 4, start_ms=1_735_689_600_000).table(3_000)
    trained = train_bundle("xgboost", trends, tmp_path, TrainOptions(), lambda _: None)
    symbol = trained.bundle.manifest.spans.symbols[0]
    moved = {symbol: Venue("Asia/Tokyo", "09:00", "15:00")}
    assert all(check.state != "failed" for check in verify(trained.bundle.path, None, {}))
    last = list(verify(trained.bundle.path, None, moved))[-1]
    assert (last.name, last.state) == ("bundle", "failed")
    assert "sessions.venues has it in Asia/Tokyo" in last.says
