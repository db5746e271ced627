"""What records say about who descends from whom: similarity, tables and verdicts."""
