"""Quantisation schemes: quantised weights are read as float32 matrices.

Each scheme finds the tensors that together encode one matrix (packed integers, scales, zero
points) and replaces them by that matrix. Code above the loader sees plain matrices only.
"""

from collections.abc import Mapping
from typing import Any

from huref.errors import UnsupportedModelError
from huref.loader.quantized import awq, bitsandbytes, compressed_tensors, gptq, mxfp4, scaled
from huref.loader.quantized.scheme import Scheme
from huref.loader.tensors import Derived, DerivedTensors, TensorStore, renamed

SCHEMES: Mapping[str, Scheme] = {
    "gptq": gptq.scheme,
    "awq": awq.scheme,
    "bitsandbytes": bitsandbytes.scheme,
    "fp8": scaled.scheme,
    "fbgemm_fp8": scaled.scheme,
    "modelopt": scaled.scheme,
    "compressed-tensors": compressed_tensors.scheme,
    "mxfp4": mxfp4.scheme,
}


def dequantise(store: TensorStore, settings: Mapping[str, Any] | None) -> TensorStore:
    """A store with plain matrices in place of quantised ones.

    Args:
        store: the stored tensors.
        settings: the model's `quantization_config`, or None for a model that is not quantised.

    Raises:
        UnsupportedModelError: the quantisation method is not supported.
        CheckpointError: the settings or the tensors contradict the scheme.
    """
    if not settings:
        return store
    method = str(settings.get("quant_method"))
    scheme = SCHEMES.get(method)
    if scheme is None:
        raise UnsupportedModelError(
            f"weights quantised by {method!r} cannot be read; supported: {', '.join(SCHEMES)}"
        )
    plain = scheme(store, settings)
    names = [name for name in store.names if name not in plain.parts]

    def derive(name: str) -> Derived:
        if name in plain.derive:
            return plain.derive[name]()
        return Derived(
            renamed(store.entry(name), name), (name,), lambda parts: parts[0], by_rows=(True,)
        )

    return DerivedTensors(store, [*names, *plain.derive], derive)
