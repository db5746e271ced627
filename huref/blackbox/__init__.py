"""What a served model's logits say: its width, its output projection, whose head it has."""
