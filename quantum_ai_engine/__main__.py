"""`python -m quantum_ai_engine`: the same as the command `quantum-ai-engine`."""

from quantum_ai_engine.cli.app import main

if __name__ == "__main__":
    main()
