"""Tests of recorded bars and of the paper market."""
