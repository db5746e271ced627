"""Registries of measured models, and the search for the base of another model."""
