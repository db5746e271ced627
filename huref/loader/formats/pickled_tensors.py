"""Descriptions of the objects in a state dict's pickle: names, storages, tensors.

Unpickling builds only these descriptions. A `Name` is never imported, and a `TensorView` is a
position in a storage whose bytes are not read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from huref.errors import CheckpointError, UnsupportedModelError


@dataclass(frozen=True)
class Name:
    """A global that the pickle refers to, such as torch._utils._rebuild_tensor_v2."""

    module: str
    name: str


@dataclass(frozen=True)
class Storage:
    """A storage, which tensors are views of; `count` is in elements."""

    key: str
    dtype: torch.dtype | None  # None: untyped bytes
    count: int


@dataclass(frozen=True)
class TensorView:
    """A tensor as a view of a storage; offset and stride are in elements."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Inert:
    """Stands for an object that no tensor needs. It holds nothing and does nothing."""


INERT = Inert()


def is_passed_over(name: Name) -> bool:
    """Whether a name is that of a class whose objects may lie beside a state dict."""
    if name.module in ("builtins", "__builtin__"):
        return name.name in _PLAIN_TYPES
    if (name.module, name.name) in (("_codecs", "encode"), ("collections", "defaultdict")):
        return True
    return name.module.split(".")[0] in _PASSED_OVER


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
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
# Packages whose objects training scripts leave beside a state dict: arguments, settings, counters.
# Such an object is never made; an Inert stands in its place.
_PASSED_OVER = frozenset({
    "accelerate", "argparse", "axolotl", "datetime", "deepspeed", "fairseq", "hydra",
    "lightning", "lightning_fabric", "llamafactory", "megatron", "nemo", "numpy", "omegaconf",
    "pathlib", "peft", "pytorch_lightning", "swift", "transformers", "trl", "typing", "unsloth",
})  # fmt: skip
_PLAIN_TYPES = frozenset({
    "bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "long", "object",
    "range", "set", "slice", "str", "tuple",
})  # fmt: skip
LARGEST_KEY = 2**61 - 2  # Python hashes larger numbers to the same values
VALUES = ("data", "real", "imag")  # attributes of a tensor that write its values
MAX_AXES = 16  # of a tensor; no weight has more than five


def refusal(why: str) -> CheckpointError:
    """The error for a pickle that is refused; `why` is a clause with the pickle as its subject."""
    return CheckpointError(
        f"its pickle {why}; nothing was executed",
        advice="save the state dict alone, or as safetensors",
    )


def is_dtype(name: Name) -> bool:
    """Whether a name is one of torch's dtypes."""
    # Not getattr: torch imports some of its submodules when they are first accessed.
    return name.module == "torch" and isinstance(vars(torch).get(name.name), torch.dtype)


def _tensor_dtype(name: Any) -> torch.dtype:
    if isinstance(name, Name) and is_dtype(name):
        dtype = getattr(torch, name.name)
        assert isinstance(dtype, torch.dtype)
        return dtype
    raise refusal("has a tensor with an unknown dtype")


def _view(storage: Any, offset: Any, shape: Any, stride: Any, dtype: Any = None) -> TensorView:
    if not isinstance(storage, Storage):
        raise refusal("has a tensor without a storage")
    sizes = (offset, *shape, *stride) if len(shape) == len(stride) <= MAX_AXES else (-1,)
    if not all(type(n) is int and 0 <= n < 2**62 for n in sizes):
        raise refusal("has a tensor whose shape, stride or offset is not valid")
    of_type = storage.dtype if dtype is None else _tensor_dtype(dtype)
    if of_type is None:
        raise refusal("has a tensor without a dtype")
    return TensorView(storage, of_type, offset, tuple(shape), tuple(stride))


def require_key(key: Any) -> None:
    """Raise CheckpointError for a dict key that is not plain, or whose hash can be chosen."""
    is_number = isinstance(key, int) and abs(key) <= LARGEST_KEY
    if not (is_number or isinstance(key, str | bytes | float | Name | Inert) or key is None):
        raise refusal("has a dict key that is not a plain value")


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    """collections.OrderedDict of a list of pairs."""
    made = {}
    for key, value in sequence(pairs):
        require_key(key)
        made[key] = value
    return made


def sequence(items: Any = ()) -> Any:
    """The argument of a constructor of lists, tuples or sets; not a text, which has items, too."""
    if not isinstance(items, tuple | list):
        raise refusal("makes a sequence of something other than a list")
    return items


def _rebuild(
    storage: Any, offset: Any, shape: Any, stride: Any, _g: Any, _h: Any, metadata: Any = None
) -> TensorView:
    _require_plain_values(metadata)
    return _view(storage, offset, shape, stride)


