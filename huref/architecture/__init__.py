"""Layouts as data, and the canonical block into which every layout is read."""
