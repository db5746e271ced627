"""Measurements of what huref says, on models of known lineage."""
