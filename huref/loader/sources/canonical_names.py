"""The language model's tensors under the names that its architecture has, whatever wraps it.

Training frameworks put a word before all names (`_orig_mod.`, `module.`), a multimodal model puts
its language model under a name of its own, and a model with tied embeddings may be saved with its
output head alone. Names are told by the words in them, not by the config.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from huref.errors import CheckpointError, UnsupportedModelError
from huref.loader.sources.adapter_names import FRAMEWORK_WORDS, NEUTRAL, is_beside_language_model
from huref.loader.sources.wrappers import INNER
from huref.loader.tensors import Derived, DerivedTensors, TensorStore, renamed

# First words of the names in published checkpoints; anything else before all names is a wrapper's.
NATURAL = frozenset({
    "model", "transformer", "gpt_neox", "backbone", "embed_tokens", "layers", "norm", "lm_head",
    "wte", "h", "ln_f", "decoder", "embedding", "encoder", "tok_embeddings", "output", "blocks",
    "language_model", "text_model", "llm", "thinker", "word_embeddings", "mamba", "rwkv",
    "tokens_embed",
    "language_backbone", "embed_out", "embed_in", "final_layer_norm", "wpe", "embeddings",
})  # fmt: skip
_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer)\.\d+\.")
_BLOCKS = re.compile(r"(?:layers|h|blocks|layer)\.\d+\.")
_EMBEDDINGS = (
    "embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight",
    "tok_embeddings.weight", "tokens_embed.weight", "embedding.weight", "embeddings.weight",
    "embed.weight", "w.weight",
)  # fmt: skip
# What stands before the blocks' names -> the embedding's name there.
_EMBEDDING_OF = {
    "gpt_neox.layers.": "gpt_neox.embed_in.weight",
    "transformer.h.": "transformer.wte.weight",
    "h.": "wte.weight",
    "layers.": "embed_tokens.weight",
}
_HEADS = ("lm_head.weight", "embed_out.weight", "output.weight")
# transformers takes a model's prefix and one more letter, whatever it is, from the front of a name.
_PREFIX_OF_TRANSFORMERS = re.compile(
    r"^(?:model|transformer|gpt_neox|backbone)[^.]"
    r"(?=(?:model|transformer|gpt_neox|backbone|lm_head|embed_out)\.)"
)
_LORA = re.compile(r"\.lora_(?:A|B|embedding_A|embedding_B)(?:\.|$)")


def language_model(
    store: TensorStore, is_wrapper: bool, tied: bool
) -> tuple[TensorStore, dict[str, str | None]]:
    """The language model's tensors, and for each name without wrappers the one it has there.

    Args:
        store: all tensors of the files.
        is_wrapper: whether the config nests that of a language model.
        tied: whether the config says that output head and embeddings are one matrix.

    Returns:
        The store, and a mapping whose values are None for other parts of a multimodal model.

    Raises:
        UnsupportedModelError: the files hold an adapter that was not merged into its model, or
            several models.
        CheckpointError: they hold one module's tensors under two names.
    """
    stored = list(store.names)
    _refuse_unmerged(stored)
    _refuse_twice(stored)
    plain = _without_wrappers(stored)
    _refuse_several(plain)
    inner = _inner_prefix(plain, is_wrapper)
    exposed: dict[str, str] = {}
    full: dict[str, str | None] = {}
    for name, source in plain.items():
        is_inside = name.startswith(inner)
        short = name.removeprefix(inner)
        full[name] = short if is_inside else None
        if is_inside:
            exposed[short] = source
    if inner:
        for head in _HEADS:  # beside the language model in most multimodal models
            if head in plain and head not in exposed:
                exposed[head], full[head] = plain[head], head
    if (embedding := _missing_embedding(exposed, tied)) is not None:
        head = next(h for h in _HEADS if h in exposed)
        exposed[embedding] = exposed[head]
        full.setdefault(embedding, embedding)
    if all(name == source for name, source in exposed.items()) and len(exposed) == len(stored):
        return store, full

    def derive(name: str) -> Derived:
        info = renamed(store.entry(exposed[name]), name)
        return Derived(info, (exposed[name],), lambda parts: parts[0], by_rows=(True,))

    return DerivedTensors(store, exposed, derive), full


def _refuse_unmerged(names: list[str]) -> None:
    found = next((name for name in names if _LORA.search(name)), None)
    if found is not None:
        raise UnsupportedModelError(
            "it is a model with an adapter that was not merged: its weights still hold the "
            "LoRA factors, whose scale no file states",
            tensor=found[:200],
            advice="load it with PEFT, call merge_and_unload() and save the result, or save the "
            "adapter by itself with save_pretrained()",
        )


def _refuse_twice(names: list[str]) -> None:
    """Raise CheckpointError for tensors of the language model under two names.

    Programs add or take away words that only say "the language model", so either could be loaded.
    Blocks with different words before them are refused even where their tensors differ: a program
    may put them together.
    """
    first_of: dict[str, str] = {}
    blocks_of: dict[str, tuple[str, str]] = {}  # word -> what is before it, and a name with that
    for name in names:
        words = _PREFIX_OF_TRANSFORMERS.sub("", name).split(".")
        start = next((i for i, word in enumerate(words) if word not in NEUTRAL), len(words))
        tail = ".".join(words[start:])
        other = first_of.setdefault(tail, name)
        if _BLOCKS.match(tail):
            before = name.removesuffix(tail)
            known, example = blocks_of.setdefault(words[start], (before, name))
            other = other if known == before else example
        if other != name:
            raise CheckpointError(
                f"the files also hold '{other[:200]}', and programs differ in which of the two "
                "names they load",
                tensor=name[:200],
                advice="save the model again, without the tensors that do not belong to it",
            )


def _refuse_several(names: Collection[str]) -> None:
    """Raise UnsupportedModelError for files with several models, as a policy and a reference."""
    firsts = {
        name.split(".", 1)[0]
        for name in names
        if name.endswith(_EMBEDDINGS)
        and not is_beside_language_model(name)
        and name.count(".") > 1  # not an embedding of the model itself, as CPM-Ant's two
    }
    strange = sorted(first for first in firsts if first not in NATURAL)
    if len(firsts) > 1 and len(strange) == len(firsts):
        raise UnsupportedModelError(
            f"its files hold several models ({', '.join(first[:40] for first in strange[:4])})",
            advice="save the one that you mean by itself",
        )


def _without_wrappers(names: list[str]) -> dict[str, str]:
    """Name without the words of training frameworks -> stored name, in the stored order."""
    plain = {name: FRAMEWORK_WORDS.sub("", name).replace(".base_layer.", ".") for name in names}
    while (prefix := _wrapper_prefix(plain.values())) is not None:
        plain = {source: name.removeprefix(prefix) for source, name in plain.items()}
    found: dict[str, str] = {}
    for source, name in plain.items():
        found.setdefault(name, source)
    return found if len(found) == len(names) else {name: name for name in names}


def _wrapper_prefix(names: Collection[str]) -> str | None:
    """The word, with its dot, that all names have before the ones of a published checkpoint."""
    firsts = {name.split(".", 1)[0] for name in names if not is_beside_language_model(name)}
    if len(firsts) != 1:
        return None
    first = firsts.pop() + "."
    inside = [name.removeprefix(first) for name in names if name.startswith(first)]
    if not any(_BLOCK.search(name) for name in inside):
        return None
    seconds = {name.split(".", 1)[0] for name in inside}
    if first[:-1] not in NATURAL:
        return first
    # A module that holds the published model, head and all: model.model.layers, model.lm_head.
    with_head = any(head in inside for head in _HEADS)
    doubled = (
        first in ("model.", "transformer.")
        and bool(seconds & {"model", "transformer", "gpt_neox"})
        and not (seconds & {"layers", "h", "blocks"})
    )
    return first if doubled and (with_head or seconds <= {"model", "transformer"}) else None


def _inner_prefix(names: Collection[str], is_wrapper: bool) -> str:
    """What stands before the language model's names in a multimodal model; "" in any other."""
    prefixes = Counter(match[0] for name in names if (match := INNER.match(name)))
    if not prefixes:
        return ""
    # A vision encoder may contain a small text model; the language model has more tensors.
    prefix = prefixes.most_common(1)[0][0]
    if is_wrapper:
        return prefix
    outside = [n for n in names if not n.startswith(prefix) and not is_beside_language_model(n)]
    has_blocks = any(_BLOCK.search(n) for n in names if n.startswith(prefix))
    return prefix if has_blocks and not any(_BLOCK.search(n) for n in outside) else ""


def _missing_embedding(names: Mapping[str, Any], tied: bool) -> str | None:
    """The name of the embedding where only the output head was saved."""
    if not tied or not any(head in names for head in _HEADS):
        return None
    if any(name.split("layers.")[0].endswith(_EMBEDDINGS) for name in names):
        return None
    starts = Counter(name[: m.start() + len(m[0])] for name in names if (m := _BLOCK.search(name)))
    if not starts:
        return None
    start = re.sub(r"\d+\.$", "", min(starts, key=len))
    for blocks, embedding in _EMBEDDING_OF.items():
        if start == blocks:
            return embedding
    return re.sub(r"(?:layers|h|blocks|layer)\.$", "", start) + "embed_tokens.weight"
