"""Tests of the training report."""
