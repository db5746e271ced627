"""Experts stored in another form than their family's usual one: stacked, or one by one.

transformers 5 stacks the experts of every mixture in memory, quantisers split stacks into single
matrices, and MLX stacks gate and up by themselves. The arithmetic of a layout stays; only where
its experts' matrices are found changes.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from huref.architecture.layout import Experts, Layout, Names

Shape = Callable[[str], tuple[int, ...]]
STEMS = (
    "mlp.experts", "block_sparse_moe.experts", "feed_forward.experts", "ffn.experts",
    "mixer.experts", "experts",
)  # fmt: skip
_ROLES = (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2"), ("gate", "up", "down"))


def as_stored(
    layout: Layout, prefix: str, names: Collection[str], shape: Shape, width: int
) -> Layout:
    """A layout whose experts are found in the form in which the checkpoint stores them.

    Args:
        layout: the model's layout.
        prefix: what precedes every name.
        names: the names of all tensors.
        shape: a tensor's shape, by its name.
        width: size of the residual stream.
    """
    experts = layout.experts
    if experts is None:
        return layout
    find = _Finder(layout, prefix, names)
    if not _is_there(experts, find):
        others = (form for form in _forms(experts) if _is_there(form, find))
        found = next(others, None)
        if found is None:
            return layout
        experts = found
    stored = _orientation(experts, find, shape, width)
    return replace(layout, experts=replace(experts, stored=stored or experts.stored))


class _Finder:
    """Finds some block's tensor of a name in a layout."""

    def __init__(self, layout: Layout, prefix: str, names: Collection[str]):
        start = re.escape(prefix + layout.block)
        self._start = start.replace(r"\{i\}", r"\d+").replace(r"\{s\}", r"\w+")
        self._candidates = [name for name in names if re.match(self._start, name)]

    def __call__(self, alternatives: Names) -> str | None:
        for name in alternatives:
            pattern = re.escape(name).replace(r"\{e\}", "0").replace(r"\{s\}", r"\w+")
            compiled = re.compile(self._start + pattern)
            for candidate in self._candidates:
                if compiled.fullmatch(candidate):
                    return candidate
        return None


def _is_there(form: Experts, find: _Finder) -> bool:
    return find(form.down) is not None and find(form.gate_up or form.up) is not None


def _forms(experts: Experts) -> Iterator[Experts]:
    """The forms in which experts may be stored."""
    gated = bool(experts.gate or experts.gate_up)

    def form(stacked: str, split: str = "contiguous", **names: str) -> Experts:
        alternatives = {role: (name, f"{name}.weight") for role, name in names.items()}
        if not gated:
            alternatives.pop("gate", None)
        return replace(
            experts,
            stacked=stacked,
            stored="out_in",
            down_stored="as_stored",
            split=split,
            gate=alternatives.get("gate", ()),
            up=alternatives.get("up", ()),
            gate_up=alternatives.get("gate_up", ()),
            gate_up_adapter=(),
            down=alternatives["down"],
        )

    for stem in dict.fromkeys([*map(_stem, experts.down), *STEMS]):
        for gate, up, down in _ROLES:
            single = f"{stem}.{{e}}"
            yield form("no", gate=f"{single}.{gate}", up=f"{single}.{up}", down=f"{single}.{down}")
            yield form("leading", gate=f"{stem}.{gate}", up=f"{stem}.{up}", down=f"{stem}.{down}")
        for name in (f"{single}.gate_up_proj", f"{stem}.gate_up_projs.{{e}}"):
            down = name.replace("gate_up", "down")
            yield form("no", experts.split, gate_up=name, down=down)
        yield form(
            "leading", experts.split, gate_up=f"{stem}.gate_up_proj", down=f"{stem}.down_proj"
        )
        switch = stem.removesuffix("experts") + "switch_mlp"
        for gate, up, down in (*_ROLES, ("", "fc1", "fc2")):
            yield form(
                "leading", gate=f"{switch}.{gate}", up=f"{switch}.{up}", down=f"{switch}.{down}"
            )


def _stem(down: str) -> str:
    """The module of the experts, from the name of their down projection."""
    if ".{e}." in down:
        return down.partition(".{e}.")[0]
    module = down.removesuffix(".weight").rpartition(".")[0]
    return module if module.endswith("experts") else f"{module}.experts"


def _orientation(experts: Experts, find: _Finder, shape: Shape, width: int) -> str | None:
    """How a stack's matrices are stored, by their shapes; None where these do not tell."""
    if experts.stacked != "leading":
        return None
    for alternatives, reads in ((experts.gate_up or experts.up, True), (experts.down, False)):
        name = find(alternatives)
        sizes = shape(name) if name is not None else ()
        if len(sizes) != 3 or (sizes[-1] == width) == (sizes[-2] == width):
            continue
        is_linear = (sizes[-1] == width) == reads
        return "out_in" if is_linear else "in_out"
    return None
