"""Experts stored in another form than their family's usual one: stacked, or one by one.

transformers 5 stacks the experts of every mixture in memory, quantisers split stacks into single
matrices, and MLX stacks gate and up by themselves. The arithmetic of a layout stays; only where
its experts' matrices are found changes.
"""

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from huref.architecture.block_tensors import two_tensors
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

    Raises:
        CheckpointError: they are stored in two forms, of which a program runs only one.
    """
    experts = layout.experts
    if experts is None:
        return layout
    find = _Finder(layout, prefix, names)
    found: dict[tuple[str, str], Experts] = {}
    for form in (experts, *_forms(experts)):
        down, up = find(form.down), find(form.gate_up or form.up)
        if down is not None and up is not None:
            found.setdefault((down, up), form)
    if not found:
        return layout
    own, *others = found
    if others:
        pairs = zip(own, others[0], strict=True)
        raise two_tensors(*next(pair for pair in pairs if pair[0] != pair[1]))
    experts = found[own]
    stored = _orientation(experts, find, shape, width)
    return replace(layout, experts=replace(experts, stored=stored or experts.stored))


class _Finder:
    """Finds some block's tensor of a name in a layout."""

    def __init__(self, layout: Layout, prefix: str, names: Collection[str]):
        pattern = re.escape(prefix + layout.block)
        start = re.compile(pattern.replace(r"\{i\}", r"\d+").replace(r"\{s\}", r"\w+"))
        self._by_rest: dict[str, str] = {}
        for name in sorted(names):
            if found := start.match(name):
                self._by_rest.setdefault(name[found.end() :], name)

    def __call__(self, alternatives: Names) -> str | None:
        for name in alternatives:
            one = name.replace("{e}", "0")
            if "{s}" not in one and one in self._by_rest:
                return self._by_rest[one]
            if "{s}" in one:
                pattern = re.compile(re.escape(one).replace(r"\{s\}", r"\w+"))
                for rest, found in self._by_rest.items():
                    if pattern.fullmatch(rest):
                        return found
        return None


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
