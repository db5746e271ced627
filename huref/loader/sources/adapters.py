"""LoRA, rsLoRA and DoRA adapters in PEFT's layout, merged into their base.

W' = W + s B A, with s = lora_alpha / r, or lora_alpha / sqrt(r) for rsLoRA (arXiv 2312.03732).
DoRA (arXiv 2402.09353) then scales each output to its learned magnitude m: W'' = m W' / |W'|.
Modules listed in PEFT's modules_to_save replace those of the base.
"""

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from huref.errors import CheckpointError, HurefError, UnsupportedModelError, locating
from huref.files import as_path
from huref.loader.contents import Contents
from huref.loader.repository import LocalFolder, Repository, read_json
from huref.loader.sources.adapter_tensors import Delta, SideBySide, find_deltas
from huref.loader.stored_tensors import StoredTensors
from huref.loader.tensors import Derived, DerivedTensors, TensorStore, renamed
from huref.loader.vocabulary import Token

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
GIVE_BASE = "give its base with --base"
GIVE_RIGHT_BASE = "give the base that it was trained on with --base"


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

    @staticmethod
    def is_in(repository: Repository) -> bool:
        """Whether a repository holds an adapter and no complete model."""
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
        """The model that the adapter is merged into.

        Raises:
            CheckpointError: the adapter names no base, or a path on the user's machine although
                the adapter comes from the Hub.
            HurefError: the base cannot be opened; the subclass says why.
        """
        name = self._base_name or declared_base(self.repository)
        if not isinstance(name, str) or not name:
            raise CheckpointError(
                "the adapter names no base model",
                model=self.repository.model,
                file=CONFIG,
                advice="give one with --base",
            )
        if not self._base_name and isinstance(self.repository, LocalFolder):
            _require_near(name, self.repository)
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

    @cached_property
    def tensors(self) -> TensorStore:
        """The base's tensors after merging; those that the adapter changes are float32.

        Raises:
            UnsupportedModelError: the adapter is not of type LoRA.
            CheckpointError: the adapter does not fit its base.
        """
        kind = self.settings.get("peft_type", "LORA")
        if kind != "LORA":
            raise UnsupportedModelError(
                f"adapters of type {str(kind)[:40]!r} cannot be read, only LORA",
                model=self.repository.model,
                file=CONFIG,
            )
        file = next(name for name in WEIGHTS if name in self.repository.files)
        stored = StoredTensors(self.repository, [file])
        both = SideBySide(self.base.tensors, stored)
        with locating(model=self.repository.model, file=file):
            deltas = {
                self._target(module, delta): delta
                for module, delta in find_deltas(stored.names).items()
            }
        return DerivedTensors(
            both, self.base.tensors.names, lambda name: self._derive(both, name, deltas.get(name))
        )

    def _target(self, module: str, delta: Delta) -> str:
        """Name of the base's tensor that a module of the adapter changes."""
        names = self.base.tensors.names
        wanted = module + ".weight" if delta.a else module
        if wanted in names:
            return wanted
        # The adapter may have been trained on the same model with another prefix of its names.
        matches = [n for n in names if wanted.endswith("." + n) or n.endswith("." + wanted)]
        if len(matches) == 1:
            return matches[0]
        if not delta.a:  # an additional tensor, such as a classification head
            return wanted
        raise CheckpointError(
            f"the adapter changes '{wanted}', which its base does not have", advice=GIVE_RIGHT_BASE
        )

    def _scale(self, module: str, rank: int) -> float:
        alpha = self.settings.get("lora_alpha", 8)
        patterns = self.settings.get("alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise CheckpointError(
                "its alpha_pattern is not a mapping of modules to numbers",
                model=self.repository.model,
                file=CONFIG,
            )
        for pattern, value in patterns.items():
            if module.endswith(str(pattern).removeprefix("^")):
                alpha = value
        is_number = isinstance(alpha, int | float) and abs(alpha) < 1e30  # and not NaN
        if not is_number or rank <= 0:
            raise CheckpointError(
                f"lora_alpha is {str(alpha)[:40]!r} for '{module}' and the rank is {rank}",
                model=self.repository.model,
                file=CONFIG,
            )
        return float(alpha) / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

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
            transposed = bool(self.settings.get("fan_in_fan_out"))
        elif shape[::-1] == info.shape and b.shape[1] == a.shape[0]:
            transposed = True
        else:
            raise CheckpointError(
                f"the delta of '{name}', of shape {list(b.shape)} times {list(a.shape)}, does not "
                f"fit the base's shape {list(info.shape)}",
                model=self.repository.model,
                file=a.file,
                advice=GIVE_RIGHT_BASE,
            )
        scale = self._scale(name.removesuffix(".weight"), a.shape[0])

        def combine(parts: list[Tensor]) -> Tensor:
            change = scale * (parts[1].float() @ parts[2].float())
            weight = parts[0].float() + (change.T if transposed else change)
            if len(parts) == 4:
                norm = weight.norm(dim=0 if transposed else 1)
                factor = parts[3].float().flatten() / norm
                weight = weight * (factor if transposed else factor[:, None])
            return weight

        sources = (start, delta.b, delta.a, *((delta.magnitude,) if delta.magnitude else ()))
        by_rows = None if transposed else (True, True, False, True)[: len(sources)]
        return Derived(info, sources, combine, by_rows=by_rows)


def _require_near(name: str, repository: LocalFolder) -> None:
    """Check that the path of a declared base does not lead to any place of the machine.

    Allowed are folders below the adapter's own, beside it, and below the current one.

    Raises:
        CheckpointError: the adapter names a path elsewhere.
    """
    path = as_path(name)
    if not path.exists():  # a Hub id
        return
    own = repository.path.resolve()
    near = (own, own.parent, Path.cwd())
    if not any(path.resolve().is_relative_to(folder) for folder in near):
        raise CheckpointError(
            f"it names as its base '{name}', a path outside the adapter's folder, its neighbours "
            "and the current folder, which is not opened for it",
            model=repository.model,
            file=CONFIG,
            advice=GIVE_BASE,
        )


def declared_base(repository: Repository) -> object:
    """The base that an adapter names, unchecked; a path relative to its folder is made absolute."""
    name = read_json(repository, CONFIG).get("base_model_name_or_path")
    if isinstance(name, str) and name and isinstance(repository, LocalFolder):
        relative = repository.path / name
        if not Path(name).exists() and relative.exists():
            return str(relative)
    return name
