"""Tests of the protocols: one suite, run over every implementation."""
