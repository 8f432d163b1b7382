"""What breaks the engine on purpose, and the uninterrupted twin that it is compared with."""
