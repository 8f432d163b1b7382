"""The training report: one page that needs nothing else and says what the manifest says."""

import builtins
import re
import resource
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quantum_ai_engine.agents.manifest import HeldOut
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.export import Trained, train_bundle
from quantum_ai_engine.training.options import TrainingError, TrainOptions
from quantum_ai_engine.training.report import plots
from quantum_ai_engine.training.report.report import write_report
from quantum_ai_engine.training.report.uncertainty import verdict

from ...pages import Page


@pytest.fixture(scope="module")
def trained(walk: Callable[..., BarTable], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A real `gru`, trained a little on bars that can be learned."""
    options = TrainOptions(epochs=3, samples_per_epoch=1024, batch=64)
    directory = tmp_path_factory.mktemp("gru")
    return train_bundle("gru", walk(bars=1500), directory, options, lambda _: None)


@pytest.fixture(scope="module")
def path(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its report."""
    return write_report(trained, tmp_path_factory.mktemp("report") / "new")


@pytest.fixture(scope="module")
def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_is_whole(trained: Trained, path: Path, page: Page) -> None:
    """Every tag is closed in order, and both files lie under the agent's name and digest."""
    assert page.open == []
    assert path.name == f"gru-{trained.bundle.digest}.html"
    assert {p.name for p in path.parent.iterdir()} == {path.name, path.with_suffix(".png").name}
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert sum(tag == "img" for tag, _ in page.tags) == 5


def test_the_page_needs_nothing_else(path: Path, page: Page) -> None:
    """No script, no style attribute, no address: pictures are inside, and the policy says so."""
    html = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//\w|url\(|@import", re.sub(r'"data:[^"]*"', "", html))
    assert {"script", "link", "a", "iframe"}.isdisjoint(tag for tag, _ in page.tags)
    for _, attributes in page.tags:
        assert not {name for name in attributes if name == "style" or name.startswith("on")}
        for name in ("src", "srcset"):
            assert (attributes.get(name) or "data:image/png").startswith("data:image/png")
    policies = [a["content"] for _, a in page.tags if "http-equiv" in a]
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'; img-src data:; style-src 'sha256-")


def test_every_score_is_the_manifests(trained: Trained, page: Page) -> None:
    """L08: scores, spans, labels, hash and libraries on the page are those of the bundle."""
    manifest = trained.bundle.manifest
    s, spans = manifest.held_out, manifest.spans
    shown = [
        f"{s.brier:.5f}",
        f"{s.brier_base_rate:.5f}",
        f"{s.paired:+.5f}".replace("-", "−"),
        f"{s.paired_stderr:.5f}",
        f"{s.auc:.4f}",
        f"{s.bias:+.4f}".replace("-", "−"),
        f"{s.calibration_error:.4f}",
        spans.data_sha256,
        manifest.schema_hash,
        trained.bundle.digest,
        f"{spans.embargo_bars} bars",
        f"{manifest.labels.masked:,} windows",
        f"{manifest.labels.rose:,} rose, {manifest.labels.fell:,} fell",
        f"{manifest.calibration.method}: up {manifest.calibration.up:.4f}",
        *(f"{name} {version}" for name, version in manifest.libraries.items()),
        *(f"{span.samples:,}" for span in (spans.train, spans.validation, spans.test)),
        *(f"{b.mean_probability:.4f}" for b in s.reliability),
        *manifest.columns,
        *spans.symbols,
    ]
    assert [text for text in shown if text not in page.text] == []
    assert verdict(s, trained.dataset.effective_labels(trained.dataset.test))[0] in page.words


def test_the_same_input_gives_the_same_bytes(trained: Trained, path: Path, tmp_path: Path) -> None:
    """No date, no version of the plotter, no random name: a report can be compared."""
    again = write_report(trained, tmp_path)
    assert again.read_bytes() == path.read_bytes()
    assert again.with_suffix(".png").read_bytes() == path.with_suffix(".png").read_bytes()


def test_global_settings_of_matplotlib_stay(trained: Trained, tmp_path: Path) -> None:
    """A report leaves the process's plotting settings and its list of open figures alone."""
    import matplotlib as mpl
    from matplotlib._pylab_helpers import Gcf

    before = dict(mpl.rcParams)
    write_report(trained, tmp_path)
    assert dict(mpl.rcParams) == before
    assert Gcf.get_all_fig_managers() == []


def test_what_was_not_fitted_has_no_losses(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules have no epochs: the page says so, and neither file has an empty picture."""
    sheets = []

    def counted(title: str, subtitle: str, charts: Sequence[plots.Chart]) -> bytes:
        sheets.append([chart.title for chart in charts])
        return b""

    monkeypatch.setattr(plots, "sheet", counted)
    made = Page(write_report(replace(trained, losses=()), tmp_path).read_text("utf-8"))
    assert "nothing was fitted by epochs" in made.words
    assert sum(tag == "img" for tag, _ in made.tags) == len(sheets[0]) == 4
    assert "Loss" not in sheets[0]


def test_names_are_escaped(trained: Trained, tmp_path: Path) -> None:
    """A symbol is text, whatever it is made of."""
    manifest = trained.bundle.manifest
    spans = msgspec.structs.replace(manifest.spans, symbols=("<b>&",))
    bundle = msgspec.structs.replace(
        trained.bundle, manifest=msgspec.structs.replace(manifest, spans=spans)
    )
    made = Page(write_report(replace(trained, bundle=bundle), tmp_path).read_text("utf-8"))
    assert "<b>&" in made.text
    assert "b" not in {tag for tag, _ in made.tags}


def test_progress_ends_at_its_end(trained: Trained, tmp_path: Path) -> None:
    """Each column is one step of the work that takes time."""
    seen: list[tuple[int, int]] = []
    write_report(trained, tmp_path, lambda done, steps: seen.append((done, steps)))
    assert seen == [(i, 9) for i in range(10)]


@pytest.mark.parametrize(
    ("paired", "words"),
    [
        (-0.021, "Skill shown"),
        (-0.019, "No skill shown"),
        (0.019, "No skill shown"),
        (0.021, "Worse than the base rate"),
    ],
)
def test_skill_is_two_standard_errors(trained: Trained, paired: float, words: str) -> None:
    """L08: an agent within two standard errors of the base rate has shown no skill."""
    scores: HeldOut = msgspec.structs.replace(
        trained.bundle.manifest.held_out, paired=paired, paired_stderr=0.01
    )
    said, sentence = verdict(scores, 20.0)
    assert said == words
    assert ("below" in sentence) == (paired < 0)
    said, sentence = verdict(scores, 8.4)
    assert said == "Too few independent outcomes to tell: 8"
    assert "about 8 outcomes of the 20 that a verdict needs" in sentence


def test_few_outcomes_are_no_skill_anywhere(trained: Trained, tmp_path: Path) -> None:
    """L08: on a page of few independent outcomes neither the Brier score nor the AUC is praised."""
    dataset = replace(trained.dataset, horizon_bars=50)
    path = write_report(replace(trained, dataset=dataset), tmp_path)
    effective = dataset.effective_labels(dataset.test)
    text = Page(path.read_text("utf-8")).text
    assert f"Too few independent outcomes to tell: {effective:.0f}" in text
    assert "Nor can the AUC of" in text
    assert "Skill shown" not in text
    assert "better than chance" not in text


def test_a_report_that_fails_leaves_the_old_one(trained: Trained, tmp_path: Path) -> None:
    """Files are replaced whole: a disk that is full leaves no half page under the name."""
    path = write_report(trained, tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_report(trained, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert path in before


def test_without_matplotlib_the_extra_is_named(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence says what to install, and nothing is written."""
    real = builtins.__import__

    def without(
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 (the signature of __import__)
        locals: Mapping[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TrainingError, match=r"needs matplotlib: pip install .*\[report\]"):
        write_report(trained, tmp_path / "none")
    assert not (tmp_path / "none").exists()
