"""Quantised numbers: nothing above the loader knows of them.

A scheme says which plain matrices a store's parts stand for; they take the parts' place.
"""

from collections.abc import Mapping
from typing import Any

from huref.errors import CheckpointError, UnsupportedModelError
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


def dequantise(store: TensorStore, settings: Mapping[str, Any] | None, model: str) -> TensorStore:
    """A store with plain matrices in place of quantised ones.

    Args:
        store: the stored tensors.
        settings: the model's `quantization_config`, if it has one.
        model: what to call it in errors.

    Raises:
        UnsupportedModelError: nothing here reads the scheme.
        CheckpointError: the config or the tensors contradict the scheme.
    """
    if not settings:
        return store
    method = str(settings.get("quant_method"))
    scheme = SCHEMES.get(method)
    if scheme is None:
        raise UnsupportedModelError(
            f"{model}: weights quantised by {method!r} cannot be read; supported: "
            f"{', '.join(SCHEMES)}"
        )
    try:
        plain = scheme(store, settings)
    except CheckpointError as error:
        raise CheckpointError(f"{model}: {error}") from error
    names = [name for name in store.names if name not in plain.parts]

    def derive(name: str) -> Derived:
        if name in plain.derive:
            return plain.derive[name]()
        return Derived(
            renamed(store.entry(name), name), (name,), lambda parts: parts[0], by_rows=(True,)
        )

    return DerivedTensors(store, [*names, *plain.derive], derive)
