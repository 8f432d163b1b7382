"""`qae replay --check`: whether a replay of these bars can be believed."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
from rich.console import Console

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.budget import bound_loaded
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.cli.common import CommandError, UsageError, console, say
from quantum_ai_engine.config import Loaded, Settings, bundle_dir
from quantum_ai_engine.daemon.build import build_id, version
from quantum_ai_engine.engine import Engine, Identity
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.replay.cheat import cheat, shuffle, tradable
from quantum_ai_engine.replay.honesty import Finding, lookahead, warmup
from quantum_ai_engine.replay.inline import Inline
from quantum_ai_engine.replay.source import Source

BARS = 6_000  # the newest of a file that a check takes: each is replayed several times
FEWEST_BARS = 50


class Bench(NamedTuple):
    """What all checks need."""

    settings: Settings
    agents: tuple[Agent, ...]
    identity: Identity
    bars: list[Bar]
    seed: int

    def engine(self, settings: Settings) -> Engine:
        """A new engine of these agents."""
        calendars = Calendars(settings.sessions.by_symbol())
        return Engine(settings, Inline(self.agents), self.identity, calendars)


Check: TypeAlias = Callable[[Bench, Mapping[str, float]], Coroutine[Any, Any, Finding]]


async def _lookahead(bench: Bench, given: Mapping[str, float]) -> Finding:
    cuts = int(given.get("cuts", 5))
    return await lookahead(
        lambda _: bench.engine(bench.settings), bench.bars, cuts=cuts, seed=bench.seed
    )


async def _warmup(bench: Bench, _: Mapping[str, float]) -> Finding:
    calendars = Calendars(bench.settings.sessions.by_symbol())
    return await warmup(lambda _: bench.engine(bench.settings), bench.bars, bench.agents, calendars)


async def _cheat(bench: Bench, given: Mapping[str, float]) -> Finding:
    accuracy = given.get("p", 0.6)
    return await cheat(bench.settings, bench.identity, bench.bars, accuracy, seed=bench.seed)


async def _shuffle(bench: Bench, given: Mapping[str, float]) -> Finding:
    settings, shuffles = tradable(bench.settings), int(given.get("shuffles", 5))
    return await shuffle(
        lambda _: bench.engine(settings),
        bench.settings,
        bench.bars,
        shuffles=shuffles,
        seed=bench.seed,
    )


CHECKS: dict[str, Check] = {
    "lookahead": _lookahead,
    "warmup": _warmup,
    "cheat": _cheat,
    "shuffle": _shuffle,
}
# Of each parameter, what it may be: from, to.
PARAMETERS = {
    "p": (0.0, 1.0),
    "bars": (FEWEST_BARS, 1e9),
    "seed": (0, 2**32),
    "cuts": (1, 1_000),
    "shuffles": (1, 1_000),
}


def run_checks(
    names: Sequence[str],
    parameters: Sequence[str],
    loaded: Loaded,
    bars: Callable[[int], list[Bar]],
) -> bool:
    """Say what each check comes to; whether all passed.

    `bars` gives the newest so many bars, in order of time. Raises `UsageError` for a check or a
    parameter that there is not.
    """
    given = parse(parameters)
    if unknown := [name for name in names if name not in CHECKS]:
        raise UsageError(f"--check {unknown[0]}: there are {', '.join(CHECKS)}")
    bench = _bench(loaded, bars(int(given.get("bars", BARS))), int(given.get("seed", 0)))
    out, passed = Console(), True
    for name in dict.fromkeys(names):
        with console.status(f"{name}: {len(bench.bars)} bars"):
            finding = asyncio.run(CHECKS[name](bench, given))
        say(f"{name}: {'passed' if finding.passed else 'FAILED'}. {finding.sentence}", out)
        passed &= finding.passed
    return passed


def parse(parameters: Sequence[str]) -> dict[str, float]:
    """Parameters as numbers. Raises `UsageError`.

    >>> parse(["p=0.6", "bars=2000"])
    {'p': 0.6, 'bars': 2000.0}
    """
    given = {}
    for one in parameters:
        name, _, text = one.partition("=")
        if name not in PARAMETERS:
            raise UsageError(f"{one}: a check has {', '.join(PARAMETERS)}, each as NAME=NUMBER")
        low, high = PARAMETERS[name]
        try:
            given[name] = float(text)
        except ValueError as error:
            raise UsageError(f"{one}: write {name}=NUMBER") from error
        if not low <= given[name] <= high:
            raise UsageError(f"{one}: it must be from {low:g} to {high:g}")
    return given


def newest_of(source: Source) -> Callable[[int], list[Bar]]:
    """Reads the newest bars of a record, in bounded memory. Raises `CommandError`."""

    def read(count: int) -> list[Bar]:
        kept = deque[Bar](maxlen=count)
        for part in source.parts():
            kept.extend(bar for bar in part.bars() if isinstance(bar, Bar))
        if len(kept) < FEWEST_BARS:
            raise CommandError(f"{source.name} has {len(kept)} bars; a check needs {FEWEST_BARS}")
        return sorted(kept, key=lambda bar: bar.open_time)

    return read


def _bench(loaded: Loaded, bars: list[Bar], seed: int) -> Bench:
    settings = loaded.settings
    own = msgspec.structs.replace(settings.engine, clock="bars")
    venues = settings.sessions.by_symbol()
    agents = load_agents(bundle_dir(settings), settings.agents.order, venues)
    bound_loaded()
    for agent in agents:
        agent.warm_up()
    identity = Identity(
        settings.engine.environment, f"{version()}+{build_id()}", loaded.config_hash
    )
    usable = tuple(agent for agent in agents if not agent.unavailable)
    return Bench(msgspec.structs.replace(settings, engine=own), usable, identity, bars, seed)
