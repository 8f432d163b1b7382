"""What machines are made of: a Debian root, and every wheel that an installation needs.

Both are made once and kept in a cache, since they take minutes and the network.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parents[2]
SUITE = "bookworm"
PACKAGES = "systemd-sysv,dbus,python3,python3-venv,redis-server,libgomp1,procps,iproute2,util-linux"
# What a boot needs of the kernel: mounts, overlays, and control groups of its own.
TRIED = """
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/lower /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir=/mnt/lower,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
for groups in /sys/fs/cgroup /sys/fs/cgroup/systemd; do
    if [ -e $groups/cgroup.procs ]; then mkdir $groups/e2e-tried; rmdir $groups/e2e-tried; fi
done
"""
NEEDED = ("debootstrap", "unshare", "nsenter", "setpriv", "ip")


def hindrance() -> str | None:
    """Why machines cannot be booted here; None when they can."""
    if os.geteuid() != 0:
        return "only root can boot a machine"
    if missing := [tool for tool in NEEDED if shutil.which(tool) is None]:
        return f"{', '.join(missing)} not installed (Debian: apt install debootstrap iproute2)"
    tried = subprocess.run(
        ["unshare", "--fork", "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup",
         "sh", "-ec", TRIED],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"no machine can be made: {tried.stderr.strip()}" if tried.returncode else None


def cache() -> Path:
    """Where both are kept: E2E_CACHE, else the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("E2E_CACHE") or Path(base) / "quantum-ai-engine-e2e")


def debian() -> Path:
    """A minimal Debian root, without anything of ours."""
    root = cache() / f"{SUITE}-{hashlib.sha256(PACKAGES.encode()).hexdigest()[:8]}"
    if not root.exists():
        scratch = root.with_suffix(".new")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.parent.mkdir(parents=True, exist_ok=True)
        words = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, scratch]
        with (cache() / "debootstrap.log").open("wb") as log:
            subprocess.run(words, check=True, stdout=log, stderr=log)
        shutil.rmtree(scratch / "var/cache/apt")
        for timer in ("apt-daily", "apt-daily-upgrade", "dpkg-db-backup", "e2scrub_all"):
            (scratch / f"etc/systemd/system/{timer}.timer").symlink_to("/dev/null")
        scratch.rename(root)
    return root


def wheels() -> Path:
    """Every package that the extras need, by this machine's own settings of pip.

    `async-timeout` is what redis wants on Debian's Python, which is older than 3.11.3.
    """
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["torch"], *extras["embedded"], "async-timeout"]
    constraints = PROJECT / "constraints.txt"
    inputs = f"{sorted(wanted)}{constraints.read_text()}{sys.version}"
    house = cache() / f"wheels-{hashlib.sha256(inputs.encode()).hexdigest()[:8]}"
    if not house.exists():
        scratch = house.with_suffix(".new")
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--constraint", constraints]
        subprocess.run([*pip, "--wheel-dir", scratch, *wanted], check=True)
        scratch.rename(house)
    return house


def wheel(
    directory: Path, version: str | None = None, changes: dict[str, str] | None = None
) -> Path:
    """The project's wheel, if wanted with another version and text added to files of its."""
    source = copied(PROJECT, directory / f"source-{version}")
    about = source / "pyproject.toml"
    if version is not None:
        text = re.sub(r'(?m)^version = ".*"', f'version = "{version}"', about.read_text(), count=1)
        about.write_text(text)
    for name, added in (changes or {}).items():
        with (source / name).open("a") as file:
            file.write(added)
    return built(source, directory)


def copied(source: Path, to: Path) -> Path:
    """A source tree to be changed and built."""
    ignored = shutil.ignore_patterns(".*", "__pycache__", "tests", "benchmarks")
    return shutil.copytree(source, to, ignore=ignored)


def built(source: Path, directory: Path) -> Path:
    """The wheel of a source tree, put into a directory."""
    before = set(directory.glob("*.whl"))
    words = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", directory]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    shutil.rmtree(source)
    (made,) = set(directory.glob("*.whl")) - before
    return made


if __name__ == "__main__":  # status 1, and why, where no machine can be booted
    sys.exit(hindrance())
