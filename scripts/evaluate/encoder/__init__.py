"""Evaluation of the encoder: codes that are compared, pieces of work, figures and tables."""
