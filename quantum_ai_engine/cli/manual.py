"""The man page and the table for shells, made from the commands themselves.

`python -m quantum_ai_engine.cli.manual` writes both; a test compares them with what it would write.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import typer

from quantum_ai_engine.cli.app import build
from quantum_ai_engine.cli.completion import NAME, Node, Param

PROGRAM = "quantum-ai-engine"
TABLE = Path(__file__).with_name(NAME)
PAGE = Path(__file__).parents[2] / "deploy" / "man" / f"{PROGRAM}.1"
OF_TYPER = ("--help", "--install-completion", "--show-completion")  # every program of its kind
EXITS = (
    ("0", "Done; of ctl status: the engine serves."),
    ("1", "Failed."),
    ("2", "Wrong usage."),
    ("78", "The settings cannot be used. The unit is not restarted then."),
)
FILES = (
    ("config/engine.toml", "Every key of the settings with its default and meaning."),
    ("/etc/quantum-ai-engine/engine.toml", "The settings of the systemd units."),
    ("~/.local/state/quantum-ai-engine", "Bundles, reports, its own Redis; a file HALT halts it."),
)
ENVIRONMENT = (
    ("QAE_SECTION__KEY", "Sets section.key, as QAE_REDIS__URL sets redis.url."),
    ("CREDENTIALS_DIRECTORY", "Where systemd lays down the credential redis-password."),
    ("NUMBA_CACHE_DIR", "Where the compiled feature kernel is kept."),
)


def tree(command: Any, name: str) -> Node:
    """What a command takes, and the commands below it."""
    params = tuple(_param(one) for one in command.params if not set(one.opts) & {*OF_TYPER})
    below = getattr(command, "commands", {})
    text = " ".join((command.help or "").split())
    return Node(name, text, params, tuple(tree(one, n) for n, one in below.items()))


def whole() -> Node:
    """All commands."""
    return tree(typer.main.get_command(build()), PROGRAM)


def _param(one: Any) -> Param:
    kind = one.type_descriptor
    is_option = one.param_type_name == "option"
    is_switch = is_option and one.is_flag
    choices = tuple(str(getattr(c, "value", c)) for c in (kind.choices or ())) * kind.is_choice
    is_path = "Path" in str(kind.annotation)
    value = one.metavar or "|".join(choices) or ("PATH" if is_path else _word(kind.annotation))
    default = one.default
    has_default = default not in (None, False) and not callable(default) and one.show_default
    return Param(
        (*one.opts, *one.secondary_opts) if is_option else (),
        " ".join((one.help or "").split()),
        "" if is_switch else (value if is_option else (one.metavar or one.name.upper())),
        choices,
        is_path,
        one.required,
        bool(one.multiple) or one.nargs == -1,
        str(getattr(default, "value", default)) if has_default else "",
    )


def _word(annotation: Any) -> str:
    """What kind of value is wanted, in a word."""
    text = str(annotation)
    return "NUMBER" if "int" in text or "float" in text else "TEXT"


def page(node: Node) -> str:
    """The man page, in the man macros."""
    return "\n".join(_lines(node)) + "\n"


def _lines(node: Node) -> Iterator[str]:
    yield '.\\" Made by python -m quantum_ai_engine.cli.manual; not to be edited.'
    yield f'.TH {PROGRAM.upper()} 1 "" "{PROGRAM}" "User Commands"'
    yield ".SH NAME"
    yield f"{_plain(PROGRAM)} \\- live bars in, explained signals out"
    yield ".SH SYNOPSIS"
    yield f".B {_plain(PROGRAM)}"
    yield "[\\-\\-debug]"
    yield ".I COMMAND"
    yield "[\\fIARGUMENT\\fR ...]"
    yield ".PP"
    yield ".B qae"
    yield "is the same program by a short name."
    yield ".SH DESCRIPTION"
    yield _sentence(node.help)
    yield "It reads closed bars from Redis, and publishes one explained signal per bar."
    yield ".SH OPTIONS"
    for param in node.params:
        yield from _described(param)
    yield from _pair("--install-completion", "Let the shell complete commands and options.")
    yield from _pair("--show-completion", "Print what that would install.")
    yield from _pair("--help", "Show the usage; after any command, too.")
    yield ".SH COMMANDS"
    for one in node.commands:
        yield from _command(one, ())
    for title, pairs in (("EXIT STATUS", EXITS), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)):
        yield f".SH {title}"
        for name, text in pairs:
            yield from _pair(name, text)
    yield ".SH SEE ALSO"
    yield ".BR redis-cli (1),"
    yield ".BR systemctl (1),"
    yield ".BR journalctl (1)"


def _command(node: Node, above: tuple[str, ...]) -> Iterator[str]:
    path = (*above, node.name)
    if node.commands:
        for one in node.commands:
            yield from _command(one, path)
        return
    yield f".SS {_plain(' '.join(path))}"
    given = " ".join(
        f"\\fI{_plain(p.value)}\\fR" if p.is_required else f"[\\fI{_plain(p.value)}\\fR]"
        for p in node.params
        if not p.names
    )
    if given:
        yield f"\\fB{_plain(' '.join(path))}\\fR {given}"
        yield ".PP"
    yield _sentence(node.help)
    for param in node.params:
        yield from _described(param)


def _described(param: Param) -> Iterator[str]:
    name = ", ".join(param.names) or param.value
    text = param.help or "See above."
    if param.default:
        text += f" Default: {param.default}."
    if param.is_required and param.names:
        text += " Required."
    yield from _pair(name, text, param.value if param.names else "")


def _pair(name: str, text: str, value: str = "") -> Iterator[str]:
    yield ".TP"
    yield f"\\fB{_plain(name)}\\fR" + (f" \\fI{_plain(value)}\\fR" if value else "")
    yield _sentence(text)


def _sentence(text: str) -> str:
    """A line of text: one that begins with a dot or quote would be a macro."""
    plain = _plain(text.replace("`", ""))
    return f"\\&{plain}" if plain[:1] in (".", "'") else plain


def _plain(text: str) -> str:
    """Text as it is: marks of the man macros, and what is not ASCII, by their names."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in escaped)


def table(node: Node) -> str:
    """The table for shells."""
    return msgspec.json.format(msgspec.json.encode(node), indent=1).decode() + "\n"


def main() -> None:
    """Write both."""
    node = whole()
    TABLE.write_text(table(node), encoding="utf-8")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(node), encoding="utf-8")


if __name__ == "__main__":
    main()
