"""`qae config`: check and show the settings in force."""

from typing import Annotated

import msgspec
import typer
from rich.console import Console

from quantum_ai_engine.cli.common import ConfigOption, SetOption, load_settings
from quantum_ai_engine.config import flatten
from quantum_ai_engine.daemon import access

app = typer.Typer(no_args_is_help=True, help="Check and show settings.")
out = Console()


@app.command()
def check(config: ConfigOption = None, assignments: SetOption = None) -> None:
    """Say whether the settings can be used; exit 78 if not."""
    loaded = load_settings(config, assignments)
    access.check(loaded.settings.http)
    access.tls(loaded.settings.http)
    out.print(f"the settings are good (hash {loaded.config_hash})")


@app.command()
def show(
    config: ConfigOption = None,
    assignments: SetOption = None,
    origin: Annotated[
        bool, typer.Option("--origin", help="Say where each value comes from.")
    ] = False,
) -> None:
    """Print every setting in force; secrets are masked."""
    loaded = load_settings(config, assignments)
    for key, value in flatten(loaded.settings).items():
        shown = f"{key} = {msgspec.json.encode(value).decode()}"
        if origin:
            shown = f"{shown:<44} # {loaded.origins.get(key, 'default')}"
        out.print(shown, markup=False, highlight=False, soft_wrap=True)
