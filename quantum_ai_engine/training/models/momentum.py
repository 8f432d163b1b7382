"""Momentum: is the mean of 10 bars above that of 30, and by how many volatilities?"""

from quantum_ai_engine.training.models.rules import Rules

FAMILY = Rules("momentum", "momentum2", 1.0)
