"""Readers of file formats: each tensor's byte range, and the decoding of GGUF's types."""
