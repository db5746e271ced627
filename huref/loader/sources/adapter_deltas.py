"""Adapters beside LoRA that PEFT merges into a matrix: AdaLoRA, LoHa, LoKr, VeRA and IA3.

AdaLoRA (arXiv 2303.10512): W' = W + s B diag(E) A.
LoHa (arXiv 2108.06098): W' = W + s (A1 B1) * (A2 B2), the last product elementwise.
LoKr (arXiv 2309.14859): W' = W + s kron(K1, K2), each a matrix or a product of two.
VeRA (arXiv 2310.11454): W' = W + diag(b) B diag(d) A, with one A and one B for all modules.
IA3 (arXiv 2205.05638): each output, or each input, is multiplied by a number.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from huref.errors import CheckpointError
from huref.loader.sources.adapter_merge import GIVE_RIGHT_BASE, Merge
from huref.loader.sources.adapter_tensors import SideBySide
from huref.loader.tensors import Derived, renamed

Shape = tuple[int, ...]
IA3 = "ia3_l"
# A tensor by which a kind is known -> the kind, as PEFT's peft_type.
_KIND_OF = {
    "lora_E": "ADALORA", "hada_w1_a": "LOHA", "lokr_w1": "LOKR", "lokr_w1_a": "LOKR",
    "vera_lambda_b": "VERA", IA3: "IA3",
}  # fmt: skip
_NEEDED = {
    "ADALORA": ("lora_A", "lora_B", "lora_E"),
    "LOHA": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    "VERA": ("vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B"),
    "IA3": (IA3,),
}


def kind_of(roles: Mapping[str, str]) -> str:
    """The kind of an adapter by the tensors of one module; "" for LoRA."""
    return next((kind for role, kind in _KIND_OF.items() if role in roles), "")


def merge_other(both: SideBySide, merge: Merge) -> Derived:
    """A matrix, or for IA3 also a bias, as such an adapter changes it.

    Raises:
        CheckpointError: tensors are missing, or do not fit the base's.
    """
    info = renamed(both.entry(merge.start), merge.name)
    roles = dict(merge.others)
    kind = kind_of(roles)
    shapes = {role: both.entry(name).shape for role, name in merge.others}
    wanted = info.shape[::-1] if merge.weight_transposed else info.shape
    if kind == "IA3":
        fits = _scales(shapes[IA3], wanted)
    else:
        fits = len(wanted) == 2 and _product_shape(kind, shapes, wanted) == wanted
    if not fits:
        listed = ", ".join(f"{role} {list(shape)}" for role, shape in shapes.items())
        raise CheckpointError(
            f"what it has for '{merge.name}' ({listed}) does not fit the base's shape "
            f"{list(info.shape)}",
            advice=GIVE_RIGHT_BASE,
        )

    def combine(parts: list[Tensor], rows: Sequence[int] | None) -> Tensor:
        given = dict(zip(roles, (part.float() for part in parts[1:]), strict=True))
        chosen = slice(None) if rows is None else list(rows)
        weight = parts[0].float()
        if kind == "IA3":
            factors = given[IA3].flatten() if weight.dim() == 1 else given[IA3]
            factors = factors.T if merge.weight_transposed else factors
            return weight * (factors[chosen] if len(factors) > 1 else factors)
        delta = _product(kind, given, wanted)
        delta = delta.T if merge.weight_transposed else delta
        return weight + merge.scale * delta[chosen]

    return Derived(
        info,
        (merge.start, *roles.values()),
        lambda parts: combine(parts, None),
        by_rows=(True, *(False for _ in roles)),
        combine_rows=combine,
    )


def require_complete(module: str, roles: Mapping[str, str]) -> None:
    """Raise CheckpointError where a module lacks a tensor of its kind."""
    kind = kind_of(roles)
    if kind == "LOKR":
        absent = [] if _has_factor(roles, 1) and _has_factor(roles, 2) else ["lokr_w1 or lokr_w2"]
    else:
        absent = [role for role in _NEEDED.get(kind, ("lora_E",)) if role not in roles]
    if "vera_A" in absent or "vera_B" in absent:
        raise CheckpointError(
            "its file lacks VeRA's random matrices (save_projection=False), which PEFT makes anew "
            "from a seed",
            advice="merge it with PEFT's merge_and_unload and give the merged model",
        )
    if absent:
        raise CheckpointError(
            f"the adapter lacks {absent[0]} of '{module}'",
            tensor=next(iter(roles.values())).removeprefix("+"),
            advice="save the adapter again with PEFT",
        )


def _has_factor(roles: Mapping[str, str], number: int) -> bool:
    stem = f"lokr_w{number}"
    return stem in roles or (f"{stem}_a" in roles and f"{stem}_b" in roles)


def _scales(shape: Shape, wanted: Shape) -> bool:
    """Whether IA3's numbers are one for each output or for each input of a matrix."""
    if len(wanted) == 1:
        return shape in (wanted, (*wanted, 1))
    return len(wanted) == 2 and shape in ((wanted[0], 1), (1, wanted[1]))


