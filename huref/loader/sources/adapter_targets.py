"""Which tensor of its base each tensor of an adapter changes, and how."""

from collections.abc import Iterable
from functools import lru_cache

from huref.errors import CheckpointError
from huref.loader.contents import Contents
from huref.loader.sources.adapter_deltas import IA3, kind_of, require_complete
from huref.loader.sources.adapter_merge import Merge, experts_by_themselves
from huref.loader.sources.adapter_names import BaseNames, in_block, is_beside_language_model
from huref.loader.sources.adapter_settings import MlxSettings, PeftSettings
from huref.loader.sources.adapter_tensors import Module, Parsed, two_for_one
from huref.loader.tensors import TensorStore

GIVE_RIGHT_BASE = "give the base that it was trained on with --base"
# Model types whose linear layers are stored (in, out), as transformers' Conv1D.
CONV1D = ("gpt2", "openai-gpt", "decision_transformer", "imagegpt")
# Model types whose stacked experts are (experts, in, out) to PEFT.
TRANSPOSED_EXPERTS = ("gpt_oss", "aria", "aria_text")
# Parameters of a module in the order in which modules define them.
_ORDER = ("gate_up", "gate", "w1", "up", "w3", "down", "w2")
# Tensors whose first axis is the rank of a module's factors.
_RANKED = ("lora_A", "hada_w1_b", "lokr_w1_b", "lokr_w2_b")


class Changes:
    """What an adapter does to its base: base tensor -> merge; and what it passes over."""

    def __init__(self) -> None:
        self.merges: dict[str, Merge] = {}
        self.passed_over: list[str] = []


