"""Registries of measured models: what is stored of each, and how a new one is looked up."""
