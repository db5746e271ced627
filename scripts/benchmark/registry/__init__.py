"""Sketches, stores and `huref identify` in registries of 1,000 to 100,000 entries."""
