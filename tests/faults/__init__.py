"""Tests of what must hold when Redis, the network or the engine itself fails."""
