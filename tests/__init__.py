"""Tests, one folder for each room of huref and of scripts."""
