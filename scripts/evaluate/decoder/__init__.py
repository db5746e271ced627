"""Evaluation of the decoder: a regressor of traits, measures, and contact sheets."""
