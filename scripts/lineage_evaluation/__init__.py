"""What scripts/evaluate_lineage.py is made of: the truth, the measurements, their statistics."""
