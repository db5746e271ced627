"""Verdicts on a zoo of known lineage: the truth, the measurements, their statistics."""
