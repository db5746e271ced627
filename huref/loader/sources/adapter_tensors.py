"""What an adapter's tensors are, by their names: PEFT's, or those of MLX-LM and MLX-VLM.

PEFT writes `base_model.model.MODULE.lora_A.weight`. Files that were saved without PEFT's own
function also hold the adapter's name: `MODULE.lora_A.default.weight`. Names of an adapter's
tensors are prefixed with "+" to tell them from the base's.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from huref.errors import CheckpointError, UnsupportedModelError
from huref.loader.sources.adapter_names import FRAMEWORK_WORDS
from huref.loader.tensors import TensorInfo, TensorStore

ROOT = "base_model.model."
_LORA = re.compile(
    r"(?P<module>.+?)\.(?P<kind>lora_A|lora_B|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)(?:\.(?P<adapter>(?!weight$|bias$).+?))?(?:\.(?P<end>weight|bias))?"
)
_TOKENS = re.compile(
    r"(?P<module>.+?)\.(?:token_adapter\.)?trainable_tokens_(?P<kind>delta|original)"
    r"(?:\.(?P<adapter>.+))?"
)
_SAVED = re.compile(r"\.(?:modules_to_save|ln_tuning_layers)\.(?:(?P<adapter>[^.]+)\.)?(?=[^.]+$)")
# Tensors of other adapters than LoRA (see `adapter_deltas`); VeRA's matrices are shared.
_OTHER = re.compile(
    r"(?P<module>.+?)\.(?P<role>lora_E|hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|ia3_l"
    r"|vera_lambda_[bd])(?:\.(?P<adapter>.+))?"
)
_SHARED = re.compile(r"(?:.+\.)?(?P<role>vera_[AB])(?:\.(?P<adapter>[^.]+))?")
_MLX = re.compile(r"(?P<module>.+)\.(?P<kind>lora_a|lora_b|m|A|B)")
_EMBEDDING = re.compile(
    r"(?:.+\.)?(?:embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|embeddings?)"
)
_MLX_KINDS = {"lora_a": "a", "A": "a", "lora_b": "b", "B": "b", "m": "magnitude"}
_KINDS = {
    "lora_A": "a", "lora_B": "b", "lora_embedding_A": "a", "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude",
}  # fmt: skip
_OF_DIFFUSERS = re.compile(r"\blora_(?:down|up)\b|^lora_(?:te|unet)\d?_|\.lora\.(?:down|up)\.")
INERT = (".base_layer", ".token_adapter", ".original_module")


@dataclass
class Module:
    """What an adapter has for one module of its base; "" for what it lacks.

    Attributes:
        a, b: the LoRA factors.
        magnitude: DoRA's magnitude vector.
        tokens: rows that replace those of some tokens.
        embedding: the factors are those of an embedding.
        others: role -> tensor, of an adapter of another kind than LoRA.
    """

    a: str = ""
    b: str = ""
    magnitude: str = ""
    tokens: str = ""
    embedding: bool = False
    others: dict[str, str] = field(default_factory=dict)

    def put(self, role: str, name: str) -> list[tuple[str, str]]:
        """Note a tensor under its role; both names where there is one already."""
        is_field = role in ("a", "b", "magnitude", "tokens")
        other = getattr(self, role) if is_field else self.others.get(role, "")
        if is_field:
            setattr(self, role, name)
        else:
            self.others[role] = name
        return [(other, name)] if other else []


@dataclass
class Parsed:
    """An adapter's tensors.

    Attributes:
        modules: module -> what changes it. The factors of the parameters of one module (PEFT's
            target_parameters) are told apart by `.base_layer` at the module's end.
        replaced: tensor of the base -> the adapter's tensor that replaces it.
        unused: tensors that change no weight of a matrix: LoRA biases, and copies of the base's.
    """

    modules: dict[str, Module] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    def tensors(self) -> list[str]:
        """The tensors that change the base."""
        found = list(self.replaced.values())
        for parts in self.modules.values():
            found += [parts.a, parts.b, parts.magnitude, parts.tokens, *parts.others.values()]
        return [name for name in found if name]


def parse_peft(names: Iterable[str]) -> Parsed:
    """The tensors of a file in PEFT's layout.

    Raises:
        CheckpointError: the file holds several adapters, a tensor twice, or one LoRA factor without
            the other.
    """
    parsed = Parsed()
    adapters: set[str] = set()
    shared: dict[str, str] = {}
    twice: list[tuple[str, str]] = []
    is_saved: dict[str, bool] = {}
    for name in names:
        target = _without_root(name)
        if _OF_DIFFUSERS.search(target):
            raise UnsupportedModelError(
                "its tensors have the names of kohya's or diffusers' LoRA, not PEFT's",
                tensor=name[:200],
                advice="convert it to PEFT's names (lora_A, lora_B), or merge it and give the "
                "merged model",
            )
        if match := _LORA.fullmatch(target):
            adapters.add(match["adapter"] or "")
            if match["end"] == "bias":
                parsed.unused.append(name)
                continue
            module = parsed.modules.setdefault(match["module"], Module())
            twice += module.put(_KINDS[match["kind"]], name)
            module.embedding |= "embedding" in match["kind"]
        elif match := _TOKENS.fullmatch(target):
            adapters.add(match["adapter"] or "")
            if match["kind"] == "original":
                parsed.unused.append(name)
            else:
                module = parsed.modules.setdefault(match["module"], Module())
                twice += module.put("tokens", name)
        elif match := _SHARED.fullmatch(target):
            twice += [(shared[match["role"]], name)] if match["role"] in shared else []
            shared[match["role"]] = name
        elif match := _OTHER.fullmatch(target):
            adapters.add(match["adapter"] or "")
            module = parsed.modules.setdefault(match["module"], Module())
            twice += module.put(match["role"], name)
        elif ".original_module." in target:
            parsed.unused.append(name)
        else:
            saved = _SAVED.search(target)
            if match := saved:
                adapters.add(match["adapter"] or "")
                target = _SAVED.sub(".", target)
            for inert in INERT:
                target = target.replace(inert + ".", ".")
            # Of a vocabulary that grew, PEFT also saves the module that was not trained.
            if target in parsed.replaced and is_saved[target] == bool(saved):
                twice.append((parsed.replaced[target], name))
            if bool(saved) >= is_saved.get(target, False):
                parsed.replaced[target], is_saved[target] = name, bool(saved)
    adapters -= {"", "default"} if len(adapters) <= 2 and "" in adapters else {""}
    if len(adapters) > 1:
        raise CheckpointError(
            f"it holds several adapters ({', '.join(sorted(adapters))})",
            advice="save one of them with PEFT's save_pretrained(selected_adapters=...)",
        )
    _require_once(twice)
    _require_pairs(parsed)
    for name, module in parsed.modules.items():
        if module.others:
            _complete(name, module, shared)
    return parsed


def _complete(module: str, parts: Module, shared: dict[str, str]) -> None:
    """Give a module of another kind than LoRA all its tensors under their roles."""
    if parts.magnitude or parts.tokens or parts.embedding:
        raise CheckpointError(
            f"it has tensors of two kinds of adapters for '{module}'",
            tensor=next(iter(parts.others.values())),
            advice="merge it with PEFT's merge_and_unload and give the merged model",
        )
    if "lora_E" in parts.others:
        parts.others |= {"lora_A": parts.a, "lora_B": parts.b}
    if "vera_lambda_b" in parts.others:
        parts.others |= shared
    parts.a = parts.b = ""


def parse_mlx(names: Iterable[str]) -> Parsed:
    """The tensors of a file that MLX-LM or MLX-VLM wrote.

    Raises:
        CheckpointError: there is one LoRA factor without the other.
    """
    parsed = Parsed()
    twice: list[tuple[str, str]] = []
    for name in names:
        match = _MLX.fullmatch(name)
        if match is None:
            parsed.replaced[name] = name
            continue
        module = match["module"].removesuffix(".lora")
        parts = parsed.modules.setdefault(module, Module())
        parts.embedding = bool(_EMBEDDING.fullmatch(module))
        twice += parts.put(_MLX_KINDS[match["kind"]], name)
    _require_once(twice)
    _require_pairs(parsed)
    return parsed


def two_for_one(one: str, other: str, place: str = "") -> CheckpointError:
    """The error for two tensors of an adapter that change one of its base: `place`, if known."""
    of = f"'{place[:200]}'" if place else "one place"
    return CheckpointError(
        f"the adapter has two tensors for {of}, this and '{one[:200]}'",
        tensor=other[:200],
        advice="keep the one that was trained, or save the adapter again with PEFT",
    )


def _require_once(twice: list[tuple[str, str]]) -> None:
    if twice:
        raise two_for_one(*twice[0])


def _without_root(name: str) -> str:
    name = FRAMEWORK_WORDS.sub("", name)
    while name.startswith(ROOT):
        name = name.removeprefix(ROOT)
    return name


def _require_pairs(parsed: Parsed) -> None:
    for module, parts in parsed.modules.items():
        if bool(parts.a) != bool(parts.b) or (parts.magnitude and not parts.a):
            raise CheckpointError(
                f"the adapter lacks one of the two LoRA factors of '{module}'",
                tensor=parts.a or parts.b or parts.magnitude,
                advice="save the adapter again with PEFT's save_pretrained",
            )


class SideBySide:
    """A store of the base's tensors and of the adapter's, whose names are prefixed with "+"."""

    def __init__(self, base: TensorStore, adapter: TensorStore):
        self.base = base
        self.adapter = adapter

    @property
    def names(self) -> list[str]:
        """See TensorStore."""
        return [*self.base.names, *(f"+{name}" for name in self.adapter.names)]

    def _split(self, name: str) -> tuple[TensorStore, str]:
        return (self.adapter, name[1:]) if name.startswith("+") else (self.base, name)

    def entry(self, name: str) -> TensorInfo:
        """See TensorStore."""
        store, inner = self._split(name)
        return store.entry(inner)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """See TensorStore."""
        wanted = list(names)
        own = self.adapter.read(name[1:] for name in wanted if name.startswith("+"))
        tensors = self.base.read(name for name in wanted if not name.startswith("+"))
        return {**tensors, **{f"+{name}": tensor for name, tensor in own.items()}}

    def read_rows(self, name: str, rows: Sequence[int]) -> Tensor:
        """See TensorStore."""
        store, inner = self._split(name)
        return store.read_rows(inner, rows)

    def read_sample(self, name: str, lines: int) -> Tensor:
        """See TensorStore."""
        store, inner = self._split(name)
        return store.read_sample(inner, lines)
