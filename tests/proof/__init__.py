"""Tests of the fault run: of what breaks things, and of what judges the outcome."""
