"""The forms in which models are published, each presented as a Hugging Face checkpoint."""
