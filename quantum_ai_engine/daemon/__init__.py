"""The daemon: what connects the engine to Redis, HTTP and the operating system."""
