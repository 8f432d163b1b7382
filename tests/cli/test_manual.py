"""The man page and what shells complete are those of the commands, and cost little."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quantum_ai_engine.cli.completion import Node, read
from quantum_ai_engine.cli.manual import PAGE, TABLE, page, table, whole

SCRIPTS = Path(sys.executable).parent
HEAVY = ("torch", "numba", "numpy", "aiohttp", "redis", "pyarrow")
LOADED = f"""
import atexit, sys
atexit.register(lambda: print(sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr))
sys.argv = ["qae"]
from quantum_ai_engine.__main__ import main
main()
"""
needs_groff = pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")


@pytest.fixture(scope="module")
def commands() -> Node:
    return whole()


def test_both_are_made_from_the_commands(commands: Node) -> None:
    """L38: an option that is not there is not described; one that is, is."""
    say = "run python -m quantum_ai_engine.cli.manual"
    assert TABLE.read_text(encoding="utf-8") == table(commands), say
    assert PAGE.read_text(encoding="utf-8") == page(commands), say


def test_every_command_and_option_is_on_the_page(commands: Node) -> None:
    text = PAGE.read_text(encoding="utf-8")

    def see(node: Node, above: str) -> None:
        for param in node.params:
            for name in param.names:
                assert f"\\fB{', '.join(param.names)}".replace("-", "\\-") in text, name
        for one in node.commands:
            see(one, f"{above} {one.name}")
        if above and not node.commands:
            assert f".SS {above.strip()}".replace("-", "\\-") in text

    see(commands, "")
    assert {"serve", "ctl", "watch"} <= {one.name for one in commands.commands}


@needs_groff
def test_the_page_renders_without_a_warning() -> None:
    words = ["groff", "-man", "-Tutf8", "-ww", str(PAGE)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert "ctl reload" in re.sub(".\x08", "", done.stdout)  # bold is struck twice


def completing(shell: str, words: str, **more: str) -> subprocess.CompletedProcess[str]:
    asked = {
        "_QAE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "_TYPER_COMPLETE_ARGS": words,
    }
    return subprocess.run(
        [sys.executable, "-c", LOADED],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | asked | more,
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("qae c", ["ctl", "config"]),
        ("qae ctl re", ["reduce", "resume", "reload"]),
        ("qae ctl reload --", ["--wait", "--pid", "--help"]),
        ("qae watch --stance ", ["long", "short", "flat"]),
        ("qae serve --set risk.long", ["risk.long_threshold="]),
        ("qae ctl status --set redis.passw", []),
    ],
)
def test_completion_loads_nothing_heavy(words: str, expected: list[str]) -> None:
    """A shell that waits for it gets the names without torch, numba or numpy being loaded."""
    done = completing("bash", words)
    assert done.stdout.split() == expected
    assert done.stderr.strip() == "[]"


def test_zsh_and_fish_are_answered_too() -> None:
    assert '"reload":' in completing("zsh", "qae ctl rel").stdout
    fish = completing("fish", "qae ctl rel", _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert fish.stdout.startswith("reload\t")


def test_bash_completes_by_the_script_that_is_shown() -> None:
    """What `--show-completion` prints works in a real shell, under the program's own name."""
    script = """
    eval "$(qae --show-completion bash)"
    COMP_WORDS=(qae ctl st) COMP_CWORD=2
    _qae_completion qae
    echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=os.environ | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}"},
    )
    assert done.stdout.strip() == "status"


def test_a_command_loads_its_own_module_alone() -> None:
    """`ctl` answers without what only the daemon needs."""
    code = LOADED.replace('["qae"]', '["qae", "ctl", "--help"]')
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.strip() == "['redis']"
    assert "reload" in done.stdout


def test_the_table_is_in_the_package() -> None:
    assert read().name == "quantum-ai-engine"
