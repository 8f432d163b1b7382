"""The units under a real systemd, booted in a root of its own: `make e2e`."""