class Resolver:
    """Finds for each tensor of an adapter the tensor of its base that it changes."""

    def __init__(
        self,
        base: Contents,
        adapter: TensorStore,
        settings: PeftSettings | MlxSettings,
        is_mlx: bool,
    ):
        self._base = base
        self._adapter = adapter
        self._settings = settings
        self._is_mlx = is_mlx
        self._full = base.full_names
        self._names = BaseNames(self._full)
        model_type = base.config.get("model_type")
        self._is_conv1d = model_type in CONV1D
        self._experts_transposed = model_type in TRANSPOSED_EXPERTS
        self._changes = Changes()

    def resolve(self, parsed: Parsed) -> Changes:
        """Everything that the adapter changes.

        Raises:
            CheckpointError: a tensor changes what the base does not have.
        """
        if not (parsed.modules or parsed.replaced or parsed.unused):
            raise CheckpointError(
                "the adapter's file holds no tensors",
                advice="save the adapter again with PEFT's save_pretrained",
            )
        factors = [parts for parts in parsed.modules.values() if parts.a]
        if factors:
            self._settings.require_magnitudes(any(parts.magnitude for parts in factors))
            self._require_all_magnitudes(parsed)
        self._require_numbers(parsed)
        self._require_trained(parsed)
        self._changes.passed_over += parsed.unused
        replacements = self._replacements(parsed)
        stacks: dict[str, list[tuple[str, Module]]] = {}
        for module, parts in parsed.modules.items():
            stem = module
            while stem.endswith(".base_layer"):
                stem = stem.removesuffix(".base_layer")
            target = self._names.find(stem + ".weight") if stem == module else None
            if target is None and self._is_parameters(stem):
                stacks.setdefault(stem, []).append((module, parts))
            elif target is None and is_beside_language_model(stem + ".weight"):
                self._pass_over(parts)
            elif target is None:
                raise CheckpointError(
                    f"the adapter changes '{stem}.weight', which its base does not have",
                    advice=GIVE_RIGHT_BASE,
                )
            else:
                self._add(target, module, parts, replacements.pop(target, None))
        for stem, found in stacks.items():
            self._resolve_stack(stem, sorted(found, key=lambda item: -len(item[0])))
        for target, name in replacements.items():
            exposed = self._full[target]
            if exposed is None:
                self._changes.passed_over.append(name)
            else:
                self._require_shape(exposed, name)
                self._put(Merge(exposed, start=f"+{name}"))
        return self._changes

    def _put(self, merge: Merge) -> None:
        """Note a merge; one tensor of the base is changed once."""
        if (other := self._changes.merges.get(merge.name)) is not None:
            one, two = (m.others[0][1] if m.others else m.a or m.start for m in (other, merge))
            raise two_for_one(one.removeprefix("+"), two.removeprefix("+"), merge.name)
        self._changes.merges[merge.name] = merge

    def _require_numbers(self, parsed: Parsed) -> None:
        """Raise CheckpointError for an adapter's tensor of integers, which is no weight."""
        for name in parsed.tensors():
            entry = self._adapter.entry(name)
            if not entry.dtype.is_floating_point:
                raise CheckpointError(
                    f"it has the type {str(entry.dtype).removeprefix('torch.')}, which an "
                    "adapter's weights cannot have",
                    tensor=name,
                )

    def _require_all_magnitudes(self, parsed: Parsed) -> None:
        """Raise CheckpointError where only some modules have DoRA's magnitudes."""
        with_factors = {name: parts for name, parts in parsed.modules.items() if parts.a}
        lacking = [name for name, parts in with_factors.items() if not parts.magnitude]
        if 0 < len(lacking) < len(with_factors):
            raise CheckpointError(
                f"the adapter lacks DoRA's magnitude of '{lacking[0]}', unlike others",
                tensor=with_factors[lacking[0]].a,
                advice="save the adapter again with PEFT's save_pretrained",
            )

    def _require_trained(self, parsed: Parsed) -> None:
        """Raise CheckpointError for modules that were trained, but of which nothing is saved.

        PEFT loads such a file with a warning and leaves the base's weights as they are.
        """
        is_whole = any("embed" in name for name in parsed.replaced)
        is_lost = not is_whole and not any(parts.tokens for parts in parsed.modules.values())
        if self._settings.with_tokens and is_lost:
            raise CheckpointError(
                "it has trainable_token_indices, but its file holds no trained tokens",
                advice="save the adapter again with PEFT's save_pretrained",
            )
        in_base = _endings(name.removesuffix(".weight") for name in self._full)
        held = _endings([*parsed.modules, *(name.rpartition(".")[0] for name in parsed.replaced)])
        for key in ("target_modules", "modules_to_save"):
            for name in self._settings.trained(key):
                if name in in_base and name not in held:
                    raise CheckpointError(
                        f"its {key} name '{name[:60]}', but its file holds no tensor of it",
                        advice="save the adapter again with PEFT's save_pretrained",
                    )

    def _require_shape(self, exposed: str, name: str) -> None:
        """Raise CheckpointError for a tensor that replaces one of another shape; rows may differ.

        A vocabulary may have grown, so that embeddings and output head have more rows.
        """
        own, base = self._adapter.entry(name).shape, self._base.tensors.entry(exposed).shape
        may_grow = len(base) == 2 and not in_block(exposed)
        if own != base and (not may_grow or own[1:] != base[1:] or not own[0]):
            raise CheckpointError(
                f"it has the shape {list(own)}, but '{exposed}' of its base has {list(base)}",
                tensor=name,
                advice=GIVE_RIGHT_BASE,
            )

    def _replacements(self, parsed: Parsed) -> dict[str, str]:
        """Full name of a tensor of the base -> the adapter's tensor that replaces it."""
        found: dict[str, str] = {}
        for wanted, name in parsed.replaced.items():
            target = self._names.find(wanted)
            if target is not None:
                if target in found:
                    raise two_for_one(found[target], name, target)
                found[target] = name
            elif wanted.endswith(".bias") or is_beside_language_model(wanted):
                self._changes.passed_over.append(name)
            else:
                raise CheckpointError(
                    f"the adapter replaces '{wanted}', which its base does not have",
                    tensor=name,
                    advice=GIVE_RIGHT_BASE,
                )
        return found

    def _pass_over(self, parts: Module) -> None:
        names = (parts.a, parts.b, parts.magnitude, parts.tokens, *parts.others.values())
        self._changes.passed_over += [name for name in names if name]

    def _add(self, target: str, module: str, parts: Module, replacement: str | None) -> None:
        exposed = self._full[target]
        if exposed is None:  # a part beside the language model
            self._pass_over(parts)
            return
        if parts.others:
            start = f"+{replacement}" if replacement else exposed
            self._add_other(exposed, target, module, parts, start)
            return
        rank = self._adapter.entry(parts.a).shape if parts.a else (0, 0)
        if self._is_mlx and len(rank) == 2:
            rank = rank[::-1]
        number = rank[-2] if len(rank) >= 2 else 0
        self._put(
            Merge(
                exposed,
                start=f"+{replacement}" if replacement else exposed,
                a=parts.a and f"+{parts.a}",
                b=parts.b and f"+{parts.b}",
                magnitude=parts.magnitude and f"+{parts.magnitude}",
                tokens=parts.tokens and f"+{parts.tokens}",
                token_ids=tuple(self._settings.token_ids(module)) if parts.tokens else (),
                scale=self._settings.scale(module, number) if parts.a else 0.0,
                factors_transposed=self._is_mlx and len(rank) == 2,
                weight_transposed=parts.embedding
                or (self._is_conv1d and not module.endswith("lm_head")),
                by_row=self._is_mlx,
                start_of_factors=self._settings.start
                if parts.a and not parts.embedding
                else "true",
            )
        )

    def _add_other(self, exposed: str, target: str, module: str, parts: Module, start: str) -> None:
        """The change of an adapter of another kind than LoRA; of IA3 also that of the bias."""
        require_complete(module, parts.others)
        kind = kind_of(parts.others)
        factor = next((parts.others[role] for role in _RANKED if role in parts.others), None)
        shape = self._adapter.entry(factor).shape if factor else ()
        scale = self._settings.scale_of_kind(kind, module, shape[0] if shape else None)
        others = tuple((role, f"+{name}") for role, name in parts.others.items())
        turned = self._is_conv1d and not module.endswith("lm_head")
        self._put(Merge(exposed, start=start, scale=scale, weight_transposed=turned, others=others))
        bias = self._full.get(target.removesuffix(".weight") + ".bias")
        rows = self._base.tensors.entry(exposed).shape
        numbers = self._adapter.entry(parts.others[IA3]).shape if kind == "IA3" else ()
        outputs = (rows[-1] if turned else rows[0]) if rows else 0
        if bias and numbers == (outputs, 1):
            self._put(Merge(bias, start=bias, others=others))

    def _is_parameters(self, stem: str) -> bool:
        return bool(self._parameters(stem)) or bool(self._single_experts(stem))

    @lru_cache  # noqa: B019 - lives as long as the resolver does
    def _prefix(self, stem: str) -> str:
        """How the base's files write the name of a module that holds several tensors."""
        for probe in (".gate_up_proj", ".down_proj", ".gate_proj", ".0.down_proj.weight",
                      ".0.w2.weight"):  # fmt: skip
            for other in dict.fromkeys((stem, stem.replace(".mlp.", ".block_sparse_moe."))):
                if (found := self._names.find(other + probe)) is not None:
                    return found.removesuffix(probe)
        return stem

    def _parameters(self, stem: str) -> list[str]:
        """The base's parameters of a module that target_parameters names, in their order."""
        prefix = self._prefix(stem) + "."
        found = [
            name
            for name in self._full
            if name.startswith(prefix)
            and "." not in name.removeprefix(prefix)
            and self._settings.is_target_parameter(f"{stem}.{name.removeprefix(prefix)}")
        ]
        return sorted(found, key=_order)

    def _single_experts(self, stem: str) -> list[str]:
        """The experts' matrices of a module whose experts the base's files store one by one."""
        targets = [
            parameter
            for parameter in ("gate_up_proj", "down_proj")
            if self._settings.is_target_parameter(f"{stem}.{parameter}")
        ]
        prefix = self._prefix(stem)
        return [t for t in targets if experts_by_themselves(prefix, t, self._full)]

    def _resolve_stack(self, stem: str, found: list[tuple[str, Module]]) -> None:
        """The factors of a module's parameters: the innermost belong to the first parameter."""
        stacked = self._parameters(stem)
        singles = [] if stacked else self._single_experts(stem)
        for module, parts in found:
            rank_in, out_rank = (
                self._adapter.entry(parts.a).shape,
                self._adapter.entry(parts.b).shape,
            )
            if len(rank_in) != 2 or len(out_rank) != 2 or rank_in[0] != out_rank[1]:
                raise CheckpointError(
                    f"the LoRA factors of '{module}', {list(out_rank)} and {list(rank_in)}, do "
                    "not fit together",
                    tensor=parts.a,
                )
            size = (rank_in[1], out_rank[0])
            if singles:
                self._add_single_experts(stem, module, parts, singles, size)
                continue
            target = next((t for t in stacked if self._fits(t, size)), None)
            if target is None:
                raise CheckpointError(
                    f"the delta of '{module}', from {size[0]} to {size[1]} features, fits none of "
                    f"the base's parameters {', '.join(stacked) or 'there'}",
                    advice=GIVE_RIGHT_BASE,
                )
            stacked.remove(target)
            exposed = self._full[target]
            if exposed is None:
                self._pass_over(parts)
                continue
            shape = self._base.tensors.entry(exposed).shape
            square = shape[-1] == shape[-2]
            transposed = self._experts_transposed if square else shape[-2:] == size
            count = shape[0] if len(shape) == 3 else 1
            self._require_experts(module, rank_in[0], count)
            self._put(
                Merge(
                    exposed,
                    start=exposed,
                    a=f"+{parts.a}",
                    b=f"+{parts.b}",
                    scale=self._settings.scale(stem, rank_in[0] // count),
                    weight_transposed=transposed,
                    experts=count if len(shape) == 3 else 0,
                )
            )

    def _require_experts(self, module: str, rows: int, count: int) -> None:
        if count <= 0 or rows % count or rows < count:
            raise CheckpointError(
                f"the {rows} rows of the first LoRA factor of '{module}' do not divide among "
                f"{count} experts",
                advice=GIVE_RIGHT_BASE,
            )

    def _fits(self, name: str, size: tuple[int, int]) -> bool:
        exposed = self._full[name]
        shape = self._base.tensors.entry(exposed).shape if exposed else ()
        return len(shape) in (2, 3) and (shape[-2:] == size or shape[-2:] == size[::-1])

    def _add_single_experts(
        self, stem: str, module: str, parts: Module, singles: list[str], size: tuple[int, int]
    ) -> None:
        prefix = self._prefix(stem)
        if not singles:
            raise CheckpointError(
                f"'{module}' has more LoRA factors than its target_parameters name",
                advice=GIVE_RIGHT_BASE,
            )
        parameter = singles.pop(0)
        experts = experts_by_themselves(prefix, parameter, self._full)
        rows = self._adapter.entry(parts.a).shape[0]
        self._require_experts(module, rows, len(experts))
        for index, names in enumerate(experts):
            height = size[1] // len(names)
            for number, name in enumerate(names):
                exposed = self._full[name]
                if exposed is None or self._base.tensors.entry(exposed).shape != (height, size[0]):
                    raise CheckpointError(
                        f"the delta of '{module}', from {size[0]} to {size[1]} features, does "
                        f"not fit '{name}'",
                        advice=GIVE_RIGHT_BASE,
                    )
                self._put(
                    Merge(
                        exposed,
                        start=exposed,
                        a=f"+{parts.a}",
                        b=f"+{parts.b}",
                        scale=self._settings.scale(stem, rows // len(experts)),
                        expert=(index, len(experts)),
                        outputs=(number * height, (number + 1) * height),
                    )
                )


def _endings(modules: Iterable[str]) -> set[str]:
    """The last words of modules' names, up to six of them."""
    found: set[str] = set()
    for module in modules:
        words = module.rsplit(".", 6)[-6:]
        found.update(".".join(words[first:]) for first in range(len(words)))
    return found


def _order(name: str) -> tuple[int, str]:
    last = name.rpartition(".")[2]
    return next((i for i, word in enumerate(_ORDER) if last.startswith(word)), len(_ORDER)), last
