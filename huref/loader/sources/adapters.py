"""LoRA, rsLoRA and DoRA in PEFT's layout: the base's weights plus the adapter's delta.

W' = W + s B A, with s = lora_alpha / r, or lora_alpha / sqrt(r) for rsLoRA (arXiv 2312.03732).
DoRA (arXiv 2402.09353) then scales each output so that its norm is the learned magnitude:
W'' = m W' / |W'|. Modules that were trained whole replace the base's.
"""

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from huref.errors import CheckpointError, HurefError, UnsupportedModelError
from huref.loader.contents import Contents
from huref.loader.repository import LocalFolder, Repository, read_json
from huref.loader.sources.adapter_tensors import Delta, SideBySide, find_deltas
from huref.loader.stored_tensors import StoredTensors
from huref.loader.tensors import Derived, DerivedTensors, TensorStore, renamed
from huref.loader.vocabulary import Token

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


class AdapterModel:
    """A base model seen through an adapter."""

    def __init__(self, repository: Repository, open_base: Callable[[str], Contents], base: str):
        self.repository = repository
        self._open_base = open_base
        self._base_name = base

    @staticmethod
    def is_in(repository: Repository) -> bool:
        """Whether a repository holds an adapter and no whole model."""
        if CONFIG not in repository.files:
            return False
        if repository.chosen is not None:
            return repository.chosen in WEIGHTS
        return any(w in repository.files for w in WEIGHTS) and not any(
            name.startswith(("model", "pytorch_model")) for name in repository.files
        )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """adapter_config.json."""
        return read_json(self.repository, CONFIG)

    @cached_property
    def base(self) -> Contents:
        """The model that the adapter was trained on.

        Raises:
            CheckpointError: the adapter names none, or one that is not to be followed.
            HurefError: another subclass says why the base cannot be opened.
        """
        name = self._base_name or declared_base(self.repository)
        if not isinstance(name, str) or not name:
            raise CheckpointError(
                f"{self.repository.model}: {CONFIG} names no base model; give one with --base"
            )
        if not self._base_name and self.repository.revision and Path(name).expanduser().exists():
            raise CheckpointError(
                f"{self.repository.model}: the adapter comes from the Hub and names '{name}', "
                "which is a path on this machine; it is not followed; give its base with --base"
            )
        try:
            return self._open_base(name)
        except HurefError as error:
            raise type(error)(
                f"{self.repository.model} is an adapter of '{name}': {error}; "
                "give its base with --base"
            ) from error

    @property
    def config(self) -> dict[str, Any]:
        """The base's."""
        return self.base.config

    @property
    def vocabulary(self) -> list[Token]:
        """The base's; an adapter's own tokenizer may only add to it."""
        return self.base.vocabulary

    @cached_property
    def tensors(self) -> TensorStore:
        """The base's tensors with the delta added; those that it changes are float32.

        Raises:
            UnsupportedModelError: an adapter of another type than LoRA.
            CheckpointError: it does not fit its base.
        """
        kind = self.settings.get("peft_type", "LORA")
        if kind != "LORA":
            raise UnsupportedModelError(
                f"{self.repository.model}: adapters of type {kind!r} cannot be read, only LORA"
            )
        file = next(name for name in WEIGHTS if name in self.repository.files)
        stored = StoredTensors(self.repository, [file])
        both = SideBySide(self.base.tensors, stored)
        deltas = {
            self._target(module, delta): delta
            for module, delta in find_deltas(stored.names, file).items()
        }
        return DerivedTensors(
            both, self.base.tensors.names, lambda name: self._derive(both, name, deltas.get(name))
        )

    def _target(self, module: str, delta: Delta) -> str:
        """The base's tensor that a module of the adapter changes."""
        names = self.base.tensors.names
        wanted = module + ".weight" if delta.a else module
        if wanted in names:
            return wanted
        # The base may have been published with a shorter or longer prefix.
        near = [n for n in names if wanted.endswith("." + n) or n.endswith("." + wanted)]
        if len(near) == 1:
            return near[0]
        if not delta.a:  # such as a classifier's head, which the base does not have
            return wanted
        raise CheckpointError(
            f"{self.repository.model}: the adapter changes '{wanted}', which its base does not "
            "have; give its real base with --base"
        )

    def _scale(self, module: str, rank: int) -> float:
        alpha = self.settings.get("lora_alpha", 8)
        for pattern, value in (self.settings.get("alpha_pattern") or {}).items():
            if module.endswith(str(pattern).removeprefix("^")):
                alpha = value
        if not isinstance(alpha, int | float) or rank <= 0:
            raise CheckpointError(
                f"{self.repository.model}: {CONFIG} has lora_alpha = {alpha!r}, which is no number"
            )
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    def _derive(self, both: SideBySide, name: str, delta: Delta | None) -> Derived:
        if delta is None:
            return Derived(both.entry(name), (name,), lambda parts: parts[0], by_rows=(True,))
        start = delta.replacement or name
        info = renamed(both.entry(start), name)
        if not delta.a:
            return Derived(info, (start,), lambda parts: parts[0], by_rows=(True,))
        a, b = both.entry(delta.a), both.entry(delta.b)
        shape = (b.shape[0], a.shape[-1]) if len(a.shape) == len(b.shape) == 2 else ()
        if shape == info.shape and b.shape[1] == a.shape[0] and "embedding" not in delta.a:
            turned = bool(self.settings.get("fan_in_fan_out"))
        elif shape[::-1] == info.shape and b.shape[1] == a.shape[0]:
            turned = True
        else:
            raise CheckpointError(
                f"{a.file}: the delta of '{name}' ({list(b.shape)} times {list(a.shape)}) does "
                f"not fit the base's {list(info.shape)}; give its real base with --base"
            )
        scale = self._scale(name.removesuffix(".weight"), a.shape[0])

        def combine(parts: list[Tensor]) -> Tensor:
            change = scale * (parts[1].float() @ parts[2].float())
            weight = parts[0].float() + (change.T if turned else change)
            if len(parts) == 4:
                norm = weight.norm(dim=0 if turned else 1)
                factor = parts[3].float().flatten() / norm
                weight = weight * (factor if turned else factor[:, None])
            return weight

        sources = (start, delta.b, delta.a, *((delta.magnitude,) if delta.magnitude else ()))
        by_rows = None if turned else (True, True, False, True)[: len(sources)]
        return Derived(info, sources, combine, by_rows=by_rows)


def declared_base(repository: Repository) -> object:
    """What an adapter says its base is; a relative path may be meant from its own folder."""
    name = read_json(repository, CONFIG).get("base_model_name_or_path")
    if isinstance(name, str) and name and isinstance(repository, LocalFolder):
        beside = repository.path / name
        if not Path(name).exists() and beside.exists():
            return str(beside)
    return name
