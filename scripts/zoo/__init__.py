"""Tiny language models of known lineage, trained on the Python standard library's own text."""
