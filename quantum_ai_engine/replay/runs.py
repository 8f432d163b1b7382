"""The ledger of runs beside the reports: how often something was tried before this came out."""

import contextlib
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec

RUNS = "runs.jsonl"


class Run(msgspec.Struct, frozen=True):
    """A run that ended: what it was of, and what came of it.

    `run` names its settings, agents and bars: the same again is no other trial.
    """

    run: str
    name: str
    engine: str
    config_hash: str
    agents: tuple[str, ...]
    symbols: tuple[str, ...]
    interval: str
    first_ms: int
    last_ms: int
    bars: int
    total_return: float
    sharpe: float
    sharpe_per_bar: float


def run_id(*parts: object) -> str:
    """The name of a run by what it is of.

    >>> run_id("a", ("b",)) == run_id("a", ("b",)), len(run_id("a"))
    (True, 16)
    """
    return blake2b(msgspec.json.encode(parts), digest_size=8).hexdigest()


def read_runs(directory: Path) -> list[Run]:
    """The runs noted in a directory, each once, as it came out last; a torn line is left out."""
    runs: dict[str, Run] = {}
    decoder = msgspec.json.Decoder(Run)
    try:
        lines = (directory / RUNS).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        with contextlib.suppress(msgspec.DecodeError):
            run = decoder.decode(line)
            runs[run.run] = run
    return list(runs.values())


def note_run(directory: Path, run: Run) -> None:
    """Add a run at the end of the ledger; several processes may do so at a time."""
    with (directory / RUNS).open("ab") as file:
        file.write(msgspec.json.encode(run) + b"\n")  # one write of one line


def tried_before(runs: Sequence[Run], run: str, interval: str) -> list[float]:
    """The Sharpe ratios of a bar of all other runs on bars of this interval."""
    return [one.sharpe_per_bar for one in runs if one.run != run and one.interval == interval]
