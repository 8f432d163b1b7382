"""Run benchmarks: `python -m benchmarks [section …]` writes docs/benchmarks.md, all or in part.

Sections: kernel, peers, growth, inference, burst, overload, daemon, http, scrape, commit, replay,
soak, replay_memory; `accuracy` writes into docs/features.md. `python -m benchmarks.families FILE …`
writes docs/models.md, and `python -m benchmarks.soak` the row and the plot of a soak that takes an
hour.
"""

import importlib
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import machine

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
# Imported when they run: each needs libraries that the others do not.
SECTIONS = {
    "kernel": ("The feature kernel", "benchmarks.kernel"),
    "peers": ("The kernel and other libraries", "benchmarks.peers"),
    "growth": ("Growth", "benchmarks.growth"),
    "inference": ("Inference", "benchmarks.inference"),
    "burst": ("A thousand symbols at once", "benchmarks.burst"),
    "overload": ("Overload", "benchmarks.overload"),
    "daemon": ("The daemon, end to end", "benchmarks.end_to_end"),
    "http": ("HTTP beside live bars", "benchmarks.http_load"),
    "scrape": ("A scrape", "benchmarks.scrape"),
    "commit": ("The commit", "benchmarks.commit"),
    "replay": ("Replay", "benchmarks.replay"),
    "soak": ("Soak", "benchmarks.soak"),
    "replay_memory": ("The memory of a long replay", "benchmarks.replay_memory"),
}
ACCURACY = "accuracy"
INTRODUCTION = """# Benchmarks

Made by `make bench`, or section by section: `python -m benchmarks kernel peers`. Numbers are
medians, with the lowest and highest run in brackets. The machine is shared and noisy: compare
within a table, not across machines.
"""


def main(arguments: list[str]) -> None:
    chosen = arguments or [*SECTIONS, ACCURACY]
    unknown = [name for name in chosen if name not in {*SECTIONS, ACCURACY}]
    if unknown:
        sys.exit(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)} and {ACCURACY}")
    if len(chosen) == 1:
        _run(chosen[0])
        return
    for name in chosen:  # each in a process of its own: peak memory and threads are not shared
        subprocess.run([sys.executable, "-m", "benchmarks", name], check=True)


def _run(name: str) -> None:
    if name == ACCURACY:
        text = importlib.import_module("benchmarks.accuracy").write()
    else:
        text = importlib.import_module(SECTIONS[name][1]).section()
        write(name, text)
    print(text, flush=True)


def read(name: str) -> str:
    """The text of a section as the page has it; empty if it has none."""
    return _sections().get(SECTIONS[name][0], "")


def write(name: str, text: str) -> None:
    """Write one section into the page, keeping all others."""
    kept = _sections()
    kept[SECTIONS[name][0]] = f"On {machine()}.\n\n{text}\n"
    sections = [
        f"## {title}\n{kept[title].strip()}\n" for title, _ in SECTIONS.values() if title in kept
    ]
    PAGE.write_text("\n".join([INTRODUCTION, *sections]), encoding="utf-8")


def _sections() -> dict[str, str]:
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    parts = re.split(r"^## (.*)\n", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


if __name__ == "__main__":
    main(sys.argv[1:])
