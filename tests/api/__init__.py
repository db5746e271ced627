"""Tests of huref.api."""
