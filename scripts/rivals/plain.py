"""Parameter cosine over all tensors of equal name and shape."""

from scripts.rivals.weights import Weights


def parameter_cosine(a: Weights, b: Weights) -> float:
    """Cosine over the tensors that both models have, in [-1, 1]; 0 if there is none."""
    dot = square_a = square_b = 0.0
    for name, tensor in a.tensors.items():
        other = b.tensors.get(name)
        if other is not None and other.shape == tensor.shape:
            x, y = tensor.double(), other.double()
            dot += float((x * y).sum())
            square_a += float(x.square().sum())
            square_b += float(y.square().sum())
    return dot / (square_a * square_b) ** 0.5 if square_a and square_b else 0.0
