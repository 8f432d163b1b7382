"""SIGOR: seven detectors, fused in log-odds."""

from quantum_ai_engine.training.models.rules import Rules

GAIN = 1.5  # detectors overlap less than one might fear: their mean says too little of them all

FAMILY = Rules("sigor", "sigor10", GAIN)
