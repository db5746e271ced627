"""Procedural dog portraits, a smooth function of Gaussian attributes."""
