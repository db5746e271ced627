"""File formats: which tensors a file holds and at which bytes, and GGUF's number types."""
