"""Tests of quantum_ai_engine."""
