"""Adapters merged into their base: LoRA, rsLoRA, DoRA, trained tokens; PEFT's files and MLX's.

W' = W + s B A, with s = lora_alpha / r, or lora_alpha / sqrt(r) for rsLoRA (arXiv 2312.03732).
DoRA (arXiv 2402.09353) then scales each output to its learned magnitude m: W'' = m W' / |W'|.
Modules listed in PEFT's modules_to_save replace those of the base, and so do rows of an embedding
that were trained by themselves. PiSSA (arXiv 2404.02948) and OLoRA (arXiv 2406.01775) began with a
part of W in A and B, which is subtracted from W first.
"""

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from typing import Any

from huref.errors import CheckpointError, HurefError, locating
from huref.files import as_path
from huref.loader.contents import Contents
from huref.loader.repository import LocalFolder, Repository, read_json
from huref.loader.sources.adapter_merge import (
    Merge,
    experts_by_themselves,
    merge_experts,
    merge_matrix,
)
from huref.loader.sources.adapter_names import BaseNames, is_beside_language_model
from huref.loader.sources.adapter_settings import MlxSettings, PeftSettings
from huref.loader.sources.adapter_tensors import Module, Parsed, SideBySide, parse_mlx, parse_peft
from huref.loader.stored_tensors import StoredTensors
from huref.loader.tensors import Derived, DerivedTensors, TensorStore
from huref.loader.vocabulary import Token
from huref.loader.vocabulary.encoder import TextEncoder

CONFIG = "adapter_config.json"
PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
MLX_WEIGHTS = "adapters.safetensors"
WEIGHTS = (*PEFT_WEIGHTS, MLX_WEIGHTS)
GIVE_BASE = "give its base with --base"
GIVE_RIGHT_BASE = "give the base that it was trained on with --base"
# Model types whose linear layers are stored (in, out), as transformers' Conv1D.
CONV1D = ("gpt2", "openai-gpt", "decision_transformer", "imagegpt")
# Model types whose stacked experts are (experts, in, out) to PEFT.
TRANSPOSED_EXPERTS = ("gpt_oss", "aria", "aria_text")
# A model's own files of weights, by the beginning of their names.
_MODEL_FILES = ("model", "pytorch_model", "consolidated")
_MODEL_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")
_HEAD_ONLY = 64 * 1024 * 1024  # bytes; a value head beside an adapter is smaller
# Parameters of a module in the order in which modules define them.
_ORDER = ("gate_up", "gate", "w1", "up", "w3", "down", "w2")


class AdapterModel:
    """A base model with an adapter merged into it.

    Args:
        repository: the adapter's files.
        open_base: opens a model by name.
        base: the base to use instead of the one that the adapter names; "" for that one.
    """

    def __init__(self, repository: Repository, open_base: Callable[[str], Contents], base: str):
        self.repository = repository
        self._open_base = open_base
        self._base_name = base
        self._passed_over: list[str] = []

    @staticmethod
    def is_in(repository: Repository) -> bool:
        """Whether a repository holds an adapter and no complete model."""
        if CONFIG not in repository.files:
            return False
        if repository.chosen is not None:
            return repository.chosen in WEIGHTS
        if not any(name in repository.files for name in WEIGHTS):
            return False
        return not any(_is_model(repository, name) for name in repository.files)

    @cached_property
    def file(self) -> str:
        """The file with the adapter's weights."""
        chosen = self.repository.chosen
        if chosen in WEIGHTS:
            return chosen
        return next(name for name in WEIGHTS if name in self.repository.files)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """adapter_config.json."""
        return read_json(self.repository, CONFIG)

    @property
    def base_name(self) -> object:
        """The name of the base: the user's, or the one that the adapter states, unchecked."""
        return self._base_name or declared_base(self.repository)

    @cached_property
    def base(self) -> Contents:
        """The model that the adapter is merged into.

        Raises:
            CheckpointError: the adapter names no base, or a path on the user's machine although
                the adapter comes from the Hub.
            HurefError: the base cannot be opened; the subclass says why.
        """
        name = self.base_name
        if not isinstance(name, str) or not name:
            raise CheckpointError(
                "the adapter names no base model",
                model=self.repository.model,
                file=CONFIG,
                advice="give one with --base",
            )
        if not self._base_name and self.repository.revision and as_path(name).exists():
            raise CheckpointError(
                f"the adapter comes from the Hub and names as its base '{name}', a path on this "
                "machine, which is not opened for it",
                model=self.repository.model,
                file=CONFIG,
                advice=GIVE_BASE,
            )
        try:
            return self._open_base(name)
        except HurefError as error:
            error.model = f"{self.repository.model} (adapter of {error.model or name})"
            if error.advice is None:
                error.advice = GIVE_BASE
            elif not error.advice.endswith(GIVE_BASE):  # as from the adapter of an adapter
                error.advice += f"; {GIVE_BASE}"
            raise

    @property
    def config(self) -> dict[str, Any]:
        """The base's configuration."""
        return self.base.config

    @property
    def vocabulary(self) -> list[Token]:
        """The base's vocabulary; an adapter's own tokenizer can only add tokens to it."""
        return self.base.vocabulary

    @property
    def full_names(self) -> Mapping[str, str | None]:
        """See Contents; the base's."""
        return self.base.full_names

    @property
    def files(self) -> list[str]:
        """See Contents; the adapter's."""
        return [self.file]

    @property
    def format(self) -> str:
        """See Contents."""
        if self.file == MLX_WEIGHTS:
            return "MLX adapter"
        variant = "DoRA" if self.settings.get("use_dora") else "LoRA"
        return f"PEFT {'rs' if self.settings.get('use_rslora') else ''}{variant} adapter"

    @property
    def quantisation(self) -> str | None:
        """See Contents; the base's."""
        return self.base.quantisation

    @property
    def passed_over(self) -> list[str]:
        """The adapter's tensors that change nothing which is compared, in order of their names."""
        _ = self.tensors
        return sorted(self._passed_over)

    @property
    def encoder(self) -> TextEncoder | None:
        """The base's tokenizer."""
        return self.base.encoder

    @cached_property
    def tensors(self) -> TensorStore:
        """The base's tensors after merging; those that the adapter changes are float32.

        Raises:
            UnsupportedModelError: the adapter is of a kind that cannot be merged here.
            CheckpointError: the adapter does not fit its base.
        """
        with locating(model=self.repository.model, file=CONFIG):
            is_mlx = self.file == MLX_WEIGHTS
            settings = MlxSettings(self.settings) if is_mlx else PeftSettings(self.settings)
        stored = StoredTensors(self.repository, [self.file])
        both = SideBySide(self.base.tensors, stored)
        with locating(model=self.repository.model, file=self.file):
            parsed = parse_mlx(stored.names) if is_mlx else parse_peft(stored.names)
            changes = _Resolver(self.base, stored, settings, is_mlx).resolve(parsed)
        self._passed_over = changes.passed_over

        def derive(name: str) -> Derived:
            merge = changes.merges.get(name)
            if merge is None:
                return Derived(both.entry(name), (name,), lambda parts: parts[0], by_rows=(True,))
            with locating(model=self.repository.model, file=self.file):
                return merge_experts(both, merge) if merge.experts else merge_matrix(both, merge)

        return DerivedTensors(both, self.base.tensors.names, derive)


