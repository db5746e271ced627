"""Forms in which models are published, each seen as one Hugging Face checkpoint."""
