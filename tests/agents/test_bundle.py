"""Bundles: every way of breaking one is refused in one sentence, and writing is all or nothing."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantum_ai_engine.agents.bundle import (
    Bundle,
    BundleError,
    bundle_paths,
    read_bundle,
    write_bundle,
)
from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.agents.manifest import Manifest
from quantum_ai_engine.events import INTERVAL_MS

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def whole(bundles: Path, tmp_path: Path) -> Path:
    """A copy of the `gru` bundle, free to be broken."""
    return Path(shutil.copytree(bundles / "gru", tmp_path / "gru"))


def edit(path: Path, change: Edit) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def refusal(path: Path) -> str:
    """The one sentence with which a bundle is refused; it names the bundle."""
    with pytest.raises(BundleError) as refused:
        read_bundle(path)
    text = str(refused.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def parts(bundle: Bundle) -> tuple[Manifest, dict[str, bytes]]:
    """What a bundle was written from."""
    files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    return bundle.manifest, files


def test_a_whole_bundle_is_read(whole: Path) -> None:
    """L25: weights, normaliser, calibration and golden pair come as one object."""
    bundle = read_bundle(whole)
    assert bundle.manifest.name == "gru"
    assert bundle.feature_set.name == bundle.manifest.feature_set
    assert bundle.digest == hashlib.sha256((whole / "manifest.json").read_bytes()).hexdigest()[:12]
    with pytest.raises(AttributeError):
        bundle.manifest.window = 1  # type: ignore[misc]


@pytest.mark.parametrize("size", [0, 164, 20_000])
def test_a_short_payload_is_refused(whole: Path, size: int) -> None:
    """L24: a payload of 0 bytes, of 164 bytes or cut in the middle does not load."""
    payload = whole / "model.pt"
    payload.write_bytes(payload.read_bytes()[:size])
    assert f"model.pt ({size} bytes) does not have the SHA-256" in refusal(whole)


def test_one_flipped_bit_is_refused(whole: Path) -> None:
    """L24: one bit of the payload is enough."""
    data = bytearray((whole / "model.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (whole / "model.pt").write_bytes(data)
    assert "does not have the SHA-256 of the manifest" in refusal(whole)


def test_the_payload_of_the_other_kind_is_refused(whole: Path, bundles: Path) -> None:
    """L23: a payload that belongs to another bundle does not load."""
    shutil.copy(bundles / "patchtst" / "model.pt", whole / "model.pt")
    assert "does not have the SHA-256 of the manifest" in refusal(whole)


def test_the_files_are_those_of_the_manifest(whole: Path) -> None:
    """L23: neither a file more nor a file less than the manifest lists."""
    (whole / "scaler.pkl").write_bytes(b"of another model")
    assert "scaler.pkl is not in the manifest; remove it" in refusal(whole)
    (whole / "scaler.pkl").unlink()
    (whole / "model.pt").rename(whole.parent / "model.pt")
    assert "the manifest lists model.pt, which is missing" in refusal(whole)
    (whole / "model.pt").mkdir()
    assert "cannot read model.pt: Is a directory" in refusal(whole)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_manifest_that_is_no_manifest_is_refused(whole: Path, text: bytes) -> None:
    """L24: an empty, torn or foreign manifest does not load."""
    (whole / "manifest.json").write_bytes(text)
    assert "manifest.json" in refusal(whole)


def test_a_missing_manifest_is_refused(whole: Path) -> None:
    """L23: a directory without a manifest is no bundle."""
    (whole / "manifest.json").unlink()
    assert "cannot read manifest.json: No such file or directory" in refusal(whole)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(extra=1), "unknown field `extra`"),
        (lambda m: m["calibration"].update(bias=0.0), "unknown field `bias`"),
        (lambda m: m.pop("calibration"), "required field `calibration`"),
        (lambda m: m["spans"].pop("embargo_bars"), "required field `embargo_bars`"),
        (lambda m: m.update(name="../gru"), "$.name"),
        (lambda m: m.update(horizon_bars=0), "$.horizon_bars"),
        (lambda m: m.update(output="probability"), "$.output"),
        (lambda m: m.update(base_rate=1.5), "$.base_rate"),
        (
            lambda m: m.update(bundle_schema=2),
            "bundle schema 2 is not the 3 that this engine reads; train it again",
        ),
        (lambda m: m.update(interval="7m"), "unknown interval '7m'"),
        (lambda m: m["calibration"].update(up=None), "$.calibration.up"),
        (lambda m: m["calibration"].update(up=1e300), "$.calibration.up"),
        (lambda m: m.update(name="gru\n"), "$.name"),
        (lambda m: m.update(horizon_bars=10**9), "$.horizon_bars"),
        (lambda m: m["normaliser"]["mean"].__setitem__(0, 1e300), "a statistic or golden value"),
        (lambda m: m["golden"].update(probabilities=[1.5, 0.5]), "$.golden.probabilities"),
        (lambda m: m["golden"].update(windows=[]), "the golden input has shape (0,)"),
        (lambda m: m["golden"]["windows"].pop(), "the golden input has shape (1, 32, 9)"),
        (lambda m: m["golden"]["windows"][0].pop(), "the golden windows differ in shape"),
    ],
)
def test_an_edited_manifest_is_refused(whole: Path, change: Edit, says: str) -> None:
    """L20: a field too many, too few or out of its range is refused by its name."""
    edit(whole, change)
    assert says in refusal(whole)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.update(schema_hash="0" * 16), "schema hash 0000000000000000 of the bundle"),
        (
            lambda m: m["columns"].insert(1, m["columns"].pop(2)),
            "column 1 is sma_10, the bundle has sma_30",
        ),
        (
            lambda m: m["columns"].pop(),
            "has 9 columns, the bundle 8: the first that differs is open_close",
        ),
        (
            lambda m: m["columns"].append("rsi_28"),
            "has 9 columns, the bundle 10: the first that differs is rsi_28",
        ),
        (lambda m: m.update(feature_set="gru10"), "no feature set 'gru10'; there are gru9"),
        (lambda m: m.update(window=31), "window 31 is not the 32 rows of gru9"),
    ],
)
def test_another_schema_is_refused(whole: Path, change: Edit, says: str) -> None:
    """L12: other columns, another order or another hash; the first that differs is named."""
    edit(whole, change)
    assert says in refusal(whole)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda n: n["mean"].pop(), "8 means but 9 scales"),
        (lambda n: (n["mean"].pop(), n["scale"].pop()), "the normaliser has 8 columns, gru9 has 9"),
        (lambda n: n.update(mean=[], scale=[]), "the normaliser has 0 columns, gru9 has 9"),
        (lambda n: n["scale"].__setitem__(3, 0.0), "a scale or the clamp is not positive"),
        (lambda n: n.update(clamp=-8.0), "a scale or the clamp is not positive"),
        (lambda n: n["mean"].__setitem__(0, None), "$.normaliser.mean"),
    ],
)
def test_a_bad_normaliser_is_refused(whole: Path, change: Edit, says: str) -> None:
    """L23: a normaliser that is not that of the columns does not load."""
    edit(whole, lambda manifest: change(manifest["normaliser"]))
    assert says in refusal(whole)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["columns"].update(rsi_28=r["columns"]["rsi_14"]), "the reference has rsi_28"),
        (lambda r: r.update(columns={}), "the reference has no column"),
        (lambda r: r["columns"]["rsi_14"]["edges"].reverse(), "edges are not finite numbers that"),
        (lambda r: r["columns"]["rsi_14"]["edges"].pop(), "8 edges but 10 counts"),
        (lambda r: r["columns"]["rsi_14"]["counts"].__setitem__(0, 0), "counts[0]"),
        (lambda r: r["columns"]["rsi_14"].update(threshold=0.0), "the threshold is not a finite"),
        (lambda r: r.update(rows=0), "$.reference.rows"),
    ],
)
def test_a_bad_reference_is_refused(whole: Path, change: Edit, says: str) -> None:
    """L23: histograms of other columns, or that are none, do not load."""
    edit(whole, lambda manifest: change(manifest["reference"]))
    assert says in refusal(whole)


def test_a_bundle_may_have_no_reference(whole: Path) -> None:
    """A train span too short to say how far healthy rows stray is compared with nothing."""
    edit(whole, lambda manifest: manifest.update(reference=None))
    assert load_agent(read_bundle(whole)).past.reference is None


def test_spans_are_apart_in_time(bundles: Path) -> None:
    """L27: train, validation and test follow each other, horizon + window bars apart at least."""
    for path in bundle_paths(bundles):
        manifest = read_bundle(path).manifest
        spans = manifest.spans
        assert spans.embargo_bars == manifest.horizon_bars + manifest.window
        embargo_ms = spans.embargo_bars * INTERVAL_MS[manifest.interval]
        assert spans.train.to_ms + embargo_ms <= spans.validation.from_ms
        assert spans.validation.to_ms + embargo_ms <= spans.test.from_ms
        assert len(spans.data_sha256) == 64


def test_the_normaliser_is_that_of_the_train_span(bundles: Path) -> None:
    """L16: each bundle holds its own frozen statistics, and states how far its training went."""
    gru, patchtst = (read_bundle(path).manifest for path in bundle_paths(bundles))
    assert len(gru.normaliser.mean) == len(gru.columns)
    assert gru.normaliser != patchtst.normaliser
    assert gru.spans.train.to_ms < gru.spans.test.to_ms


def test_age_is_not_a_files_time(whole: Path) -> None:
    """L23: touching the files changes nothing; what a bundle is follows from its content alone."""
    before = read_bundle(whole)
    for file in whole.iterdir():
        os.utime(file, (0, 0))
    assert read_bundle(whole) == before


def test_what_is_loaded_stays_whole(whole: Path, bundles: Path) -> None:
    """L25: files exchanged under a loaded agent do not reach it, not even in part."""
    agent = load_agent(read_bundle(whole))
    windows, _ = read_bundle(whole).golden()
    before = agent.predict(windows).tobytes()
    shutil.rmtree(whole)
    shutil.copytree(bundles / "patchtst", whole)
    assert agent.predict(windows).tobytes() == before


def test_writing_what_was_read_gives_the_same_digest(whole: Path, tmp_path: Path) -> None:
    """A bundle's digest follows from its content, wherever and however often it is written."""
    bundle = read_bundle(whole)
    first, second = (write_bundle(tmp_path / to, *parts(bundle)) for to in ("a", "b"))
    assert first.digest == second.digest == bundle.digest
    assert first.manifest == bundle.manifest
    assert {p.name for p in first.path.iterdir()} == {"manifest.json", "model.pt"}


