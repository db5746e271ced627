"""GGUF's data types: plain numbers and quantised blocks, decoded by the gguf package."""

from functools import lru_cache
from math import prod

import numpy as np
import torch
from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.tensors import view_as

PLAIN = {
    0: torch.float32,
    1: torch.float16,
    24: torch.int8,
    25: torch.int16,
    26: torch.int32,
    27: torch.int64,
    28: torch.float64,
    30: torch.bfloat16,
}  # by GGUF's type number
CHUNK = 1_000_000  # elements decoded at once: the package makes several temporary copies


@lru_cache
def _blocks() -> dict[int, tuple[int, int]]:
    """(elements, bytes) of a block by GGUF's type number."""
    from gguf.constants import GGML_QUANT_SIZES

    return {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}


def block_of(ggml_type: int) -> tuple[int, int] | None:
    """(elements, bytes) of a type's blocks; None for an unknown type."""
    if ggml_type in PLAIN:
        return 1, PLAIN[ggml_type].itemsize
    return _blocks().get(ggml_type)


def type_name(ggml_type: int) -> str:
    """The name of a type, such as Q4_K."""
    from gguf.constants import GGMLQuantizationType

    return str(GGMLQuantizationType(ggml_type).name)


def dequantise(data: bytearray | memoryview, ggml_type: int, shape: tuple[int, ...]) -> Tensor:
    """Decode quantised blocks to float32, (..., columns).

    Raises:
        CheckpointError: the gguf package cannot decode the type.
    """
    import gguf

    kind = gguf.GGMLQuantizationType(ggml_type)
    elements, size = _blocks()[ggml_type]
    flat = view_as(data, torch.uint8, (len(data),)).numpy()
    values = torch.empty(prod(shape))
    step = max(CHUNK // elements, 1) * size
    try:
        # Damaged blocks decode to NaN, which the users of tensors check for.
        with np.errstate(all="ignore"):
            for start in range(0, len(flat), step):
                decoded = gguf.dequantize(flat[None, start : start + step], kind)
                first = start // size * elements
                values[first : first + decoded.size] = torch.from_numpy(decoded[0])
    except NotImplementedError as error:
        raise CheckpointError(
            f"GGUF tensors of type {kind.name} cannot be decoded",
            advice="update the gguf package, or use another quantisation of the model",
        ) from error
    return values.view(shape)
