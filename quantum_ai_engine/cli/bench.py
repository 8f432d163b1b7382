"""`qae bench`: what this engine promises, tried on this machine."""

import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from quantum_ai_engine.cli.common import CommandError, UsageError, progress_bar, say
from quantum_ai_engine.cli.feed import PAPER_START_MS
from quantum_ai_engine.market.files import read_bars
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.proof.faults import NEURAL, SCENARIOS, Extent, Scenario
from quantum_ai_engine.proof.process import ProofError
from quantum_ai_engine.proof.report import RESTARTS, head, restart_row, row, words
from quantum_ai_engine.proof.restart import (
    WARM_STEPS,
    RestartPlan,
    Restarts,
    measure_restarts,
)
from quantum_ai_engine.proof.run import Plan, Result, prove
from quantum_ai_engine.training.options import TrainingError

SYMBOLS = (200, 5_000)
MOST_BARS = 90_000  # the stream keeps 100,000 signals, and all of them are compared
FAILED = 1

app = typer.Typer(no_args_is_help=True, help="Try what the engine promises, on this machine.")
out = Console()

AgentsOption = Annotated[
    str | None, typer.Option(help="Kinds of agents to train for it, separated by commas.")
]
BundlesOption = Annotated[
    Path | None, typer.Option(help="Serve the bundles of this directory instead.", exists=True)
]


def _writable(path: Path | None) -> Path | None:
    """A file that can be written when all is done, which may be hours later."""
    if path is not None and not path.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no directory {path.absolute().parent}")
    return path


JsonOption = Annotated[
    Path | None,
    typer.Option("--json", help="Write the results there too.", callback=_writable),
]


@app.command()
def faults(
    scenario: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(SCENARIOS)}; repeatable.")
    ] = None,
    kills: Annotated[
        int | None, typer.Option(help="Faults per scenario.", min=1, max=100_000)
    ] = None,
    bars: Annotated[
        int | None, typer.Option(help="Bars per scenario.", min=100, max=MOST_BARS)
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A short run of everything.")] = False,
    data: Annotated[
        Path | None, typer.Option(help="Bars of this file instead of the paper market.")
    ] = None,
    symbols: Annotated[int, typer.Option(help="Of the paper market.", min=1, max=50)] = 5,
    seed: Annotated[int, typer.Option(help="Of the market and of the faults.", min=0)] = 1,
    agents: AgentsOption = None,
    bundles: BundlesOption = None,
    json: JsonOption = None,
) -> None:
    """Kill, stop and cut off a real engine and its Redis; compare with an undisturbed twin.

    Each signal must be there once, in order and as the twin has it, and each restored state must
    be the twin's. Exit code 1 if anything differs.
    """
    chosen = _chosen(scenario)
    extents = [_extent(SCENARIOS[name], kills, bars, quick=quick) for name in chosen]
    table = _table(data, max(extent.bars for extent in extents), symbols, seed)
    with tempfile.TemporaryDirectory(prefix="qae-proof-") as scratch:
        home = Path(scratch)
        plans = [
            Plan(
                name=name,
                scenario=SCENARIOS[name],
                faults=extent.faults,
                table=table.rows(0, extent.bars),
                bundles=bundles or _trained(SCENARIOS[name].agents, agents, home),
                home=home / name,
                seed=seed,
            )
            for name, extent in zip(chosen, extents, strict=True)
        ]
        results = list(_proven(plans))
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    if not all(result.is_exact for result in results):
        raise typer.Exit(FAILED)


@app.command()
def restart(
    symbols: Annotated[
        list[int] | None, typer.Option(help="How many; repeatable.", min=1, max=5_000)
    ] = None,
    runs: Annotated[int, typer.Option(help="Restarts for each.", min=1, max=100)] = 5,
    seed: Annotated[int, typer.Option(help="Of the paper market.", min=0)] = 1,
    agents: AgentsOption = None,
    bundles: BundlesOption = None,
    json: JsonOption = None,
) -> None:
    """Kill an engine that has a snapshot, start it again, and time it until it signals again.

    A bar of each symbol waits at each start. `beyond` is what a restart takes longer than the
    imports, models and warm-up of a process that has no state to restore.
    """
    results = []
    say(head(RESTARTS), out)
    for count in dict.fromkeys(symbols or SYMBOLS):
        with tempfile.TemporaryDirectory(prefix="qae-proof-") as scratch:
            home = Path(scratch)
            market = PaperMarket(seed, count, start_ms=PAPER_START_MS)
            plan = RestartPlan(
                table=market.table(WARM_STEPS + runs),
                bundles=bundles or _trained(NEURAL, agents, home),
                home=home / "restart",
                runs=runs,
            )
            results.append(_measure(plan, count))
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(results)))


def _measure(plan: RestartPlan, count: int) -> Restarts:
    with progress_bar() as bar:
        task = bar.add_task(f"{count} symbols", total=None, note="")
        try:
            measured = asyncio.run(measure_restarts(plan, lambda what: bar.update(task, note=what)))
        except ProofError as error:
            raise CommandError(f"{count} symbols: {error}") from error
    say(restart_row(measured), out)
    return measured


def _chosen(names: Sequence[str] | None) -> list[str]:
    """The scenarios asked for, or all, each once."""
    chosen = list(dict.fromkeys(names or SCENARIOS))
    if unknown := [name for name in chosen if name not in SCENARIOS]:
        raise UsageError(f"--scenario {unknown[0]}: there are {', '.join(SCENARIOS)}")
    return chosen


def _extent(scenario: Scenario, kills: int | None, bars: int | None, *, quick: bool) -> Extent:
    usual = scenario.quick if quick else scenario.full
    faults = kills if kills is not None and scenario.strikes else usual.faults
    return Extent(faults, bars or usual.bars)


def _table(data: Path | None, bars: int, symbols: int, seed: int) -> BarTable:
    """At least so many bars, of a file or of the paper market."""
    if data is None:
        # Twice the steps: some symbols trade only for a part of the day.
        market = PaperMarket(seed, symbols, start_ms=PAPER_START_MS)
        return market.table(2 * bars // symbols + 500)
    table = read_bars(data)
    if len(table) < bars:
        raise CommandError(f"{data} has {len(table)} bars; give --bars {len(table)} or fewer")
    return table


def _trained(kinds: Sequence[str], given: str | None, home: Path) -> Path:
    """A directory with small agents of these kinds, or of those given by hand."""
    from quantum_ai_engine.proof.agents import train_agents

    chosen = [kind.strip() for kind in given.split(",")] if given is not None else kinds
    try:
        return train_agents(chosen, home / "agents")
    except TrainingError as error:
        raise CommandError(f"--agents: {error}") from error


def _proven(plans: Sequence[Plan]) -> Iterator[Result]:
    """Play one scenario after another, and say what came of each."""
    say(head(), out)
    for plan in plans:
        result = _prove(plan)
        say(row(result), out)
        if not result.is_exact:
            say(words(result))
        yield result


def _prove(plan: Plan) -> Result:
    with progress_bar() as bar:
        task = bar.add_task(plan.name, total=plan.faults or None, note=plan.scenario.about)
        try:
            return asyncio.run(prove(plan, lambda done: bar.update(task, completed=done)))
        except ProofError as error:
            raise CommandError(f"{plan.name}: {error}") from error
