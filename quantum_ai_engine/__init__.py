"""Signals from live bars: features, agents, policy and risk under one roof."""
