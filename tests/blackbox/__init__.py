"""Tests of blackbox."""
