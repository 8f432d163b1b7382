"""The entry of the commands, and of `python -m quantum_ai_engine`."""

import contextlib
import os
import sys
from pathlib import Path

from quantum_ai_engine.agents.budget import bound_threads

BAD_CONFIGURATION = 78
LIGHT = frozenset({"ctl", "watch", "config"})  # these need no compiled kernel
COMPILING = "quantum-ai-engine: compiling, once for this machine (about 20 s)"


def main() -> None:
    """Run a command. Imports come late, so that a kernel that cannot be cached says so."""
    if _is_completion():
        from quantum_ai_engine.cli.completion import main as complete

        complete()
        return
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if command == "serve":
        bound_threads()  # before any library is loaded that would make threads
    try:
        with contextlib.nullcontext() if command in LIGHT else _said_when_compiling():
            from quantum_ai_engine.cli.app import build, run

            app = build(command)
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
        print(
            "quantum-ai-engine: the compiled feature kernel has no place to be kept; set "
            "NUMBA_CACHE_DIR to a directory that can be written",
            file=sys.stderr,
        )
        sys.exit(BAD_CONFIGURATION)
    run(app)


def _is_completion() -> bool:
    """Whether it is about completion: a shell asks by a variable with the name of the program."""
    if {"--show-completion", "--install-completion"} & {*sys.argv}:
        return True
    program = Path(sys.argv[0]).name.replace("-", "_").upper()
    return f"_{program}_COMPLETE" in os.environ


def _said_when_compiling() -> contextlib.AbstractContextManager[object]:
    """A line on standard error when the kernel is compiled, not when it comes from the cache."""
    from numba.core.event import Listener, install_listener

    class Announcer(Listener):
        is_said = False

        def on_start(self, _event: object) -> None:
            if not self.is_said:
                print(COMPILING, file=sys.stderr)
            self.is_said = True

        def on_end(self, _event: object) -> None: ...

    return install_listener("numba:compile", Announcer())


if __name__ == "__main__":
    main()
