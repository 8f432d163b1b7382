"""Tests of the commands, as a user meets them."""
