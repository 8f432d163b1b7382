"""`qae watch`: signals as they come, in the terminal."""

import asyncio
import time
from collections.abc import Callable

import msgspec
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from quantum_ai_engine.cli.common import ConfigOption, SetOption, load_settings, redis_client
from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client, Unreachable
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.events import Signal, Stance

STYLES = {Stance.LONG: "green", Stance.SHORT: "red", Stance.FLAT: "dim"}
RECONNECT_S = 1.0

out = Console()


def watch(
    lines: bool = typer.Option(False, "--lines", help="One line per signal instead of a table."),
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Watch signals live: a table of the newest per symbol, until Ctrl-C."""
    settings = load_settings(config, assignments).settings
    try:
        asyncio.run(_watch(settings, lines or not out.is_terminal))
    except KeyboardInterrupt:
        return


async def _watch(settings: Settings, lines: bool) -> None:
    async with redis_client(settings) as client:
        if lines:
            await follow(
                client, Keys.of(settings.redis), lambda s: out.print(line(s), soft_wrap=True)
            )
            return
        newest: dict[str, Signal] = {}
        with Live(_table(newest), console=out, refresh_per_second=4) as live:

            def show(signal: Signal) -> None:
                newest[f"{signal.symbol} {signal.interval}"] = signal
                live.update(_table(newest))

            await follow(client, Keys.of(settings.redis), show)


async def follow(client: Client, keys: Keys, show: Callable[[Signal], None]) -> None:
    """Call `show` for every signal published from now on; reconnects by itself."""
    while True:
        try:
            async with client.pubsub() as channel:
                await channel.psubscribe(keys.signal_channels)
                async for message in channel.listen():
                    if message["type"] == "pmessage":
                        show(msgspec.json.decode(message["data"], type=Signal))
        except Unreachable as error:
            out.print(f"[yellow]Redis cannot serve ({error}); trying again[/]")
            await asyncio.sleep(RECONNECT_S)


def line(signal: Signal) -> str:
    """One signal in one line."""
    closed = time.strftime("%Y-%m-%d %H:%M", time.gmtime(signal.close_time / 1000))
    votes = " ".join(f"{vote.agent} {vote.probability:.3f}" for vote in signal.votes)
    silent = "".join(f" [yellow]{a.agent}: {a.reason}[/]" for a in signal.abstained)
    return (
        f"{closed}  {signal.symbol:<10} {signal.interval:>3}  "
        f"[{STYLES[signal.stance]}]{signal.stance:<5} {signal.target:+.3f}[/]  "
        f"P(up in {signal.horizon_bars}) {signal.probability:.3f}  [dim]{votes}[/]{silent}"
    )


def _table(newest: dict[str, Signal]) -> Table:
    table = Table(title=f"{len(newest)} series", expand=False)
    for name in ("series", "closed (UTC)", "stance", "target", "P(up)", "votes", "abstained"):
        table.add_column(name)
    for name, signal in sorted(newest.items()):
        table.add_row(
            name,
            time.strftime("%m-%d %H:%M", time.gmtime(signal.close_time / 1000)),
            f"[{STYLES[signal.stance]}]{signal.stance}[/]",
            f"{signal.target:+.3f}",
            f"{signal.probability:.3f}",
            ", ".join(f"{vote.agent} {vote.probability:.3f}" for vote in signal.votes),
            ", ".join(f"{a.agent}: {a.reason}" for a in signal.abstained),
        )
    return table
