"""Tests of invariants."""
