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
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

from release import (
    NAME,
    SHARE,
    STAMP,
    Failed,
    Wheel,
    build,
    environment,
    read_wheel,
    remove,
    run,
    say,
)

EXTRAS = "torch,embedded"
BUNDLES_OF = (
    "import sys; from pathlib import Path; from quantum_ai_engine.config import bundle_dir, load; "
    "print(bundle_dir(load(Path(sys.argv[1])).settings))"
)


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


def install(places: Places, options: argparse.Namespace) -> None:
    """Build the release of a wheel, check it, switch to it."""
    refuse_older(places)
    with wheel_of(options.wheel) as wheel:
        extras = options.extras or extras_of(places.release("current"))
        own = places.settings / "requirements.txt"
        release = build(places.prefix / "releases", wheel, extras, own)
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
        environment(Path(scratch) / "pip")  # the system's Python may have none
        pip = (Path(scratch) / "pip/bin/python", "-m", "pip", "wheel", "--quiet", "--no-deps")
        run([*pip, "-w", scratch, checkout], f"no wheel could be built from {checkout}")
        yield read_wheel(next(Path(scratch).glob("*.whl")))


def extras_of(release: Path | None) -> str:
    """What the present release was installed with, so that an upgrade loses nothing."""
    if release is None:
        return EXTRAS
    extras: str = json.loads((release / STAMP).read_text())["extras"]
    return extras


def place_settings(places: Places, release: Path) -> None:
    """The default settings, where there are none."""
    places.settings.mkdir(parents=True, exist_ok=True)
    if not (places.settings / "engine.toml").exists():
        shutil.copyfile(release / SHARE / "engine.toml", places.settings / "engine.toml")


def check(places: Places, release: Path) -> None:
    """With the settings and bundles that are there: would this release start? Raises `Failed`."""
    settings = places.settings / "engine.toml"
    hint = "nothing was switched; --force goes on all the same"
    with tempfile.TemporaryDirectory() as scratch:
        environ = {
            "STATE_DIRECTORY": str(places.state / NAME),
            "CREDENTIALS_DIRECTORY": str(places.settings),
            "NUMBA_CACHE_DIR": scratch,
            "PYTHONDONTWRITEBYTECODE": "1",
        }

        def passes(words: list[str | Path], what: str) -> str:
            asked = [release / "bin" / words[0], *words[1:]]
            return run(asked, f"{what} not pass with {release.name} ({hint})", environ)

        passes([NAME, "config", "check", "--config", settings], f"{settings} does")
        passes([NAME, "doctor", "--config", settings], "this machine does")
        bundles = Path(
            passes(["python", "-I", "-c", BUNDLES_OF, settings], f"{settings} does").strip()
        )
        if any(bundles.glob("*/manifest.json")):
            validate: list[str | Path] = [NAME, "bundle", "validate", bundles, "--config", settings]
            passes(validate, f"the bundles in {bundles} do")
        keep_compiled(places, Path(scratch))
    say(f"{release.name} passed: settings, doctor, bundles")


def keep_compiled(places: Places, compiled: Path) -> None:
    """Put the machine code that the checks compiled where engines look: they start the sooner."""
    for home in {places.cache / NAME, *places.cache.glob(f"{NAME}-*")}:
        kept = home / "numba"
        shutil.copytree(compiled, kept, dirs_exist_ok=True)
        owner = home.stat()  # of a first start, root: then systemd hands all of it over
        for path in (kept, *kept.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)


def switch(places: Places, release: Path) -> None:
    """Make a release current; engines that run follow it, or everything goes back."""
    old, oldest = places.release("current"), places.release("previous")
    if release == old:
        oldest = old = None  # nothing changes but what was edited by hand
    adopt(places, release, old)
    if not places.is_live or old is None:
        return
    units = running()
    failed = restart(units)
    if failed is None:
        return
    adopt(places, old, oldest)
    if oldest is None:
        remove(places.prefix / "previous")
    still = restart(units)
    state = f"{still} is down with it as well" if still else "it runs again"
    raise Failed(
        f"{failed} did not come up with {release.name} (journalctl -u {failed} -n 50); "
        f"{old.name} is current, and {state}"
    )


def adopt(places: Places, release: Path, before: Path | None) -> None:
    """Links and units are those of this release; `before` is the one to go back to."""
    link(places.prefix / "bin", Path("current/bin"))
    link(places.prefix / "current", Path("releases") / release.name)
    if before is not None:
        link(places.prefix / "previous", Path("releases") / before.name)
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
    listed = subprocess.run(
        [
            *("systemctl", "list-units", "--plain", "--no-legend", "--type=service"),
            *("--state=active,activating,reloading", f"{NAME}.service", f"{NAME}@*.service"),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
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


def refuse_older(places: Places) -> None:
    """Raise `Failed` where the prefix itself is an environment."""
    own = places.prefix / "bin"
    if own.exists() and not own.is_symlink():
        raise Failed(f"{own} is no link: an older way of installing made it; move it away first")


def link(path: Path, target: Path) -> None:
    """Point a link somewhere else, in one step."""
    scratch = path.with_name(f".{path.name}")
    remove(scratch)
    scratch.symlink_to(target)
    scratch.replace(path)


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


def parse() -> argparse.Namespace:
    """The command line."""
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
    """Do what was asked; what cannot be done is one sentence, and status 1."""
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