def _is_model(repository: Repository, name: str) -> bool:
    """Whether a file holds weights of a model, and not only those of a head beside an adapter."""
    if not name.startswith(_MODEL_FILES) or not name.endswith(_MODEL_ENDINGS) or "/" in name:
        return False
    if repository.files[name] > _HEAD_ONLY:
        return True
    try:
        names = StoredTensors(repository, [name]).names
    except HurefError:
        return True
    return not all(is_beside_language_model(tensor) for tensor in names)


class _Changes:
    """What an adapter does to its base: base tensor -> merge; and what it passes over."""

    def __init__(self) -> None:
        self.merges: dict[str, Merge] = {}
        self.passed_over: list[str] = []


class _Resolver:
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
        self._changes = _Changes()

    def resolve(self, parsed: Parsed) -> _Changes:
        """Everything that the adapter changes.

        Raises:
            CheckpointError: a tensor changes what the base does not have.
        """
        factors = [parts for parts in parsed.modules.values() if parts.a]
        if factors:
            self._settings.require_magnitudes(any(parts.magnitude for parts in factors))
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
                self._changes.merges[exposed] = Merge(exposed, start=f"+{name}")
        return self._changes

    def _replacements(self, parsed: Parsed) -> dict[str, str]:
        """Full name of a tensor of the base -> the adapter's tensor that replaces it."""
        found = {}
        for wanted, name in parsed.replaced.items():
            target = self._names.find(wanted)
            if target is not None:
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
        names = (parts.a, parts.b, parts.magnitude, parts.tokens)
        self._changes.passed_over += [name for name in names if name]

    def _add(self, target: str, module: str, parts: Module, replacement: str | None) -> None:
        exposed = self._full[target]
        if exposed is None:  # a part beside the language model
            self._pass_over(parts)
            return
        rank = self._adapter.entry(parts.a).shape if parts.a else (0, 0)
        if self._is_mlx and len(rank) == 2:
            rank = rank[::-1]
        number = rank[-2] if len(rank) >= 2 else 0
        self._changes.merges[exposed] = Merge(
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
            start_of_factors=self._settings.start if parts.a and not parts.embedding else "true",
        )

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
            self._changes.merges[exposed] = Merge(
                exposed,
                start=exposed,
                a=f"+{parts.a}",
                b=f"+{parts.b}",
                scale=self._settings.scale(stem, rank_in[0] // count),
                weight_transposed=transposed,
                experts=count if len(shape) == 3 else 0,
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
                self._changes.merges[exposed] = Merge(
                    exposed,
                    start=exposed,
                    a=f"+{parts.a}",
                    b=f"+{parts.b}",
                    scale=self._settings.scale(stem, rows // len(experts)),
                    expert=(index, len(experts)),
                    outputs=(number * height, (number + 1) * height),
                )


def _order(name: str) -> tuple[int, str]:
    last = name.rpartition(".")[2]
    return next((i for i, word in enumerate(_ORDER) if last.startswith(word)), len(_ORDER)), last


def declared_base(repository: Repository) -> object:
    """The base that an adapter names, unchecked; a path relative to its folder is made absolute."""
    settings = read_json(repository, CONFIG)
    name = settings.get("base_model_name_or_path") or settings.get("model")
    if isinstance(name, str) and name and isinstance(repository, LocalFolder):
        relative = repository.path / name
        if not as_path(name).exists() and relative.exists():
            return str(relative)
    return name
