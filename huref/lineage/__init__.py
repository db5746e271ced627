"""Similarity, evidence and verdicts of models, from their records."""
