"""A throwaway machine: systemd as process 1 of its own namespaces, over a Debian root."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
UNIT = "quantum-ai-engine.service"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUPS = Path("/sys/fs/cgroup")
PATIENCE_S = 300.0


class CommandError(AssertionError):
    """A command inside the machine ended with another status than 0."""


class Machine:
    """Boots with `start`, is asked with `run`, and leaves nothing behind after `close`.

    `lower` are the layers it is booted over, the topmost first, which it never writes to; `shared`
    are the directories that it sees, read only, at /shared/NAME; `environ` is given to every
    command.
    """

    def __init__(
        self,
        lower: Sequence[Path],
        scratch: Path,
        shared: Mapping[str, Path],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._scratch = scratch
        seen = [f"{name}={directory}" for name, directory in shared.items()]
        self._words = [str(HERE / "boot.sh"), ":".join(map(str, lower)), str(scratch), *seen]
        self._environ = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", **(environ or {})}
        self._unshare: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._since = 0.0

    def start(self) -> None:
        """Boot, and wait until systemd has nothing more to do."""
        for name in ("upper", "work", "root"):
            (self._scratch / name).mkdir(parents=True, exist_ok=True)
        joined = " && ".join(f"echo $$ > {path}/cgroup.procs" for path in self._make_cgroups())
        unshare = "unshare --fork --kill-child --pid --mount --uts --ipc --net --cgroup"
        with (self._scratch / "boot.log").open("wb") as log:
            self._unshare = subprocess.Popen(
                ["sh", "-c", f'{joined} && exec {unshare} "$@"', "boot", *self._words],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.until(self._is_up, "systemd booted")

    def close(self) -> None:
        """End every process, and remove what was written."""
        self.end()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def freeze(self, layer: Path) -> None:
        """End every process, and keep what was written as a layer to boot over."""
        self.run("sync")
        self.end()
        # mv knows device files, which stand for what was removed.
        subprocess.run(["mv", self._scratch / "upper", layer], check=True)

    def end(self) -> None:
        """End every process."""
        if self._init:
            os.kill(self._init, signal.SIGKILL)  # all others of its namespace end with it
            self._init = 0
        if self._unshare is not None:
            self._unshare.wait(30)
        for path in self._cgroups():
            for directory in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
                directory.rmdir()
            if path.exists():
                path.rmdir()

    def run(self, *words: str | Path, status: int = 0, stdin: str | None = None) -> str:
        """Standard output of a command inside. Raises `CommandError` on another exit status."""
        done = self.ask(*words, stdin=stdin)
        if done.returncode != status:
            said = f"{done.stdout[-4000:]}{done.stderr[-4000:]}"
            raise CommandError(f"{' '.join(map(str, words))}: status {done.returncode}\n{said}")
        return done.stdout

    def ask(self, *words: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """What became of a command inside."""
        return subprocess.run(
            self._inside(words),
            capture_output=True,
            text=True,
            errors="replace",  # bars in msgpack are no text
            check=False,
            input=stdin,
            timeout=PATIENCE_S * 10,
        )

    def begin(self, *words: str | Path) -> subprocess.Popen[str]:
        """A command inside that goes on beside the test."""
        return subprocess.Popen(
            self._inside(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def finish(self, begun: subprocess.Popen[str]) -> str:
        """Wait for a command that was begun; what it printed. Raises `CommandError`."""
        said, _ = begun.communicate()
        if begun.returncode != 0:
            raise CommandError(f"{begun.args}: status {begun.returncode}\n{said[-4000:]}")
        return said

    def _inside(self, words: Sequence[str | Path]) -> list[str]:
        assignments = [f"{name}={value}" for name, value in self._environ.items()]
        enter = ["nsenter", "-t", str(self._init), "--all", "env", "-i", *assignments]
        return [*enter, *map(str, words)]

    def write(self, path: str, text: str) -> None:
        """Put a file there."""
        self.run("mkdir", "-p", str(Path(path).parent))
        self.run("tee", path, stdin=text)

    def show(self, *properties: str, unit: str = UNIT) -> dict[str, str]:
        """Properties of a unit."""
        text = self.run("systemctl", "show", unit, f"--property={','.join(properties)}")
        return dict(line.split("=", 1) for line in text.splitlines())

    def forget(self) -> None:
        """From now on the journal is what comes from now on."""
        self._since = time.time()

    def journal(self, *matches: str, unit: str = UNIT) -> list[dict[str, Any]]:
        """Entries of a unit's journal, oldest first."""
        self.run("journalctl", "--sync")
        how = ("--output=json", "--all", f"--since=@{self._since:.6f}")
        done = self.ask("journalctl", "--unit", unit, *how, *matches)
        return [json.loads(line) for line in done.stdout.splitlines()]

    def until(self, is_true: Callable[[], bool], what: str, patience_s: float = PATIENCE_S) -> None:
        """Wait for something; a machine that is busy is given its time."""
        end = time.monotonic() + patience_s
        while not is_true():
            if time.monotonic() > end:
                raise AssertionError(f"never: {what}")
            time.sleep(0.1)

    def _is_up(self) -> bool:
        assert self._unshare is not None
        if self._unshare.poll() is not None:
            raise AssertionError((self._scratch / "boot.log").read_text())
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text()
        if not children or Path(f"/proc/{children.split()[0]}/comm").read_text() != "systemd\n":
            return False
        self._init = int(children.split()[0])
        state = self.ask("systemctl", "is-system-running").stdout.strip()
        return state in ("running", "degraded")

    def _make_cgroups(self) -> list[Path]:
        paths = self._cgroups()
        for path in paths:
            path.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group of the first version
                if (path / name).exists() and not (path / "cgroup.controllers").exists():
                    (path / name).write_text((path.parent / name).read_text())
        return paths

    def _cgroups(self) -> list[Path]:
        """A group of our own in each hierarchy, below the one that we are in."""
        own = f"e2e-{os.getpid()}-{self._scratch.name}"
        if (CGROUPS / "cgroup.controllers").exists():
            return [CGROUPS / own]
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        parts = [line.split(":", 2) for line in lines]
        return [
            CGROUPS / controllers.removeprefix("name=") / place.lstrip("/") / own
            for _, controllers, place in parts
            if controllers
        ]
