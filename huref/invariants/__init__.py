"""Anchors and the token-space products of a block that no re-parametrisation changes."""
