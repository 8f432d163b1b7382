"""The entry of the commands, and of `python -m quantum_ai_engine`."""

import sys

BAD_CONFIGURATION = 78


def main() -> None:
    """Run a command. Imports come late, so that a kernel that cannot be cached says so."""
    try:
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


if __name__ == "__main__":
    main()
