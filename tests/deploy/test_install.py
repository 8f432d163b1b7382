"""Tests of the installer, below a directory: real wheels, environments and links.

The wheels hold a small program in the place of the engine, since what is tested here is what
surrounds it; `tests/e2e` installs the engine itself.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

from quantum_ai_engine.daemon.build import build_id

DEPLOY = Path(__file__).parents[2] / "deploy"
PROJECT = DEPLOY.parent
SHARE = "share/quantum-ai-engine"
PROGRAM = """
import sys
REFUSES = {refuses!r}
def main():
    print(" ".join(sys.argv[1:]))
    sys.exit("bad     the reason" if sys.argv[1] == REFUSES else 0)
"""
BUNDLE_DIR = """
def load(path): return type("Loaded", (), {"settings": None})
def bundle_dir(settings): return "/nowhere"
"""
METADATA = (
    "Metadata-Version: 2.1\nName: quantum-ai-engine\nVersion: {version}\nProvides-Extra: none\n"
)


def make_wheel(directory: Path, version: str, refuses: str = "") -> Path:
    """A wheel of our name, whose program refuses one command."""
    about, data = f"quantum_ai_engine-{version}.dist-info", f"quantum_ai_engine-{version}.data/data"
    path = directory / f"quantum_ai_engine-{version}-py3-none-any.whl"
    members = {
        "quantum_ai_engine/__init__.py": "",
        "quantum_ai_engine/__main__.py": PROGRAM.format(refuses=refuses),
        "quantum_ai_engine/config.py": BUNDLE_DIR,
        f"{data}/{SHARE}/engine.toml": "# defaults\n",
        f"{data}/{SHARE}/constraints.txt": "",
        f"{data}/{SHARE}/systemd/quantum-ai-engine.service": f"# unit of {version}\n",
        f"{about}/METADATA": METADATA.format(version=version),
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": "[console_scripts]\n"
        "quantum-ai-engine = quantum_ai_engine.__main__:main\n",
    }
    record = "".join(f"{name},,\n" for name in members) + f"{about}/RECORD,,\n"
    with ZipFile(path, "w") as archive:
        for name, text in {**members, f"{about}/RECORD": record}.items():
            archive.writestr(name, text)
    return path


class Root:
    """A directory that stands for the whole system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.prefix = path / "opt/quantum-ai-engine"
        self.unit = path / "etc/systemd/system/quantum-ai-engine.service"

    def ask(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [DEPLOY / "install.sh", "--root", self.path, *words],
            env=os.environ | {"PYTHON": sys.executable, "PIP_NO_INDEX": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    def install(self, wheel: Path, *options: str) -> subprocess.CompletedProcess[str]:
        return self.ask("install", "--wheel", wheel, "--extras", "none", *options)

    def current(self) -> str:
        """The version that is current, by links, unit and program alike."""
        (version,) = {
            (self.prefix / "current").resolve().name.partition("+")[0],
            self.unit.read_text().split()[-1],
        }
        said = subprocess.run(
            [self.prefix / "bin/quantum-ai-engine", "hello"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout == "hello\n"
        return version


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path / "root")


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of the installer, which lies in no package."""
    monkeypatch.syspath_prepend(str(DEPLOY))
    return importlib.import_module(name)


def test_install_upgrade_rollback_uninstall(root: Root, tmp_path: Path) -> None:
    """Each leaves links, unit and program of one version; settings and state outlive them all.

    A release that does not pass its checks is not switched to, unless it is forced.
    """
    first, second = make_wheel(tmp_path, "1.0"), make_wheel(tmp_path, "2.0")
    done = root.install(first)
    assert done.returncode == 0, done.stderr
    assert root.current() == "1.0"
    settings = root.path / "etc/quantum-ai-engine/engine.toml"
    assert settings.read_text() == "# defaults\n"
    settings.write_text("# edited\n")
    state = root.path / "var/lib/quantum-ai-engine/redis/dump.rdb"
    state.parent.mkdir(parents=True)
    state.write_text("state")

    again = root.install(first)
    assert "is there already" in again.stdout
    stamp = json.loads((root.prefix / "current/release.json").read_text())
    assert (stamp["version"], stamp["extras"]) == ("1.0", "none")
    assert not (root.prefix / "previous").exists()

    assert root.ask("install", "--wheel", second).returncode == 0  # extras as before
    assert root.current() == "2.0"
    assert root.ask("rollback").returncode == 0
    assert root.current() == "1.0"
    assert root.ask("rollback").returncode == 0
    assert root.current() == "2.0"

    picky = make_wheel(tmp_path, "3.0", refuses="doctor")
    done = root.install(picky)
    assert done.returncode == 1
    assert "install: this machine does not pass with 3.0+" in done.stderr
    assert "bad     the reason" in done.stderr
    assert "Traceback" not in done.stderr
    assert root.current() == "2.0"
    assert root.install(picky, "--force").returncode == 0
    assert root.current() == "3.0"
    kept = sorted(path.name.partition("+")[0] for path in (root.prefix / "releases").iterdir())
    assert kept == ["2.0", "3.0"]

    done = root.ask("uninstall")
    assert done.returncode == 0, done.stderr
    assert not root.prefix.exists()
    assert not root.unit.exists()
    assert (settings.read_text(), state.read_text()) == ("# edited\n", "state")
    assert root.ask("uninstall", "--purge").returncode == 0
    assert not settings.parent.exists()
    assert not state.parent.parent.exists()


def test_what_is_no_wheel_of_ours_is_refused(root: Root, tmp_path: Path) -> None:
    """A damaged file, a foreign one, none at all: one sentence, nothing changed."""
    whole = make_wheel(tmp_path, "1.0")
    cut = tmp_path / "quantum_ai_engine-1.1-py3-none-any.whl"
    cut.write_bytes(whole.read_bytes()[:-500])
    foreign = tmp_path / "other-1.0-py3-none-any.whl"
    with ZipFile(foreign, "w") as archive:
        archive.writestr("other-1.0.dist-info/METADATA", "Name: other\n")
    for path, sentence in (
        (cut, "no wheel that can be read"),
        (foreign, "no wheel of quantum-ai-engine with its units"),
        (tmp_path / "none.whl", "No such file"),
    ):
        done = root.install(path)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (root.prefix / "current").exists()


def test_what_pip_cannot_install_leaves_nothing(root: Root, tmp_path: Path) -> None:
    """The environment is removed, so that the next attempt starts afresh."""
    own = root.path / "etc/quantum-ai-engine/requirements.txt"
    own.parent.mkdir(parents=True)
    own.write_text("a-package-that-is-nowhere\n")
    done = root.install(make_wheel(tmp_path, "1.0"))
    assert done.returncode == 1
    assert "pip could not install" in done.stderr
    assert list((root.prefix / "releases").iterdir()) == []


def test_an_older_way_of_installing_is_not_overwritten(root: Root, tmp_path: Path) -> None:
    """An environment at the prefix itself is the operator's to move."""
    (root.prefix / "bin").mkdir(parents=True)
    done = root.install(make_wheel(tmp_path, "1.0"))
    assert done.returncode == 1
    assert "bin is no link: an older way of installing made it" in done.stderr
    assert not (root.prefix / "current").exists()


def test_nothing_to_go_back_to_is_said(root: Root) -> None:
    done = root.ask("rollback")
    assert done.returncode == 1
    assert "there is no release before this one" in done.stderr


def test_a_python_that_is_too_old_is_said() -> None:
    """The only thing that must be there."""
    done = subprocess.run(
        [DEPLOY / "install.sh", "install"],
        env=os.environ | {"PYTHON": "/bin/false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "/bin/false is not Python 3.11 or later" in done.stderr


def test_only_root_installs(monkeypatch: pytest.MonkeyPatch) -> None:
    install = load("install", monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with (
        pytest.raises(install.Failed, match="only root can do this"),
        install.alone(install.Places.below(Path("/"))),
    ):
        pass


def test_two_at_once_are_one_too_many(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    install = load("install", monkeypatch)
    with install.alone(install.Places.below(root.path)):
        done = root.ask("rollback")
    assert done.returncode == 1
    assert "another installation is at work" in done.stderr


def test_a_full_disk_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = load("release", monkeypatch)
    monkeypatch.setattr(release, "NEEDED_BYTES", {False: 10**18})
    with pytest.raises(release.Failed, match="GB left, and a release needs 1000000000 GB"):
        release.need_space(tmp_path / "not/yet/there", has_torch=False)


def test_the_real_wheel_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L45: it holds units, settings and installer, and its build is what the engine will name."""
    release = load("release", monkeypatch)
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", tmp_path]
    subprocess.run(words, cwd=PROJECT, check=True, capture_output=True)
    wheel = release.read_wheel(next(tmp_path.glob("*.whl")))
    assert wheel.build == build_id()
    for name in ("engine.toml", "constraints.txt", "install.sh", "install.py", "release.py",
                 "systemd/quantum-ai-engine.socket", "systemd/quantum-ai-engine@.service",
                 "systemd/quantum-ai-engine.slice"):  # fmt: skip
        source = {"engine.toml": "config/engine.toml", "constraints.txt": "constraints.txt"}
        assert (
            release.member(wheel.path, name)
            == (PROJECT / source.get(name, f"deploy/{name}")).read_bytes()
        )
