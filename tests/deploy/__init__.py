"""Tests of the files that an operator installs."""
