"""Tiny language models of known lineage, trained on the source of Python's standard library."""
