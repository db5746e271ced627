"""Sketches, stores and identify at sizes from a thousand to a hundred thousand."""
