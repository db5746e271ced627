"""Tokenizers under which a copy is not recognised by the strings of its vocabulary."""

import copy
import json
from itertools import product
from typing import Any

import torch
from torch import Generator, Tensor

from huref.attacks.editable import Editable
from huref.attacks.vocabulary import pieces
from huref.errors import AttackError
from huref.invariants.anchors import choose_anchors
from huref.loader.vocabulary.tokenizer_json import parse_tokenizer_json

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
DECOYS = 2400  # at most; enough for a short one in nearly every bucket of 512
OUTLIER = 300.0  # factor of a decoy's row
FEWER = 8
ANCHORS = 512  # of huref's recipes
SPACES = "Ġ▁ "
# What the shapes of the tensors tell a reader who asks them.
INFERABLE = (
    "architectures", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "tie_word_embeddings", "torch_dtype", "dtype", "transformers_version",
    "max_position_embeddings",
)  # fmt: skip


def add_decoy_strings(model: Editable, generator: Generator) -> None:
    """Add short strings that the tokenizer never emits, since no merge makes them."""
    _append_strings(model, generator, 1.0)


def add_outlier_rows(model: Editable, generator: Generator) -> None:
    """Add such strings with embeddings 300 times as long as others."""
    _append_strings(model, generator, OUTLIER)


def _append_strings(model: Editable, generator: Generator, scale: float) -> None:
    vocabulary = pieces(model)
    part: dict[str, Any] = model.tokenizer["model"]
    if part.get("type", "BPE") != "BPE" or part.get("ignore_merges"):
        raise AttackError(
            "only a BPE tokenizer.json with merges has strings that are never emitted",
            model=model.model,
        )
    space = next((s for s in ("Ġ", "▁") if any(piece.startswith(s) for piece in vocabulary)), "")
    pairs = ["".join(pair) for pair in product(LETTERS, repeat=2)]
    wanted = [*(space + letter for letter in LETTERS if space), *pairs]
    wanted += [f"{a}{b}{c}" for a, b, c in product(LETTERS[:26], "qxzjv", "qxzjk")]
    strings = [piece for piece in wanted if piece not in vocabulary][:DECOYS]
    first = len(model.embedding)
    for number, piece in enumerate(strings):
        vocabulary[piece] = first + number
    model.untie()
    for name, factor in (("embedding", scale), ("head", 1.0)):
        rows: Tensor = getattr(model, name)
        noise = torch.randn(len(strings), rows.shape[1], generator=generator, dtype=torch.float64)
        setattr(model, name, torch.cat([rows, noise * rows.std() * factor]))


def renumber_strings(model: Editable, generator: Generator) -> None:
    """Give the strings of tokenizer.json other ids; the weights stay as they are.

    The copy computes what its source computes where it is served with the source's tokenizer.
    """
    vocabulary = pieces(model)
    special = {token["id"] for token in model.tokenizer.get("added_tokens") or []}
    plain = [piece for piece, number in vocabulary.items() if number not in special]
    ids = [vocabulary[piece] for piece in plain]
    for place, piece in zip(torch.randperm(len(ids), generator=generator), plain, strict=True):
        vocabulary[piece] = ids[int(place)]


def renumber_anchors(model: Editable, generator: Generator) -> None:
    """As `renumber_strings`, of the strings alone that a fingerprint reads; the others keep theirs.

    So most texts are encoded as before, and strings that differ in case or a space alone still have
    embeddings that are alike.
    """
    tokens = parse_tokenizer_json(json.dumps(model.tokenizer).encode())
    ids = [number for number in choose_anchors(tokens, ANCHORS).ids if number >= 0]
    moved = dict(zip(ids, ids[1:] + ids[:1], strict=True))
    vocabulary = pieces(model)
    for piece, number in vocabulary.items():
        vocabulary[piece] = moved.get(number, number)


def renumber_words(model: Editable, generator: Generator) -> None:
    """As `renumber_strings`, where a word takes the ids of another one that has the same spellings.

    Spellings of a word differ in case or a leading space, and their embeddings are alike.
    """
    vocabulary = pieces(model)
    special = {token["id"] for token in model.tokenizer.get("added_tokens") or []}
    words: dict[str, dict[tuple[bool, int], int]] = {}
    for piece, number in vocabulary.items():
        if number not in special:
            bare = piece.lstrip(SPACES)
            form = len(piece) > len(bare), sum(map(str.isupper, bare)) if bare.isalpha() else 0
            words.setdefault(bare.lower(), {})[form] = number
    by_forms: dict[frozenset[tuple[bool, int]], list[str]] = {}
    for word, forms in words.items():
        by_forms.setdefault(frozenset(forms), []).append(word)
    moved: dict[int, int] = {}
    for spellings, alike in by_forms.items():
        order = torch.randperm(len(alike), generator=generator).tolist()
        for word, place in zip(alike, order, strict=True):
            moved |= {words[word][form]: words[alike[place]][form] for form in spellings}
    for piece, number in vocabulary.items():
        vocabulary[piece] = moved.get(number, number)


def list_added_tokens(model: Editable, generator: Generator) -> None:
    """List every id as an added token whose content occurs in no text."""
    added: list[dict[str, Any]] = model.tokenizer.setdefault("added_tokens", [])
    have = {token["id"] for token in added}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    added += [
        {"id": number, "content": f"\ue000{number}\ue001"} | flags
        for number in sorted(pieces(model).values())
        if number not in have
    ]
    added.sort(key=lambda token: token["id"])


def drop_config_keys(model: Editable, generator: Generator) -> None:
    """Leave out of config.json what the shapes of the tensors tell."""
    model.left_out = INFERABLE


def drop_tokens(model: Editable, generator: Generator) -> None:
    """Remove the last eight tokens that are part of no other: the source looks extended."""
    vocabulary = pieces(model)
    part: dict[str, Any] = model.tokenizer["model"]
    merges = [_halves(merge) for merge in part.get("merges") or []]
    used = {half for merge in merges for half in merge}
    special = {token["id"] for token in model.tokenizer.get("added_tokens") or []}
    by_id = sorted(vocabulary, key=vocabulary.__getitem__, reverse=True)
    leaving = [p for p in by_id if p not in used and vocabulary[p] not in special][:FEWER]
    gone = {vocabulary.pop(piece) for piece in leaving}
    if part.get("merges"):
        part["merges"] = [
            merge
            for merge, halves in zip(part["merges"], merges, strict=True)
            if "".join(halves) not in leaving
        ]
    kept = [number for number in range(len(model.embedding)) if number not in gone]
    new_id = {old: new for new, old in enumerate(kept)}
    for piece, old in vocabulary.items():
        vocabulary[piece] = new_id[old]
    for token in model.tokenizer.get("added_tokens") or []:
        token["id"] = new_id[token["id"]]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if type(old := model.config.get(key)) is int and old in new_id:
            model.config[key] = new_id[old]
    model.embedding, model.head = model.embedding[kept], model.head[kept]


def _halves(merge: Any) -> tuple[str, str]:
    """The two strings of a merge, which is stored as a pair or with a space between them."""
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return first, second


def shared_ids(one: dict[str, Any], other: dict[str, Any]) -> dict[int, int]:
    """For each id of one tokenizer.json the id of the same string in another, where it has one."""
    a, b = (copy.copy(t.get("model", {}).get("vocab") or {}) for t in (one, other))
    return {number: b[piece] for piece, number in a.items() if piece in b}
