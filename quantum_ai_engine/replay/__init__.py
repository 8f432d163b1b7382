"""Replay: the engine on old bars, and an honest account of what its signals were worth."""
