"""The engine as it is installed on a machine: what an operator and a feed do to it."""

import json
from typing import Any

from .machine import UNIT, Machine

NAME = "quantum-ai-engine"
PROGRAM = f"/opt/{NAME}/bin/{NAME}"
PYTHON = f"/opt/{NAME}/current/bin/python"
CONFIG = f"/etc/{NAME}/engine.toml"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/test.conf"
SLICE = "quantum.slice/quantum-ai.slice/quantum-ai-engine.slice"
GROUPS = "/sys/fs/cgroup"
FILES = ("/run/block-loop", "/run/block-pool", "/run/eat-memory")  # of the blocking agent
SETTINGS = """
[engine]
clock = "bars"
burn_in_bars = 0
[redis]
url = "redis://127.0.0.1:6379/0"
[agents]
bundles = "/shared/own/bundles/{bundles}"
"""
ASK = """
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(f"http://127.0.0.1:8001{sys.argv[1]}", timeout=300)
except urllib.error.HTTPError as refused:
    answer = refused
print(answer.status, answer.read().decode())
"""


class Installed:
    """The engine on a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def reset(self) -> None:
        """Stopped, as it was installed, with nothing behind it."""
        run = self.machine.run
        run("systemctl", "stop", f"{NAME}.socket", UNIT, f"{NAME}@*.service")
        run("rm", "-rf", f"{DROP_IN}", f"/etc/{NAME}/redis-password", *FILES)
        run("sh", "-c", f"rm -rf /var/lib/private/{NAME}*/*")
        run("systemctl", "daemon-reload")
        self.machine.ask("systemctl", "reset-failed")
        run("redis-cli", "FLUSHALL")
        self.configure()
        self.machine.forget()

    def configure(self, bundles: str = "rules", more: str = "") -> None:
        """Settings with these bundles."""
        self.machine.write(CONFIG, SETTINGS.format(bundles=bundles) + more)

    def drop_in(self, text: str) -> None:
        """What `systemctl edit` does."""
        self.machine.write(DROP_IN, text)
        self.machine.run("systemctl", "daemon-reload")

    def start(self) -> None:
        self.machine.run("systemctl", "start", NAME)

    def feed(self, bars: int, *options: str) -> None:
        """Bars of the paper market, as fast as they go."""
        self.machine.run(*self.feeding(bars, *options))

    def feeding(self, bars: int, *options: str) -> list[str]:
        return [PROGRAM, "feed", "paper", "--bars", str(bars), "--config", CONFIG, *options]

    def http(self, path: str) -> tuple[int, str]:
        """Status and body; a refused connection is an error."""
        status, _, body = self.machine.run(PYTHON, "-c", ASK, path).partition(" ")
        return int(status), body

    def signals(self, key: str = "quantum:signals") -> list[dict[str, Any]]:
        """The whole stream."""
        text = self.machine.run("redis-cli", "--json", "XRANGE", key, "-", "+")
        return [json.loads(fields["json"]) for _, fields in _entries(json.loads(text))]

    def position(self) -> str:
        return self.machine.run("redis-cli", "HGET", "quantum:state", "offset").strip()

    def caught_up(self) -> None:
        """Wait until every bar that was fed is committed."""
        newest = "redis-cli", "XREVRANGE", "quantum:bars", "+", "-", "COUNT", "1"
        last, *_ = self.machine.run(*newest).splitlines()
        self.machine.until(lambda: self.position() == last, f"position {last}")

    def events(self, name: str, *matches: str) -> list[dict[str, Any]]:
        """What the engine itself wrote to the journal under this name."""
        return self.machine.journal(f"EVENT={name}", *matches)

    def tell_agent(self, file: str) -> None:
        """Feed bars to the blocking agent, with this file there, until its engine is ended."""
        before = self.main_pid()
        self.machine.run("touch", file)
        feeding = self.machine.begin(*self.feeding(300))
        self.machine.until(lambda: self.main_pid() != before, "the engine was ended")
        self.machine.run("rm", file)  # at once: the next engine learns the same bars
        self.machine.finish(feeding)
        self.machine.until(lambda: self.is_up_again(before), "the engine came again")

    def main_pid(self) -> int:
        return int(self.machine.show("MainPID")["MainPID"])

    def cpu_root(self) -> str:
        """Where the CPU controller is: a hierarchy of its own in the first version."""
        is_first = self.machine.ask("test", "-d", f"{GROUPS}/cpu").returncode == 0
        return f"{GROUPS}/cpu" if is_first else GROUPS

    def is_up_again(self, before: int) -> bool:
        """Active, with another process than this."""
        state = self.machine.show("ActiveState", "MainPID")
        return state["ActiveState"] == "active" and int(state["MainPID"]) != before


def _entries(replies: list[Any]) -> list[tuple[str, dict[str, str]]]:
    return [(key, dict(zip(flat[::2], flat[1::2], strict=True))) for key, flat in replies]
