"""The state of the engine: everything that a restart must bring back."""
