"""The commands: `quantum-ai-engine`, short `qae`."""
