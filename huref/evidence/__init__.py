"""Evidence that others can check: signed statements, seals of pictures, bills of materials."""
