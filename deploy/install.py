"""Installs releases of quantum-ai-engine beside each other and switches between them.

    PREFIX/releases/<version>+<build>.<inputs>/   one environment each, never changed once complete
    PREFIX/current, PREFIX/previous               links to two of them
    PREFIX/bin -> current/bin                     what the units name

A release comes from a wheel, which carries units, default settings and this program as well. It
is checked before the switch, and if a running engine does not become ready with it, the switch
is taken back. Only the standard library is used: this runs before anything is installed.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

NAME = "quantum-ai-engine"
PACKAGE = "quantum_ai_engine"
SHARE = f"share/{NAME}"
STAMP = "release.json"
EXTRAS = "torch,embedded"
NEEDED_BYTES = {True: 3_000_000_000, False: 1_000_000_000}  # with torch, and without
BUNDLES_OF = (
    "import sys; from pathlib import Path; from quantum_ai_engine.config import bundle_dir, load; "
    "print(bundle_dir(load(Path(sys.argv[1])).settings))"
)


class Failed(Exception):  # noqa: N818 (what happened)
    """One sentence that says what is wrong and what to do."""


class Places(NamedTuple):
    """Where everything lies; below `root`, nothing is started."""

    root: Path
    prefix: Path
    settings: Path
    units: Path
    state: Path
    cache: Path

    @classmethod
    def below(cls, root: Path) -> "Places":
        return cls(
            root,
            root / "opt" / NAME,
            root / "etc" / NAME,
            root / "etc/systemd/system",
            root / "var/lib",
            root / "var/cache",
        )

    @property
    def is_live(self) -> bool:
        """Whether this is the running system, whose services are to follow."""
        return self.root == Path("/")

    def release(self, link: str) -> Path | None:
        """The release that `current` or `previous` names."""
        path = self.prefix / link
        return path.resolve() if path.exists() else None


class Wheel(NamedTuple):
    """A wheel that was looked into: whole, ours, and with what an installation needs."""

    path: Path
    version: str
    build: str
    sha256: str


def read_wheel(path: Path) -> Wheel:
    """Look into a wheel. Raises `Failed` when it is damaged or not ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
            sources = {name: archive.read(name) for name in names if name.endswith(".py")}
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise Failed(f"{path} is no wheel that can be read: {error}") from error
    if damaged:
        raise Failed(f"{path} is damaged ({damaged}): copy or build it again")
    about, *_ = [name for name in names if name.endswith(".dist-info/METADATA")] or [""]
    name, _, version = about.removesuffix(".dist-info/METADATA").partition("-")
    if name != PACKAGE or not any(n.endswith(f"{SHARE}/systemd/{NAME}.service") for n in names):
        raise Failed(f"{path} is no wheel of {NAME} with its units: build it with `make wheel`")
    return Wheel(path, version, build_of(sources), hashlib.sha256(path.read_bytes()).hexdigest())


def build_of(sources: dict[str, bytes]) -> str:
    """The build that the engine will name: 12 hex digits over the package's sources."""
    digest = hashlib.sha256()
    own = {Path(name).relative_to(PACKAGE): text for name, text in sources.items()
           if name.startswith(f"{PACKAGE}/")}  # fmt: skip
    for path in sorted(own):
        digest.update(str(path).encode())
        digest.update(own[path])
    return digest.hexdigest()[:12]


def install(places: Places, options: argparse.Namespace) -> None:
    """Build the release of a wheel, check it, switch to it."""
    with wheel_of(options.wheel) as wheel:
        extras = options.extras or extras_of(places.release("current"))
        release = build(places, wheel, extras)
    place_settings(places, release)
    if not options.force:
        check(places, release)
    switch(places, release)
    tidy(places)
    say(f"{release.name} is installed in {places.prefix}")
    if places.is_live and not running():
        say(f"nothing was running: systemctl enable --now {NAME}")


def rollback(places: Places, options: argparse.Namespace) -> None:
    """Back to the release before this one; a second time, forward again."""
    previous = places.release("previous")
    if previous is None:
        raise Failed(f"there is no release before this one in {places.prefix}/releases")
    if not options.force:
        check(places, previous)
    switch(places, previous)
    say(f"{previous.name} is current again")


def uninstall(places: Places, options: argparse.Namespace) -> None:
    """Stop, and remove units and releases; settings and state only with `--purge`."""
    units = sorted(places.units.glob(f"{NAME}*"))
    if places.is_live:
        stop_all(units)
    for unit in units:
        unit.unlink()
    if places.is_live:
        systemctl("daemon-reload")
    for name in ("releases", "current", "previous", "bin", ".lock"):
        remove(places.prefix / name)
    remove_all(places.cache)
    if options.purge:
        remove(places.prefix, places.settings)
        remove_all(places.state)
    with contextlib.suppress(OSError):
        places.prefix.rmdir()
    left = [str(p) for p in (places.prefix, places.settings, places.state / NAME) if p.exists()]
    say(f"uninstalled; kept: {', '.join(left) or 'nothing'}")


