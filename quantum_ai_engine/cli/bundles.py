"""`qae bundle`: validate, inspect and list bundles."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from quantum_ai_engine.agents.bundle import Bundle, bundle_paths, printable, read_bundle
from quantum_ai_engine.cli.common import ConfigOption, SetOption, load_settings, say
from quantum_ai_engine.config import Settings, bundle_dir
from quantum_ai_engine.market.files import read_bars

if TYPE_CHECKING:
    from quantum_ai_engine.training.verify import Check

app = typer.Typer(no_args_is_help=True, help="Validate, inspect and list bundles.")
out = Console()
tables = Console(width=160)  # a narrow terminal breaks their lines, but no number is cut

PathArgument = Annotated[
    Path | None,
    typer.Argument(
        help="A bundle, or a directory of bundles; by default that of the settings.",
        show_default=False,
    ),
]
STYLES = {
    "ok": "green",
    "failed": "red",
    "warning": "yellow",
    "measured": "cyan",
    "not checked": "dim",
}


@app.command()
def validate(
    path: PathArgument = None,
    data: Annotated[
        Path | None, typer.Option(help="Bars to judge the answers on: .csv, .csv.gz or .parquet.")
    ] = None,
    symbol: Annotated[str | None, typer.Option(help="Symbol, when the file names none.")] = None,
    interval: Annotated[
        str | None, typer.Option(help="Interval, when the file names none.")
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Prove each bundle: files, schema, golden pair, answers, batches; exit 1 if one fails."""
    from quantum_ai_engine.training.verify import verify

    settings = load_settings(config, assignments).settings
    table = None if data is None else read_bars(data, symbol=symbol, interval=interval)
    failed = []
    for bundle_path in _paths(path, settings):
        say(Text(str(bundle_path), style="bold"), out)
        checks = verify(bundle_path, table, settings.sessions.by_symbol())
        states = [_show(check) for check in checks]
        if "failed" in states:
            failed.append(bundle_path.name)
    if failed:
        say(Text(f"failed: {', '.join(failed)}", style="red"), out)
        raise typer.Exit(1)


@app.command()
def inspect(
    path: PathArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Say what a bundle is, and what is inside its payload: layers, trees or a rule."""
    from quantum_ai_engine.training.payload import summarise

    settings = load_settings(config, assignments).settings
    for bundle_path in _paths(path, settings):
        bundle = read_bundle(bundle_path)
        summary = summarise(bundle)
        if as_json:
            out.print_json(data={**_without_golden(bundle), "payload": summary})
            continue
        say(Text(str(bundle_path), style="bold"), out)
        for name, value in (*_facts(bundle), *_scalars(summary)):
            say(Text.assemble((f"  {name:<16} ", "dim"), value), out)
        for name, rows in summary.items():
            if isinstance(rows, list) and rows and isinstance(rows[0], dict):
                tables.print(_table(name, rows))


@app.command("list")
def list_(
    path: PathArgument = None, config: ConfigOption = None, assignments: SetOption = None
) -> None:
    """One line per bundle: what it is, what it reads and how well it did on held-out bars."""
    settings = load_settings(config, assignments).settings
    bundles = [read_bundle(bundle_path) for bundle_path in _paths(path, settings)]
    width = max(len(bundle.manifest.name) for bundle in bundles)
    for bundle in bundles:
        m = bundle.manifest
        line = (
            f"{m.name:<{width}} {m.kind:<11} {bundle.digest}  {m.feature_set} × {m.window}  "
            f"{m.interval} + {m.horizon_bars} bars  {_score(bundle)}  "
            f"{len(m.spans.symbols)} symbol{'s' if len(m.spans.symbols) > 1 else ''}"
        )
        say(Text(printable(line)), out)


def _paths(path: Path | None, settings: Settings) -> list[Path]:
    return bundle_paths(bundle_dir(settings) if path is None else path)


def _show(check: "Check") -> str:
    """Print a check as one line and give its state."""
    state = Text(f"  {check.state:<12}", style=STYLES[check.state])
    say(Text.assemble(state, f"{check.name:<18} ", printable(check.says)), out)
    return check.state


def _facts(bundle: Bundle) -> Iterator[tuple[str, str]]:
    m = bundle.manifest
    spans = m.spans
    yield "kind", f"{printable(m.kind)}, digest {bundle.digest}"
    yield "reads", f"{m.feature_set}: {len(m.columns)} columns × {m.window} rows of {m.interval}"
    yield "target", printable(m.target.definition)
    yield (
        "calibration",
        f"{m.calibration.method}: up {m.calibration.up:.4g}, down {m.calibration.down:.4g}, "
        f"intercept {m.calibration.intercept:.4g}; base rate {m.base_rate:.4f}",
    )
    yield (
        "trained on",
        f"{spans.train.samples} windows of {len(spans.symbols)} symbols "
        f"({m.labels.rose} rose, {m.labels.fell} fell, {m.labels.masked} masked)",
    )
    yield "held out", f"{_score(bundle)} on {m.held_out.samples} windows"
    versions = ", ".join(f"{name} {version}" for name, version in m.libraries.items())
    yield "libraries", printable(versions)
    sizes = (f"{name} ({len(bundle.read(name))} bytes)" for name in m.files)
    yield "files", printable(", ".join(sizes))


def _score(bundle: Bundle) -> str:
    score = bundle.manifest.held_out
    return (
        f"Brier {score.brier:.4f} (base rate {score.brier_base_rate:.4f}, paired "
        f"{score.paired:+.5f} ± {score.paired_stderr:.5f})"
    )


def _scalars(summary: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What of a summary is no table."""
    for name, value in summary.items():
        if isinstance(value, dict):
            yield name, _line(value.items())
        elif not isinstance(value, list):
            yield name, _shown(value)
        elif not value or not isinstance(value[0], dict):
            yield name, printable(", ".join(map(str, value))) or "none"


def _line(items: Iterable[tuple[str, Any]]) -> str:
    parts = (
        f"{name} {_shown(value)}" for name, value in items if not isinstance(value, list | dict)
    )
    return ", ".join(parts)


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="dim")
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "name" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row.values()))
    return table


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " × ".join(map(str, value))
    return "–" if value is None else printable(str(value))


def _without_golden(bundle: Bundle) -> dict[str, Any]:
    manifest: dict[str, Any] = msgspec.to_builtins(bundle.manifest)
    golden = manifest["golden"]
    return manifest | {
        "golden": {"windows": len(golden["windows"]), "probabilities": golden["probabilities"]}
    }
