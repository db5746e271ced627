"""Quantisation schemes: quantised weights are read as float32 matrices.

Each scheme finds the tensors that together encode one matrix (packed integers, scales, zero
points) and replaces them by that matrix. Code above the loader sees plain matrices only.

The tensors decide whether a model is quantised; settings may be left over from an earlier form of
it, or lie in a file of their own, or be missing.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from huref.errors import CheckpointError, UnsupportedModelError
from huref.loader.quantized import (
    awq,
    bitnet,
    bitsandbytes,
    compressed_tensors,
    gptq,
    hqq,
    mlx,
    modelopt,
    mxfp4,
    quanto,
    scaled,
    torchao,
)
from huref.loader.quantized.scheme import EIGHT_BIT_FLOATS, Plain, Scheme, require
from huref.loader.tensors import Derived, DerivedTensors, TensorStore, renamed

SCHEMES: Mapping[str, Scheme] = {
    "gptq": gptq.scheme,
    "awq": awq.scheme,
    "auto-round": gptq.scheme,
    "bitsandbytes": bitsandbytes.scheme,
    "fp8": scaled.scheme,
    "fbgemm_fp8": scaled.scheme,
    "modelopt": modelopt.scheme,
    "compressed-tensors": compressed_tensors.scheme,
    "mxfp4": mxfp4.scheme,
    "mlx": mlx.scheme,
    "bitnet": bitnet.scheme,
    "hqq": hqq.scheme,
    "quanto": quanto.scheme,
    "torchao": torchao.scheme,
}
# Other spellings of a method's name in configs.
_ALIASES = {
    "autoround": "auto-round", "auto_round": "auto-round", "intel/auto-round": "auto-round",
    "compressed_tensors": "compressed-tensors", "nvfp4": "modelopt", "modelopt_fp4": "modelopt",
    "modelopt_mixed": "modelopt", "gptqmodel": "gptq", "marlin": "gptq", "gptq_marlin": "gptq",
    "awq_marlin": "awq", "gpt-oss-mxfp4": "mxfp4",
}  # fmt: skip
# Endings of tensors by which a method is known where the config does not name it; the first that
# a store has decides. None: a method that huref does not read, by its name.
_SIGNS: tuple[tuple[re.Pattern[str], str, str | None], ...] = (
    (re.compile(r"\.quant_state\.bitsandbytes__\w+$|\.SCB$"), "bitsandbytes", "bitsandbytes"),
    (re.compile(r"\.weight_packed$"), "compressed-tensors", "compressed-tensors"),
    (re.compile(r"\.q_scale_max$|\.q_group_map$|\.q_groups$"), "EXL2", None),
    (re.compile(r"\.trellis$"), "EXL3", None),
    (re.compile(r"\.codebooks$"), "AQLM", None),
    (re.compile(r"\.Qidxs(?:_\d+)?$"), "QuIP#", None),
    (re.compile(r"\.centroids(?:\.weight)?$"), "VPTQ", None),
    (re.compile(r"\.qweight$"), "gptq", "gptq"),
    (re.compile(r"\.W_q$"), "hqq", "hqq"),
    (re.compile(r"\.weight\._data(?:\._data)?$"), "quanto", "quanto"),
    (re.compile(r"\._\w+_qdata$"), "torchao", "torchao"),
    (re.compile(r":_data$|\.weight_qdata$"), "an older torchao", None),
    (re.compile(r"_blocks$"), "mxfp4", "mxfp4"),
    (re.compile(r"\.scales$"), "mlx", "mlx"),
    (re.compile(r"(?:\.weight_scale_2|\.weight_scale|_scale_inv)$"), "modelopt", "modelopt"),
    (re.compile(r"\.weight_scales$"), "EETQ", None),
    (re.compile(r"\.(?:scale_weight|scale)$"), "fp8", "fp8"),
)
# The tensor with a matrix's numbers, by the forms that do not call it `weight`.
_PAYLOAD = re.compile(
    r"\.(?:qweight|weight_packed|W_q|weight\._data|_weight_qdata|q_weight|trellis)$|_blocks$"
)
PACKED = ("gptq", "awq")
MOST_LOOKED_AT = 200  # tensors, of which one block has a few dozen


def dequantise(
    store: TensorStore, settings: Mapping[str, Any] | None
) -> tuple[TensorStore, str | None]:
    """A store with plain matrices in place of quantised ones, and how they were quantised.

    Args:
        store: the stored tensors.
        settings: the model's `quantization_config`, or None for a model that has none.

    Raises:
        UnsupportedModelError: the quantisation method is not supported.
        CheckpointError: the settings or the tensors contradict the scheme.
    """
    _refuse_two_forms(store)
    method = str((settings or {}).get("quant_method", "")).lower()
    method = _ALIASES.get(method, method)
    seen, by_tensors = _method_of_tensors(store)
    if not method or (method not in SCHEMES and seen) or (seen and by_tensors is None):
        method = by_tensors or seen
    if by_tensors in ("mlx", "compressed-tensors", "bitsandbytes", "hqq", "quanto", "torchao"):
        method = by_tensors  # tensors of these methods have names of their own
    if by_tensors == "gptq" and method in PACKED:
        method = _packing_of(store, method)
    stated = str((settings or {}).get("quant_method", "")).lower()
    unknown = bool(stated) and _ALIASES.get(stated, stated) not in SCHEMES
    if unknown and (by_tensors == "mlx" or (not seen and _holds_integers(store))):
        raise _unsupported(stated[:60])
    if not method or (not seen and method != "bitnet"):
        if stated and settings and settings.keys() & {"weight_block_size", "config_groups"}:
            _refuse_floats_without_scales(store)
        return store, None  # settings that were left over
    scheme = SCHEMES.get(method)
    if scheme is None:
        raise _unsupported(seen or method)
    known = {} if unknown or settings is None else settings  # programs pass over unknown methods
    plain = scheme(store, known)
    if not plain.derive and by_tensors is not None and by_tensors != method:
        method = by_tensors  # the settings are another form's
        plain = SCHEMES[method](store, known)
    if not plain.derive:
        return store, None
    _refuse_plain(store, plain)
    names = [name for name in store.names if name not in plain.parts]

    def derive(name: str) -> Derived:
        if name in plain.derive:
            return plain.derive[name]()
        return Derived(
            renamed(store.entry(name), name), (name,), lambda parts: parts[0], by_rows=(True,)
        )

    return DerivedTensors(store, [*names, *plain.derive], derive), _describe(method, settings)


def _refuse_two_forms(store: TensorStore) -> None:
    """Raise CheckpointError for a matrix that is stored in two forms, such as plain and packed.

    Which of them runs depends on the settings, and on the program.
    """
    form_of: dict[str, str] = {}
    for name in store.names:
        if (match := _PAYLOAD.search(name)) is None:
            continue
        stem = name[: match.start()].removesuffix(".weight")
        others = (form_of.setdefault(stem, name), f"{stem}.weight", stem)
        for other in others:
            if other != name and other in store.names:
                raise _two_forms(name, other)


def _refuse_plain(store: TensorStore, plain: Plain) -> None:
    """Raise CheckpointError for a matrix of 16 bits or more that has scales, or a packed copy."""
    for name in plain.derive:
        if name in store.names:
            entry = store.entry(name)
            is_column = len(entry.shape) == 2 and entry.shape[1] == 1  # bytes of bitsandbytes
            is_wide = entry.dtype.is_floating_point and entry.dtype.itemsize > 1
            if name not in plain.parts or (is_wide and not is_column):
                raise _two_forms(name, "scales beside it")


def _two_forms(name: str, other: str) -> CheckpointError:
    return CheckpointError(
        f"the files hold it quantised and not quantised ({other[:200]}), and programs differ in "
        "which of the two they run",
        tensor=name[:200],
        advice="save the model again, in one form",
    )


def _unsupported(method: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"its weights are quantised by {method}, which huref cannot read; supported: "
        f"{', '.join(SCHEMES)}",
        advice="give the model that it was quantised from, or a GGUF file of it",
    )


def _packing_of(store: TensorStore, method: str) -> str:
    """Whether integers are packed along the inputs, as GPTQ does, or along the outputs, as AWQ."""
    stem = next((name[: -len(".qweight")] for name in store.names if name.endswith(".qweight")), "")
    if stem + ".scales" not in store.names:
        return method
    packed, scales = store.entry(stem + ".qweight").shape, store.entry(stem + ".scales").shape
    if len(packed) != 2 or len(scales) != 2:
        return method
    if packed[1] == scales[1]:
        return "gptq" if method == "awq" else method
    return "awq" if packed[1] * 8 == scales[1] and method == "gptq" else method


def _holds_integers(store: TensorStore) -> bool:
    """Whether some of the first tensors are matrices of integers, which plain weights are not."""
    for name in list(store.names)[:MOST_LOOKED_AT]:
        entry = store.entry(name)
        is_integer = not entry.dtype.is_floating_point and not entry.dtype.is_complex
        if is_integer and entry.dtype != torch.bool and len(entry.shape) > 1:
            return True
    return False


def _refuse_floats_without_scales(store: TensorStore) -> None:
    """Raise CheckpointError for a matrix of 8-bit floats where settings have scales for blocks."""
    for name in store.names:
        entry = store.entry(name)
        require(
            entry.dtype not in EIGHT_BIT_FLOATS or len(entry.shape) < 2,
            entry,
            "has no scale, which its quantization_config says it has",
            scaled.SAVE_AGAIN,
        )


def _method_of_tensors(store: TensorStore) -> tuple[str, str | None]:
    """The method by which tensors are quantised, as people call it and as huref does."""
    names = {"." + ".".join(name.split(".")[-3:]) for name in store.names}
    for pattern, title, method in _SIGNS:
        if any(pattern.search(name) for name in names):
            if title == "mlx" and not mlx.find_stems(store):
                continue
            if (
                title == "modelopt"
                and bitnet.scheme(store, {}).derive
                and not modelopt.find_stems(store)
            ):
                return "bitnet", "bitnet"
            if title == "fp8" and not scaled.scheme(store, {}).derive:
                continue
            return title, method
    return "", None


def _describe(method: str, settings: Mapping[str, Any] | None) -> str:
    """A scheme in a few words: its name, and the widths where the settings give any."""
    values = settings or {}
    bits = values.get("bits", values.get("w_bit"))
    algorithm = values.get("quant_algo") or values.get("format") or values.get("mode")
    if isinstance(algorithm, str) and method in ("modelopt", "compressed-tensors", "mlx"):
        method = f"{method} {algorithm[:40]}"
    others = sorted({width for width in _widths_of_modules(values) if width != bits})[:4]
    told = " and ".join(map(str, others))
    if type(bits) is not int:
        return f"{method}, {told} bits" if others else method
    return f"{method}, {bits} bits" + (f", {told} in some modules" if others else "")


def _widths_of_modules(settings: Mapping[str, Any]) -> Iterator[int]:
    """The widths that GPTQ's, MLX's and compressed-tensors' settings state for some modules."""
    for stated in (settings, settings.get("dynamic"), settings.get("config_groups")):
        for own in stated.values() if isinstance(stated, Mapping) else ():
            weights = own.get("weights", own) if isinstance(own, Mapping) else None
            if isinstance(weights, Mapping):
                width = weights.get("bits", weights.get("num_bits"))
                if type(width) is int:
                    yield width


def named_method(settings: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from config.json with the name of their method.

    Args:
        settings: `quantization_config`, `compression_config` or MLX's `quantization`.
        beside: settings from a file beside config.json, with `quant_method`; or nothing.
    """
    if "quant_method" in settings:
        return {**beside, **settings}
    if "bits" in settings and "group_size" in settings and "config_groups" not in settings:
        return {**settings, "quant_method": beside.get("quant_method", "mlx")}
    if settings.keys() & {"config_groups", "sparsity_config", "format"}:
        return {**beside, "quant_method": "compressed-tensors", **settings}
    return {**beside, **settings}


__all__ = ["SCHEMES", "Plain", "dequantise", "named_method"]