@contextlib.contextmanager
def wheel_of(given: Path | None) -> Iterator[Wheel]:
    """The wheel that was named, or one built from the checkout that this file lies in."""
    if given is not None:
        yield read_wheel(given)
        return
    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "pyproject.toml").exists():
        raise Failed("this is no checkout: name a wheel with --wheel FILE")
    with tempfile.TemporaryDirectory() as scratch:
        run(
            [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", scratch, checkout],
            f"no wheel could be built from {checkout}",
        )
        yield read_wheel(next(Path(scratch).glob("*.whl")))


def extras_of(release: Path | None) -> str:
    """What the present release was installed with, so that an upgrade loses nothing."""
    if release is None:
        return EXTRAS
    extras: str = json.loads((release / STAMP).read_text())["extras"]
    return extras


def build(places: Places, wheel: Wheel, extras: str) -> Path:
    """The complete release of a wheel; one that is there already is taken as it is."""
    own = places.settings / "requirements.txt"  # packages of agents of one's own
    own_text = own.read_text() if own.exists() else ""
    inputs = "\n".join([wheel.sha256, extras, own_text, sys.version])
    digest = hashlib.sha256(inputs.encode()).hexdigest()[:6]
    release = places.prefix / "releases" / f"{wheel.version}+{wheel.build}.{digest}"
    if (release / STAMP).exists():
        say(f"{release.name} is there already")
        return release
    need_space(places.prefix, "torch" in extras)
    remove(release)  # what an interrupted installation has left
    try:
        fill(release, wheel, extras, own if own_text else None)
    except BaseException:
        remove(release)
        raise
    stamp = {"version": wheel.version, "build": wheel.build, "extras": extras}
    (release / STAMP).write_text(json.dumps(stamp) + "\n")
    return release


def fill(release: Path, wheel: Wheel, extras: str, own: Path | None) -> None:
    """An environment with the wheel, its extras, and the operator's own packages."""
    say(f"installing {release.name} with {extras or 'no extras'}; this may take minutes")
    run(
        [sys.executable, "-m", "venv", release],
        "no environment could be made (Debian: apt install python3-venv)",
    )
    pip = [release / "bin/python", "-m", "pip", "install", "--quiet", "--no-warn-script-location"]
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_bytes(member(wheel.path, "constraints.txt"))
        wanted = f"{NAME}[{extras}] @ {wheel.path.resolve().as_uri()}"
        asked = [*pip, "--constraint", constraints, wanted, *(["-r", own] if own else [])]
        run(asked, f"pip could not install {wheel.path.name}")


def member(wheel: Path, name: str) -> bytes:
    """A file of the wheel's share."""
    with zipfile.ZipFile(wheel) as archive:
        found = next(n for n in archive.namelist() if n.endswith(f"{SHARE}/{name}"))
        return archive.read(found)


def place_settings(places: Places, release: Path) -> None:
    """The default settings, where there are none."""
    places.settings.mkdir(parents=True, exist_ok=True)
    if not (places.settings / "engine.toml").exists():
        shutil.copyfile(release / SHARE / "engine.toml", places.settings / "engine.toml")


def check(places: Places, release: Path) -> None:
    """With the settings and bundles that are there: would this release start? Raises `Failed`."""
    program, settings = release / "bin" / NAME, places.settings / "engine.toml"
    with tempfile.TemporaryDirectory() as scratch:
        environ = {
            "STATE_DIRECTORY": str(places.state / NAME),
            "CREDENTIALS_DIRECTORY": str(places.settings),
            "NUMBA_CACHE_DIR": scratch,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        hint = "nothing was switched; --force goes on all the same"
        for words in (("config", "check"), ("doctor",)):
            run([program, *words, "--config", settings], f"`{' '.join(words)}` of {release.name} "
                f"does not pass ({hint})", environ)  # fmt: skip
        python = release / "bin/python"
        found = run([python, "-c", BUNDLES_OF, settings], "the settings cannot be read", environ)
        bundles = Path(found.strip())
        if any(bundles.glob("*/manifest.json")):
            run([program, "bundle", "validate", bundles, "--config", settings],
                f"bundles in {bundles} do not pass with {release.name} ({hint})", environ)  # fmt: skip
    say(f"{release.name} passed: settings, doctor, bundles")


def switch(places: Places, release: Path) -> None:
    """Make a release current; engines that run follow it, or everything goes back."""
    old = places.release("current")
    adopt(places, release, old)
    if not places.is_live:
        return
    units = running()
    if failed := restart(units):
        if old is None or old == release:
            raise Failed(f"{failed} did not come up with {release.name}: journalctl -u {failed}")
        adopt(places, old, release)
        remove(places.prefix / "previous")  # what did not come up is nothing to go back to
        still = restart(units)
        state = f"{still} is down with it as well" if still else "it runs again"
        raise Failed(
            f"{failed} did not come up with {release.name} (journalctl -u {failed} -n 50); "
            f"{old.name} is current, and {state}"
        )


def adopt(places: Places, release: Path, before: Path | None) -> None:
    """Links and units are those of this release."""
    link(places.prefix / "current", release.relative_to(places.prefix.resolve()))
    if before is not None and before != release:
        link(places.prefix / "previous", before.relative_to(places.prefix.resolve()))
    link(places.prefix / "bin", Path("current/bin"))
    places.units.mkdir(parents=True, exist_ok=True)
    for unit in sorted((release / SHARE / "systemd").glob(f"{NAME}*")):
        shutil.copyfile(unit, places.units / unit.name)
    if places.is_live:
        systemctl("daemon-reload")


def restart(units: list[str]) -> str | None:
    """Restart one after the other, each until it is ready; gives the first that does not come."""
    for unit in units:
        systemctl("reset-failed", unit)
        say(f"restarting {unit}, until it is ready")
        if systemctl("restart", unit):
            return unit
    return None


def running() -> list[str]:
    """The engines that run, or are about to."""
    asked = ["systemctl", "list-units", "--plain", "--no-legend", "--type=service",
             "--state=active,activating,reloading", f"{NAME}.service", f"{NAME}@*.service"]  # fmt: skip
    listed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listed.splitlines()]


def stop_all(units: list[Path]) -> None:
    """Stop and disable everything that the unit files stand for."""
    plain = [unit.name for unit in units if "@" not in unit.name and unit.suffix != ".slice"]
    systemctl("stop", *plain, f"{NAME}@*.service")
    systemctl("disable", *(unit.name for unit in units if unit.suffix != ".slice"))


def systemctl(*words: str) -> int:
    """Its exit status; what it has to say goes to standard error."""
    return subprocess.run(["systemctl", *words], check=False).returncode


def tidy(places: Places) -> None:
    """Keep the current release and the one before it."""
    kept = {places.release("current"), places.release("previous")}
    for release in (places.prefix / "releases").iterdir():
        if release.resolve() not in kept:
            remove(release)


def run(words: list[str | Path], wrong: str, environ: dict[str, str] | None = None) -> str:
    """What a command prints. Raises `Failed` with its last line."""
    asked = [str(word) for word in words]
    done = subprocess.run(
        asked, env=os.environ | (environ or {}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["it said nothing"]
        bad = [line for line in lines if line.startswith("bad ") or "ERROR" in line] or lines
        raise Failed(f"{wrong}: {bad[-1].strip()}")
    return done.stdout


def need_space(path: Path, has_torch: bool) -> None:
    """Raise `Failed` when the disk has too little left for a release."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    free, needed = shutil.disk_usage(there).free, NEEDED_BYTES[has_torch]
    if free < needed:
        raise Failed(
            f"{there} has {free / 1e9:.1f} GB left, and a release needs {needed / 1e9:.0f} GB: "
            "make room, nothing was changed"
        )


def link(path: Path, target: Path) -> None:
    """Point a link somewhere else, in one step."""
    if path.exists() and not path.is_symlink():
        raise Failed(f"{path} is no link: an older way of installing made it; move it away first")
    scratch = path.with_name(f".{path.name}")
    remove(scratch)
    scratch.symlink_to(target)
    scratch.replace(path)


def remove(*paths: Path) -> None:
    """Links themselves, directories with what is in them; what is not there is no error."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_all(directory: Path) -> None:
    """All engines' own directories, and those behind DynamicUser's links."""
    own = (f"{NAME}", f"{NAME}-*", f"private/{NAME}", f"private/{NAME}-*")
    remove(*(path for pattern in own for path in directory.glob(pattern)))


@contextlib.contextmanager
def alone(places: Places) -> Iterator[None]:
    """One at a time. Raises `Failed` without root, or when another is at work."""
    if places.is_live and os.geteuid() != 0:
        raise Failed("only root can do this: run it with sudo")
    places.prefix.mkdir(parents=True, exist_ok=True)
    with (places.prefix / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failed("another installation is at work: wait for it") from error
        yield


def say(text: str) -> None:
    print(f"install: {text}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="install.sh", description="Install quantum-ai-engine.")
    parser.add_argument("--root", type=Path, default=Path("/"), metavar="DIR",
                        help="everything below DIR, where nothing is started")  # fmt: skip
    commands = parser.add_subparsers(required=True)
    for command in (install, rollback, uninstall):
        one = commands.add_parser(command.__name__, help=command.__doc__)
        one.set_defaults(command=command)
        if command is uninstall:
            one.add_argument("--purge", action="store_true", help="settings and state as well")
        else:
            one.add_argument("--force", action="store_true", help="whatever the checks say")
        if command is install:
            one.add_argument("--wheel", type=Path, metavar="FILE", help="instead of this checkout")
            one.add_argument("--extras", metavar="A,B", help=f"else as before, or {EXTRAS}")
    return parser.parse_args()


def main() -> NoReturn:
    options = parse()
    places = Places.below(options.root.resolve())
    try:
        with alone(places):
            options.command(places, options)
    except Failed as failed:
        sys.exit(f"install: {failed}")
    except OSError as error:
        sys.exit(f"install: {error.filename or 'the system'}: {error.strerror}")
    sys.exit(0)


if __name__ == "__main__":
    main()
