"""The intrinsic fingerprint (arXiv 2507.03014): standard deviations of Q, K, V and O by layer.

Each of the four sequences is standardised over layers and correlated with the other model's;
the score is the mean. Sequences of different lengths are interpolated to the greater length.
"""

import numpy as np

from scripts.rivals.weights import Weights


def profile(model: Weights, layers: int) -> np.ndarray:
    """Standard deviations of (q, k, v, o), standardised over layers, as (4, layers)."""
    spread = [[float(getattr(block, role).std()) for block in model.attention] for role in "qkvo"]
    own, wanted = np.linspace(0, 1, len(model.attention)), np.linspace(0, 1, layers)
    profiles = np.array([np.interp(wanted, own, values) for values in spread])
    deviation = profiles.std(axis=1, keepdims=True)
    return np.asarray((profiles - profiles.mean(axis=1, keepdims=True)) / deviation.clip(1e-12))


def intrinsic_score(a: Weights, b: Weights) -> float:
    """Mean correlation of the four profiles, in [-1, 1]."""
    layers = max(len(a.attention), len(b.attention))
    return float((profile(a, layers) * profile(b, layers)).mean())
