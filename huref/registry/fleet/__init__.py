"""Many models measured into a registry: engines, workers, the journal."""
