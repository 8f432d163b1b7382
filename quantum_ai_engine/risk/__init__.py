"""Risk: from what the ensemble believes to how much to hold."""
