"""What a shell may complete, without loading the commands: `commands.json` tells what they take.

It is made from the commands themselves by `python -m quantum_ai_engine.cli.manual`.
"""

import inspect
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import typer

NAME = "commands.json"


class Param(msgspec.Struct, frozen=True, omit_defaults=True):
    """An option, or an argument where `names` is empty; without `value` it is a switch."""

    names: tuple[str, ...] = ()
    help: str = ""
    value: str = ""
    choices: tuple[str, ...] = ()
    is_path: bool = False
    is_required: bool = False
    repeats: bool = False
    default: str = ""


class Node(msgspec.Struct, frozen=True, omit_defaults=True):
    """A command: what it takes, and the commands below it."""

    name: str
    help: str = ""
    params: tuple[Param, ...] = ()
    commands: tuple["Node", ...] = ()


def read() -> Node:
    """All commands, as the package has them."""
    text = files("quantum_ai_engine.cli").joinpath(NAME).read_bytes()
    return msgspec.json.decode(text, type=Node)


def main() -> None:
    """Answer the shell."""
    skeleton(read())()


def skeleton(node: Node) -> typer.Typer:
    """Commands of the same names that take the same and do nothing."""
    app = typer.Typer(help=node.help)
    app.callback()(_taking(node.params))
    for one in node.commands:
        if one.commands:
            app.add_typer(skeleton(one), name=one.name)
        else:
            app.command(one.name, help=one.help)(_taking(one.params))
    return app


def _taking(params: tuple[Param, ...]) -> Callable[..., None]:
    """A function with these parameters, as typer reads them."""

    def nothing(**_given: Any) -> None:
        """Nothing is done here."""

    found = [_parameter(f"p{i}", one) for i, one in enumerate(params)]
    nothing.__signature__ = inspect.Signature(found)  # type: ignore[attr-defined]
    nothing.__annotations__ = {one.name: one.annotation for one in found}
    return nothing


def _parameter(name: str, param: Param) -> inspect.Parameter:
    complete, default = _completing(param), None
    if not param.names:
        default = typer.Argument(None, help=param.help, autocompletion=complete)
    elif param.value:
        default = typer.Option(None, *param.names, help=param.help, autocompletion=complete)
    else:
        default = typer.Option(False, *param.names, help=param.help)
    kind: Any = (Path if param.is_path else str) if param.value else bool
    annotation = list[kind] | None if param.repeats else kind
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _completing(param: Param) -> Callable[[str], list[str]] | None:
    """What may stand for a value, if that is known."""
    if param.choices:
        return lambda incomplete: [one for one in param.choices if one.startswith(incomplete)]
    return _settings if param.value == "KEY=VALUE" else None


def _settings(incomplete: str) -> list[str]:
    """Every key of the settings, with the mark behind which its value comes."""
    from quantum_ai_engine.config import SECRET_KEYS, Settings, flatten

    keys = [f"{key}=" for key in flatten(Settings()) if key not in SECRET_KEYS]
    return [key for key in keys if key.startswith(incomplete)]
