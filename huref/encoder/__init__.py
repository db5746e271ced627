"""The encoder: a small CNN from invariant terms to a latent that is N(0, I) over models."""

from huref.encoder.checkpoint import Encoder, load_encoder

__all__ = ["Encoder", "load_encoder"]
