"""The live page: what the engine says, why, how late it is, and what is wrong."""
