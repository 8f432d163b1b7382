"""Tests that docs/logs.md lists every line of the log: names, levels, sentences and fields."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from quantum_ai_engine.events import Change

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "quantum_ai_engine"
PAGE = ROOT / "docs" / "logs.md"
LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
ROOMS = Change.__annotations__["room"].__args__


class Event(NamedTuple):
    """One line of the log: values that are put in are … in its sentence."""

    name: str
    level: str
    sentence: str
    fields: frozenset[str]


def events_of(tree: ast.AST) -> Iterator[Event]:
    """All log calls that have an `event_name`, and the records that are made without a call."""
    aliases = _aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            names = {keyword.arg: keyword.value for keyword in node.keywords}
            if "event_name" in names:
                fields = frozenset(str(name) for name in names if name != "event_name")
                for name in _names(names["event_name"]):
                    for level in _levels(node, aliases):
                        yield Event(name, level, _text(node.args[0]), fields)
            elif isinstance(node.func, ast.Name) and node.func.id == "_own":
                text, record = node.args
                assert isinstance(record, ast.Dict)
                keys = [ast.literal_eval(key) for key in record.keys if key is not None]
                name = ast.literal_eval(record.values[keys.index("event_name")])
                yield Event(name, "warning", _text(text), frozenset(keys) - {"event_name"})


def _aliases(tree: ast.AST) -> dict[str, set[str]]:
    """`say = log.info if … else log.warning`: the levels that a name stands for."""
    return {
        target.id: {one.attr for one in ast.walk(node.value) if isinstance(one, ast.Attribute)}
        & set(LEVELS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _levels(call: ast.Call, aliases: dict[str, set[str]]) -> list[str]:
    if isinstance(call.func, ast.Attribute):
        # What `exception` adds to an error is its traceback.
        return [call.func.attr.replace("exception", "error")]
    assert isinstance(call.func, ast.Name)
    return sorted(aliases[call.func.id])


def _names(node: ast.expr) -> list[str]:
    """The name, or those of all rooms that a change can be of."""
    if isinstance(node, ast.Constant):
        return [node.value]
    assert ast.unparse(node) == "f'{change.room}_changed'", "say in this test what it can be"
    return [f"{room}_changed" for room in ROOMS]


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(one) for one in node.values)
    if isinstance(node, ast.IfExp):
        return f"{_text(node.body)} / {_text(node.orelse)}"
    return "…"


def of_the_source() -> list[Event]:
    """All events of the package, in order."""
    events = (one for tree in trees().values() for one in events_of(tree))
    return sorted(events, key=lambda one: one[:3])


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """Every file of the package that may log, parsed."""
    texts = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    return {path: ast.parse(text) for path, text in texts.items() if "log" in text}


def of_the_page() -> list[Event]:
    """The rows of the page; every row has something to do in it."""
    rows = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("| `"):
            continue
        name, levels, sentence, fields, advice = (cell.strip() for cell in line[1:-1].split(" | "))
        assert advice, line
        named = frozenset(re.findall(r"`(\w+)`", fields))
        sentence = sentence.replace("\\<", "<")  # else it would be read as HTML
        rows += [Event(name.strip("`"), one, sentence, named) for one in levels.split(", ")]
    return sorted(rows, key=lambda one: one[:3])


def test_the_page_lists_every_event() -> None:
    """L54: who reads a line finds it on the page, with the same level, sentence and fields."""
    assert of_the_page() == of_the_source()


def test_an_event_has_one_meaning() -> None:
    """Where a name stands in two places, it is of the same level."""
    levels: dict[str, set[str]] = {}
    for event in of_the_source():
        if not event.name.endswith("_changed"):
            levels.setdefault(event.name, set()).add(event.level)
    assert {name: found for name, found in levels.items() if len(found) > 1} == {}


def test_every_log_call_of_ours_has_a_name() -> None:
    """A line without a name cannot be searched for, nor limited by what it is."""
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and ast.unparse(node.func.value) == "log"
            ):
                assert "event_name" in {keyword.arg for keyword in node.keywords}, path


def test_documents_search_for_events_that_there_are() -> None:
    """`journalctl EVENT=…` in a document finds what the engine writes."""
    names = {event.name for event in of_the_source()} | {"library"}
    for page in [*ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md"), ROOT / "README.md"]:
        for name in re.findall(r"EVENT=(\w+)", page.read_text(encoding="utf-8")):
            assert name in names, (page.name, name)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('log.error("No", event_name="no", a=1)', [("no", "error", "No", {"a"})]),
        ('log.info(f"{n} in {m}", event_name="in")', [("in", "info", "… in …", set())]),
        (
            'say = log.info if x else log.warning\nsay("So", event_name="so")',
            [("so", "info", "So", set()), ("so", "warning", "So", set())],
        ),
        ('log.info("unnamed")', []),
    ],
)
def test_events_are_found(source: str, found: list[tuple[str, str, str, set[str]]]) -> None:
    """The search itself sees levels, sentences and fields."""
    assert list(events_of(ast.parse(source))) == found
