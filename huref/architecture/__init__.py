"""Layouts as data, and the canonical block that every layout is read into."""
