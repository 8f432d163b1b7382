"""The entry of the commands, and of `python -m quantum_ai_engine`."""

import contextlib
import sys
import threading
from collections.abc import Iterator

from quantum_ai_engine.agents.budget import bound_threads

BAD_CONFIGURATION = 78
PATIENCE_S = 2.0  # with a warm cache everything is there by then


def main() -> None:
    """Run a command. Imports come late, so that a kernel that cannot be cached says so."""
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if command == "serve":
        bound_threads()  # before any library is loaded that would make threads
    try:
        with _said_when_slow():
            from quantum_ai_engine.cli.app import main as run
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
        print(
            "quantum-ai-engine: the compiled feature kernel has no place to be kept; set "
            "NUMBA_CACHE_DIR to a directory that can be written",
            file=sys.stderr,
        )
        sys.exit(BAD_CONFIGURATION)
    run()


@contextlib.contextmanager
def _said_when_slow() -> Iterator[None]:
    """A line on standard error while the kernel is compiled."""
    line = "quantum-ai-engine: compiling the feature kernel, once for this machine (about 15 s)"
    timer = threading.Timer(PATIENCE_S, print, [line], {"file": sys.stderr})
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


if __name__ == "__main__":
    main()