def _times(a: Shape | None, b: Shape | None) -> Shape | None:
    """The shape of a product of two matrices; None where they do not fit."""
    if a is None or b is None or len(a) != 2 or len(b) != 2 or a[1] != b[0]:
        return None
    return a[0], b[1]


def _product_shape(kind: str, shapes: Mapping[str, Shape], wanted: Shape) -> Shape | None:
    """The shape of the delta that an adapter's tensors make, or None where they make none."""
    match kind:
        case "ADALORA":
            rank = shapes["lora_A"][:1]
            return (
                _times(shapes["lora_B"], shapes["lora_A"])
                if shapes["lora_E"] == (*rank, 1)
                else None
            )
        case "LOHA":
            first = _times(shapes["hada_w1_a"], shapes["hada_w1_b"])
            return first if first == _times(shapes["hada_w2_a"], shapes["hada_w2_b"]) else None
        case "LOKR":
            factors = [_kronecker_shape(shapes, number) for number in (1, 2)]
            if any(factor is None or len(factor) != 2 for factor in factors):
                return None
            (a, b), (c, d) = (factor for factor in factors if factor is not None)
            return a * c, b * d
    outputs, rank = shapes["vera_lambda_b"], shapes["vera_lambda_d"]
    down, up = shapes["vera_A"], shapes["vera_B"]
    fits = len(down) == len(up) == 2 and len(outputs) == len(rank) == 1
    if not fits or down[:1] != rank or up[1:] != rank or up[0] < outputs[0]:
        return None
    return outputs[0], min(down[1], wanted[1])  # A has the columns of the largest module


def _kronecker_shape(shapes: Mapping[str, Shape], number: int) -> Shape | None:
    stem = f"lokr_w{number}"
    return shapes.get(stem) or _times(shapes.get(f"{stem}_a"), shapes.get(f"{stem}_b"))


def _product(kind: str, given: Mapping[str, Tensor], wanted: Shape) -> Tensor:
    """The delta, before its scale."""
    match kind:
        case "ADALORA":
            return given["lora_B"] @ (given["lora_A"] * given["lora_E"])
        case "LOHA":
            first = given["hada_w1_a"] @ given["hada_w1_b"]
            return first * (given["hada_w2_a"] @ given["hada_w2_b"])
        case "LOKR":
            return torch.kron(_factor(given, 1), _factor(given, 2))
    outputs, inputs = wanted
    b = given["vera_lambda_b"][:, None] * given["vera_B"][:outputs]
    return b @ (given["vera_lambda_d"][:, None] * given["vera_A"][:, :inputs])


def _factor(given: Mapping[str, Tensor], number: int) -> Tensor:
    stem = f"lokr_w{number}"
    return given[stem] if stem in given else given[f"{stem}_a"] @ given[f"{stem}_b"]
