"""Fleets: many models measured into a registry, by workers of several kinds."""
