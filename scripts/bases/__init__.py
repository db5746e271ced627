"""The registry of public bases."""
