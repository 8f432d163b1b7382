"""Agents: verified bundles that answer with a probability or abstain with a reason."""
