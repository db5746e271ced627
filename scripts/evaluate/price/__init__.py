"""What hiding a copy costs: perplexity against what huref says."""
