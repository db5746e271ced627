"""Measures lineage verdicts on a zoo of known lineage."""
