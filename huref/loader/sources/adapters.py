"""Adapters merged into their base: LoRA, rsLoRA, DoRA, trained tokens; PEFT's files and MLX's.

W' = W + s B A, with s = lora_alpha / r, or lora_alpha / sqrt(r) for rsLoRA (arXiv 2312.03732).
DoRA (arXiv 2402.09353) then scales each output to its learned magnitude m: W'' = m W' / |W'|.
Modules listed in PEFT's modules_to_save replace those of the base, and so do rows of an embedding
that were trained by themselves. PiSSA (arXiv 2404.02948) and OLoRA (arXiv 2406.01775) began with a
part of W in A and B, which is subtracted from W first.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from huref.errors import CheckpointError, HurefError, locating
from huref.files import as_path
from huref.loader.contents import Contents
from huref.loader.repository import LocalFolder, Repository, read_json
from huref.loader.sources.adapter_deltas import merge_other
from huref.loader.sources.adapter_merge import merge_experts, merge_matrix
from huref.loader.sources.adapter_names import is_beside_language_model
from huref.loader.sources.adapter_settings import MlxSettings, PeftSettings
from huref.loader.sources.adapter_targets import Resolver
from huref.loader.sources.adapter_tensors import SideBySide, parse_mlx, parse_peft
from huref.loader.stored_tensors import StoredTensors
from huref.loader.tensors import Derived, DerivedTensors, TensorStore
from huref.loader.vocabulary import Token
from huref.loader.vocabulary.encoder import TextEncoder

CONFIG = "adapter_config.json"
PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
MLX_WEIGHTS = "adapters.safetensors"
WEIGHTS = (*PEFT_WEIGHTS, MLX_WEIGHTS)
GIVE_BASE = "give its base with --base"
# A model's own files of weights, by the beginning of their names.
_MODEL_FILES = ("model", "pytorch_model", "consolidated")
_MODEL_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")
_HEAD_ONLY = 64 * 1024 * 1024  # bytes; a value head beside an adapter is smaller


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
        if "config.json" not in repository.files and "params.json" not in repository.files:
            return True  # weights of a model beside it could not be read
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
        if (kind := PeftSettings(self.settings).kind) not in ("LORA", "TRAINABLE_TOKENS"):
            return f"PEFT {kind} adapter"
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
            changes = Resolver(self.base, stored, settings, is_mlx).resolve(parsed)
        self._passed_over = changes.passed_over

        def derive(name: str) -> Derived:
            merge = changes.merges.get(name)
            if merge is None:
                return Derived(both.entry(name), (name,), lambda parts: parts[0], by_rows=(True,))
            with locating(model=self.repository.model, file=self.file):
                if merge.others:
                    return merge_other(both, merge)
                return merge_experts(both, merge) if merge.experts else merge_matrix(both, merge)

        return DerivedTensors(both, self.base.tensors.names, derive)


def refuse_beside_model(repository: Repository) -> None:
    """Raise CheckpointError for a folder with a model and an adapter.

    transformers runs the model with the adapter, or from the Hub the adapter's base with it; other
    programs run the model alone.
    """
    weights = [n for n in repository.files if n.startswith("adapter_model.") and "/" not in n]
    if repository.chosen is None and CONFIG in repository.files and weights:
        raise CheckpointError(
            f"it holds a model and an adapter, '{weights[0]}', which transformers runs with it and "
            "other programs do not",
            model=repository.model,
            advice="put the adapter into a folder of its own, with its adapter_config.json",
        )


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


def declared_base(repository: Repository) -> object:
    """The base that an adapter names, unchecked; a path relative to its folder is made absolute."""
    settings = read_json(repository, CONFIG)
    name = settings.get("base_model_name_or_path") or settings.get("model")
    if isinstance(name, str) and name and isinstance(repository, LocalFolder):
        relative = repository.path / name
        if not as_path(name).exists() and relative.exists():
            return str(relative)
    return name
