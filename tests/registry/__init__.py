"""Tests of huref.registry."""
