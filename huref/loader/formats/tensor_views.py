"""What the pickle of a state dict describes: names, storages, and tensors that view them.

Descriptions are all that reading one can build: a name stands for what the pickle mentions and is
never imported, and a tensor is a place in a storage, whose bytes are not read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from huref.errors import CheckpointError


@dataclass(frozen=True)
class Name:
    """A name that the pickle mentions, such as torch._utils._rebuild_tensor_v2. Not an object."""

    module: str
    name: str


@dataclass(frozen=True)
class Storage:
    """A run of elements in the file, which tensors are views of."""

    key: str
    dtype: torch.dtype | None  # None: untyped bytes
    count: int


@dataclass(frozen=True)
class TensorView:
    """A tensor as torch describes it: where in a storage, in elements."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


Builders = Mapping[Name, Callable[..., Any]]

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MAX_AXES = 16  # of a tensor; no weight has more than five


def is_dtype(name: Name) -> bool:
    """Whether a name is that of one of torch's dtypes."""
    # Not getattr: some of torch's attributes are modules that it imports on first use.
    return name.module == "torch" and isinstance(vars(torch).get(name.name), torch.dtype)


def _tensor_dtype(name: Any) -> torch.dtype:
    if isinstance(name, Name) and is_dtype(name):
        dtype = getattr(torch, name.name)
        assert isinstance(dtype, torch.dtype)
        return dtype
    raise ValueError("a tensor's dtype is not one")


def _view(storage: Any, offset: Any, shape: Any, stride: Any, dtype: Any = None) -> TensorView:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without a storage")
    sizes = (offset, *shape, *stride) if len(shape) == len(stride) <= MAX_AXES else (-1,)
    if not all(type(n) is int and 0 <= n < 2**62 for n in sizes):
        raise ValueError("a tensor with a shape, stride or offset that are not sizes")
    of_type = storage.dtype if dtype is None else _tensor_dtype(dtype)
    if of_type is None:
        raise ValueError("a tensor without a dtype")
    return TensorView(storage, of_type, offset, tuple(shape), tuple(stride))


# What REDUCE may apply: each builds a description out of arguments, and none of them is torch's.
BUILDERS: Builders = {
    Name("collections", "OrderedDict"): lambda pairs=(): dict(pairs),
    Name("torch._utils", "_rebuild_tensor"): lambda s, o, shape, stride: _view(s, o, shape, stride),
    Name("torch._utils", "_rebuild_tensor_v2"): lambda s, o, shape, stride, *_: _view(
        s, o, shape, stride
    ),
    Name("torch._utils", "_rebuild_tensor_v3"): lambda s, o, shape, stride, _g, _h, dtype, *_: (
        _view(s, o, shape, stride, dtype)
    ),
    Name("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    Name("torch", "Size"): tuple,
    Name("torch", "device"): lambda *_: None,
}


def describe_storage(persistent: Any) -> Storage:
    """A storage, from what torch names it by: kind, key, location and number of elements.

    Raises:
        ValueError: it is described in another way, or has a type that torch has not.
    """
    if not (isinstance(persistent, tuple) and len(persistent) >= 5 and persistent[0] == "storage"):
        raise ValueError("a storage that is described in an unknown way")
    kind, key, _location, count = persistent[1:5]
    is_part_of_another = len(persistent) > 5 and persistent[5] is not None
    if not isinstance(kind, Name) or type(count) is not int or is_part_of_another:
        raise ValueError("a storage that is described in an unknown way")
    dtype = DTYPES.get(kind.name)
    if dtype is None and kind.name != "UntypedStorage":
        raise ValueError(f"a storage of type {kind.name}")
    if not 0 <= count < 2**62 or not isinstance(key, str | int):
        raise ValueError("a storage whose size or key is none")
    return Storage(str(key), dtype, count)


def state_dict(value: Any, file: str) -> dict[str, TensorView]:
    """The tensors of an unpickled state dict, or of one under a usual key of a checkpoint.

    Raises:
        CheckpointError: there are none.
    """
    for candidate in (value, *(_child(value, key) for key in ("state_dict", "model", "module"))):
        if isinstance(candidate, dict):
            tensors = {str(k): v for k, v in candidate.items() if isinstance(v, TensorView)}
            if tensors:
                return tensors
    raise CheckpointError(f"{file}: it holds no tensors by name; save the model's state dict")


def _child(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None