def _rebuild_of_dtype(
    storage: Any, offset: Any, shape: Any, stride: Any, _g: Any, _h: Any, dtype: Any,
    metadata: Any = None,
) -> TensorView:  # fmt: skip
    _require_plain_values(metadata)
    return _view(storage, offset, shape, stride, dtype)


def _require_plain_values(metadata: Any) -> None:
    """Check that a tensor's values are those in its storage: torch negates them by a bit."""
    if isinstance(metadata, dict) and (metadata.get("neg") or metadata.get("conj")):
        raise refusal("has a tensor whose stored values are to be negated or conjugated")


def _with_state(tensor: Any, _gradient: Any, _hooks: Any, state: Any = None) -> Any:
    """A parameter with attributes; torch sets each, and `data` would replace the values."""
    for attributes in state if isinstance(state, tuple) else (state,):
        if isinstance(attributes, dict) and not attributes.keys().isdisjoint(VALUES):
            raise refusal("has a tensor whose values are replaced by an attribute")
    return tensor


def _of_subclass(function: Any, _type: Any, arguments: Any, state: Any = None, *_: Any) -> Any:
    """A tensor of a subclass, or one with attributes: what its own builder describes."""
    # No other builder: one that copies its arguments could copy a long list any number of times.
    is_tensor = isinstance(function, Name) and function.name.startswith("_rebuild_tensor")
    if is_tensor and function in BUILDERS and isinstance(arguments, tuple):
        return _with_state(BUILDERS[function](*arguments), None, None, state)
    raise quantised_by("a tensor subclass")


def quantised_by(package: str) -> UnsupportedModelError:
    """The error for weights that a package saved as objects of its own."""
    return UnsupportedModelError(
        f"its weights are objects of {package}, which hold quantised numbers in a form of its own",
        advice="give the model that it was quantised from, or a GGUF file of it",
    )


# Names that pickles of tensor subclasses mention; nothing is made of them.
MENTIONED = (
    Name("torch._utils", "_rebuild_wrapper_subclass"),
    Name("torch", "Tensor"),
    Name("torch.nn.parameter", "Parameter"),
)
QUANTISERS = ("torchao", "bitsandbytes", "optimum", "hqq", "quanto")
# What the instruction REDUCE may call; no function of torch is among them.
BUILDERS: Builders = {
    Name("torch._tensor", "_rebuild_from_type_v2"): _of_subclass,
    Name("collections", "OrderedDict"): _dict,
    Name("torch._utils", "_rebuild_tensor"): lambda s, o, shape, stride: _view(s, o, shape, stride),
    Name("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    Name("torch._utils", "_rebuild_tensor_v3"): _rebuild_of_dtype,
    Name("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    Name("torch._utils", "_rebuild_parameter_with_state"): _with_state,
    Name("torch", "Size"): lambda sizes=(): tuple(sequence(sizes)),
    Name("torch", "device"): lambda *_: None,
}


def is_storage_key(key: Any) -> bool:
    """Whether a value can be the key of a storage: a text or a number."""
    return isinstance(key, str) or (type(key) is int and abs(key) <= LARGEST_KEY)


def describe_storage(persistent: Any) -> Storage:
    """A storage from its persistent id: "storage", type, key, location and number of elements.

    Raises:
        CheckpointError: the persistent id has another form, or the type is unknown.
    """
    if not (isinstance(persistent, tuple) and len(persistent) >= 5 and persistent[0] == "storage"):
        raise refusal("describes a storage in an unknown way")
    kind, key, _location, count = persistent[1:5]
    is_part_of_another = len(persistent) > 5 and persistent[5] is not None
    if not isinstance(kind, Name) or type(count) is not int or is_part_of_another:
        raise refusal("describes a storage in an unknown way")
    dtype = DTYPES.get(kind.name)
    if dtype is None and kind.name != "UntypedStorage":
        raise refusal(f"has a storage of the unknown type {kind.name[:200]}")
    if not 0 <= count < 2**62 or not is_storage_key(key):
        raise refusal("has a storage whose size or key is not valid")
    return Storage(str(key), dtype, count)


def state_dict(value: Any, file: str) -> dict[str, TensorView]:
    """The tensors of an unpickled state dict, which may be under a usual key of a checkpoint.

    Raises:
        CheckpointError: there are no tensors.
    """
    for candidate in (value, *(_child(value, key) for key in ("state_dict", "model", "module"))):
        if isinstance(candidate, dict):
            tensors = {str(k): v for k, v in candidate.items() if isinstance(v, TensorView)}
            if tensors:
                return tensors
    raise CheckpointError(
        "it has no tensors by name", file=file, advice="save the model's state dict"
    )


def _child(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None
