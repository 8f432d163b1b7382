"""Tests that two ways to the same number agree."""