def test_a_bundle_is_on_the_disk_before_and_after_it_has_its_name(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L24: files, then their directory, then the rename: a power cut leaves no torn bundle."""
    synced: list[str] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    write_bundle(tmp_path / "to", *parts(read_bundle(whole)))
    *files, inside, outside = synced
    assert sorted(files) == ["manifest.json", "model.pt"]
    assert inside.startswith(".gru-")
    assert outside == "to"


def test_an_existing_target_is_refused(whole: Path) -> None:
    """Writing never replaces a bundle, nor touches it."""
    bundle = read_bundle(whole)
    with pytest.raises(BundleError, match=r"gru exists; remove it or choose another --name"):
        write_bundle(whole.parent, bundle.manifest, {"model.pt": b"new"})
    assert read_bundle(whole) == bundle


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"no/such/folder.pt": b"x"}, FileNotFoundError),
        ({"model.pt": b"x", "manifest.json": b""}, BundleError),
    ],
)
def test_a_failed_write_leaves_nothing(
    whole: Path, tmp_path: Path, files: dict[str, bytes], error: type[Exception]
) -> None:
    """L23: when writing fails half-way, or what is written would be refused, nothing is there."""
    manifest = read_bundle(whole).manifest
    with pytest.raises(error):
        write_bundle(tmp_path / "new", manifest, files)
    assert list((tmp_path / "new").iterdir()) == []


def test_bundles_are_found_by_name(bundles: Path, tmp_path: Path) -> None:
    """A bundle being written is hidden; a directory may itself be one bundle."""
    everything = Path(shutil.copytree(bundles, tmp_path / "bundles"))
    (everything / ".gru-being-written").mkdir()
    (everything / "notes.txt").write_text("no bundle")
    assert [p.name for p in bundle_paths(everything)] == ["gru", "patchtst"]
    assert bundle_paths(everything / "gru") == [everything / "gru"]


def test_a_directory_without_bundles_is_refused(tmp_path: Path) -> None:
    """L03: no bundle is a failure that says what to do, not an engine without agents."""
    with pytest.raises(BundleError, match=r"no bundle in .*make one with `qae train`"):
        bundle_paths(tmp_path)
    with pytest.raises(BundleError, match=r"there is no bundle directory .*nowhere; make one"):
        bundle_paths(tmp_path / "nowhere")
