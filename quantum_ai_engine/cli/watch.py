"""`qae watch`: signals as they come, in the terminal."""

import asyncio
import contextlib
import time
from collections.abc import Collection
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from quantum_ai_engine.cli.common import (
    ConfigOption,
    SetOption,
    UsageError,
    load_settings,
    redis_address,
    redis_client,
    say,
)
from quantum_ai_engine.client import (
    ALL,
    NEW,
    CaughtUp,
    EngineBack,
    EngineSilent,
    Expired,
    Missed,
    Past,
    Series,
    SignalClient,
    Stalled,
    Target,
    Unreadable,
    Update,
)
from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.keys import partition_of
from quantum_ai_engine.daemon.signals import positions
from quantum_ai_engine.events import Signal, Stance, Tombstone

STYLES = {Stance.LONG: "green", Stance.SHORT: "red", Stance.FLAT: "dim"}
COLUMNS = ("series", "closed (UTC)", "stance", "target", "P(up)", "votes", "abstained")

out = Console()


def watch(
    lines: bool = typer.Option(False, "--lines", help="One line per signal instead of a table."),
    start: Annotated[
        str, typer.Option("--from", metavar="ID|all", help="Begin after an entry, or with all.")
    ] = NEW,
    symbol: Annotated[
        list[str] | None, typer.Option(help="Only this symbol; repeatable.", show_default=False)
    ] = None,
    stance: Annotated[
        list[Stance] | None, typer.Option(help="Only this stance; repeatable.", show_default=False)
    ] = None,
    min_confidence: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Only signals at least so confident.")
    ] = 0.0,
    changes: Annotated[
        bool,
        typer.Option("--changes", help="Only where a stance changes, line by line; also to flat."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line, for programs.")
    ] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Watch signals live: a table of the newest per symbol, until Ctrl-C.

    Filters leave out signals; what is not about one signal is always told.
    """
    settings = load_settings(config, assignments).settings
    after = ALL if start == "all" else start
    try:
        positions(after, settings.redis.partitions)
    except ValueError as error:
        raise UsageError(f"--from: {error}") from error
    wanted = Wanted(stance or (), min_confidence, changes)
    is_table = out.is_terminal and not (lines or changes or as_json)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_watch(settings, is_table, after, symbol or [], wanted, as_json))


async def _watch(
    settings: Settings,
    is_table: bool,
    after: str,
    symbols: list[str],
    wanted: "Wanted",
    as_json: bool,
) -> None:
    async with redis_client(settings):
        pass  # somebody answers; from here on the client outlives what may come
    client = SignalClient(redis_address(settings), settings, symbols=symbols)
    if not is_table:
        async for update in client.follow(after):
            if wanted.take(update):
                say(msgspec.json.encode(update).decode() if as_json else text(update), out)
        return
    board = Board(settings.redis.partitions, wanted)
    with Live(board.table(), console=out, refresh_per_second=4) as live:
        async for update in client.follow(after):
            board.update(update)
            if isinstance(update, CaughtUp):
                for signal in client.standing().values():  # also those from before we came
                    board.show(signal)
            live.update(board.table())


class Wanted:
    """Which updates are shown: signals by stance and confidence, or where a stance changes.

    A series that expires or stalls has become flat.
    """

    def __init__(
        self,
        stances: Collection[Stance] = (),
        min_confidence: float = 0.0,
        only_changes: bool = False,
    ) -> None:
        self._stances = frozenset(stances)
        self._min_confidence = min_confidence
        self._only_changes = only_changes
        self._last: dict[Series, Stance] = {}

    def of(self, signal: Signal) -> bool:
        """Whether a signal is shown, by stance and confidence."""
        return self._is_stance(signal.stance) and signal.confidence >= self._min_confidence

    def take(self, update: Update) -> bool:
        """Whether an update is shown; what it says of a stance is remembered."""
        match update:
            case Target(signal=signal):
                return self._changes(signal, signal.stance, self.of(signal))
            case Past(signal=signal):
                return self.of(signal) and not self._only_changes
            case Expired(signal=signal):
                return self._changes(signal, Stance.FLAT, self._is_stance(Stance.FLAT))
            case Stalled(tombstone=stone):
                return self._changes(stone, Stance.FLAT, self._is_stance(Stance.FLAT))
            case _:
                return True

    def _is_stance(self, stance: Stance) -> bool:
        return not self._stances or stance in self._stances

    def _changes(self, message: Signal | Tombstone, now: Stance, is_shown: bool) -> bool:
        series = message.symbol, message.interval
        before = self._last.get(series)
        self._last[series] = now
        return is_shown and not (self._only_changes and now is before)


def text(update: Update) -> Text:
    """An update in one line."""
    match update:
        case Target(signal=signal):
            return line(signal)
        case Past(signal=signal, reason=reason):
            return Text(f"{line(signal).plain}  too late: {reason}", "dim")
        case Expired(signal=signal):
            return Text(f"{_time(signal)}  {_flat(signal.symbol, signal.interval)}: expired", "dim")
        case Stalled(tombstone=stone):
            flat = _flat(stone.symbol, stone.interval)
            return Text(f"{_time(stone)}  {flat}: its bars have stopped", "yellow")
        case EngineSilent() | Missed():
            return Text(words(update), "bold yellow")
        case _:
            return Text(words(update), "dim")


def line(signal: Signal) -> Text:
    """One signal in one line."""
    parts: list[str | tuple[str, str]] = [
        f"{_time(signal)}  {signal.symbol:<10} {signal.interval:>3}  ",
        (f"{signal.stance:<5} {signal.target:+.3f}", STYLES[signal.stance]),
        f"  P(up in {signal.horizon_bars}) {signal.probability:.3f}  ",
        (_votes(signal, " "), "dim"),
        *((f" {silent.agent}: {silent.reason}", "yellow") for silent in signal.abstained),
    ]
    if signal.amends is not None:
        parts.append((f"  in place of {signal.amends}", "yellow"))
    return Text.assemble(*parts)


class Board:
    """What the table shows: the newest signal per series, why it is flat, what else there is."""

    def __init__(self, partitions: int = 1, wanted: Wanted | None = None) -> None:
        self.signals: dict[Series, Signal] = {}
        self._wanted = wanted or Wanted()
        self._partitions = partitions
        self._flat: dict[Series, str] = {}
        self._silent: dict[int, str] = {}
        self._note = ""

    def update(self, update: Update) -> None:
        """Take in what has happened."""
        match update:
            case Target(signal=signal):
                self.show(signal)
                self._flat.pop((signal.symbol, signal.interval), None)
            case Expired(signal=signal):
                self._flat[signal.symbol, signal.interval] = "expired"
            case Stalled(tombstone=stone):
                self._flat[stone.symbol, stone.interval] = "its bars have stopped"
            case EngineSilent():
                self._silent[update.partition] = words(update)
            case EngineBack(partition=partition):
                self._silent.pop(partition, None)
            case Missed() | Unreadable():
                self._note = words(update)
            case Past() | CaughtUp():
                pass

    def show(self, signal: Signal) -> None:
        """The newest of a series; a series whose newest is not wanted is left out."""
        if self._wanted.of(signal):
            self.signals[signal.symbol, signal.interval] = signal
        else:
            self.signals.pop((signal.symbol, signal.interval), None)

    def table(self) -> Table:
        """The table as it is now."""
        caption = "\n".join(filter(None, [*self._silent.values(), self._note]))
        table = Table(
            title=f"{len(self.signals)} series",
            caption=Text(caption, "bold yellow") if caption else None,
            expand=False,
        )
        for name in COLUMNS:
            table.add_column(name)
        for series, signal in sorted(self.signals.items()):
            table.add_row(*self._row(signal, self._flat.get(series)))
        return table

    def _row(self, signal: Signal, flat: str | None) -> list[Text]:
        if flat is None and partition_of(signal.symbol, self._partitions) in self._silent:
            flat = "engine silent"
        style = "dim" if flat else ""
        stance = f"flat ({flat})" if flat else str(signal.stance)
        return [
            Text(f"{signal.symbol} {signal.interval}", style),
            Text(time.strftime("%m-%d %H:%M", time.gmtime(signal.close_time / 1000)), style),
            Text(stance, style or STYLES[signal.stance]),
            Text(f"{0.0 if flat else signal.target:+.3f}", style),
            Text(f"{signal.probability:.3f}", style),
            Text(_votes(signal, ", "), style),
            Text(", ".join(f"{a.agent}: {a.reason}" for a in signal.abstained), style),
        ]


def _time(message: Signal | Tombstone) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(message.close_time / 1000))


def _flat(symbol: str, interval: str) -> str:
    return f"{symbol:<10} {interval:>3}  flat"


def _votes(signal: Signal, between: str) -> str:
    return between.join(f"{vote.agent} {vote.probability:.3f}" for vote in signal.votes)


def words(update: EngineSilent | EngineBack | Missed | Unreadable | CaughtUp) -> str:
    """What is not about one signal, in plain words."""
    match update:
        case EngineSilent(partition=partition, reason=reason):
            return f"the engine of partition {partition} is silent, all flat: {reason}"
        case EngineBack(partition=partition):
            return f"the engine of partition {partition} is back"
        case Missed(partition=partition, after=after, oldest=oldest):
            kept = f"goes on with {oldest}" if oldest else "is empty"
            return (
                f"signals of partition {partition} after {after} may have been missed: the stream "
                f"no longer holds them, and {kept}"
            )
        case Unreadable(entry=entry, detail=detail):
            return f"entry {entry} was passed over: {detail}"
        case CaughtUp(position=position):
            return f"all signals up to {position} have been read"
