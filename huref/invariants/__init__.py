"""Anchors, terms and measurements of hidden units, none of which a re-parametrisation changes."""
