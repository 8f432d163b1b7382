"""Features of closed bars: one kernel, the sets that select from it, the state per series."""
