"""`qae bundle`: validate, inspect and list bundles."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from quantum_ai_engine.agents.bundle import BundleError, bundle_paths, read_bundle
from quantum_ai_engine.agents.load import load_agent

app = typer.Typer(no_args_is_help=True, help="Validate, inspect and list bundles.")
out = Console()

PathArgument = Annotated[Path, typer.Argument(help="A bundle, or a directory of bundles.")]


@app.command()
def validate(path: PathArgument) -> None:
    """Verify hashes, schema and golden pair of each bundle; exit 1 if one does not serve."""
    broken = 0
    for bundle_path in bundle_paths(path):
        try:
            bundle = read_bundle(bundle_path)
            load_agent(bundle).warm_up()
        except BundleError as error:
            broken += 1
            out.print(f"[red]broken[/] {error}", soft_wrap=True)
        else:
            line = f"[green]whole[/]  {bundle_path}  {bundle.manifest.kind}  {bundle.digest}"
            out.print(line, soft_wrap=True)
    if broken:
        raise typer.Exit(1)


@app.command()
def inspect(path: PathArgument) -> None:
    """Print a bundle's manifest as JSON, without the golden pair's numbers."""
    for bundle_path in bundle_paths(path):
        manifest: dict[str, Any] = msgspec.to_builtins(read_bundle(bundle_path).manifest)
        golden = manifest.pop("golden")
        manifest["golden"] = {
            "windows": len(golden["windows"]),
            "probabilities": golden["probabilities"],
        }
        out.print_json(data=manifest)


@app.command("list")
def list_(path: PathArgument) -> None:
    """One line per bundle: what it is, what it reads and how well it did on held-out bars."""
    for bundle_path in bundle_paths(path):
        bundle = read_bundle(bundle_path)
        m, score = bundle.manifest, bundle.manifest.held_out
        out.print(
            f"{m.name:<12} {m.kind:<10} {bundle.digest}  {m.feature_set} × {m.window}  "
            f"{m.interval} + {m.horizon_bars} bars  Brier {score.brier:.4f} "
            f"(base rate {score.brier_base_rate:.4f}, paired {score.paired:+.5f} "
            f"± {score.paired_stderr:.5f})  {len(m.spans.symbols)} symbols",
            soft_wrap=True,
        )
