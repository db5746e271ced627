"""The structure of a tokenizer.json, held against what the tokenizers library reads.

A file that the library refuses belongs to no model that anybody runs, so its vocabulary is not
taken either. Two things are accepted although the installed library refuses them, because a newer
one may have written them: a component of a type that is not listed here, and further keys.
"""

from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[object], bool]
DEEPEST = 32  # of Sequences inside each other
LARGEST_ID = 2**32 - 1


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_letter(value: object) -> bool:
    return isinstance(value, str) and len(value) == 1


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_ID


def _is_pattern(value: object) -> bool:
    if not isinstance(value, dict) or len(value) != 1:
        return False
    [(kind, text)] = value.items()
    return kind in ("String", "Regex") and isinstance(text, str)


def _is_token(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and _is_text(value[0]) and _is_id(value[1])


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _one_of(*names: str) -> Check:
    return lambda value: isinstance(value, str) and value in names


_SCHEME = _one_of("first", "never", "always")
_BEHAVIOUR = _one_of("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_BYTE_LEVEL = {"add_prefix_space": _is_flag, "trim_offsets": _is_flag, "use_regex?": _is_flag}
_METASPACE = {"replacement": _is_letter, "add_prefix_space?": _is_flag,
              "prepend_scheme?": _SCHEME, "split?": _is_flag}  # fmt: skip
_REPLACE = {"pattern": _is_pattern, "content": _is_text}
Fields = Mapping[str, Check]

# Fields of each type; "?" marks those that may be absent, "*" a list of components.
PARTS: dict[str, dict[str, Fields]] = {
    "normalizer": {
        "BertNormalizer": {
            "clean_text": _is_flag, "handle_chinese_chars": _is_flag,
            "strip_accents": _or_null(_is_flag), "lowercase": _is_flag,
        },
        "Strip": {"strip_left": _is_flag, "strip_right": _is_flag},
        "Precompiled": {"precompiled_charsmap": _is_text},
        "Replace": _REPLACE,
        "Prepend": {"prepend": _is_text},
    },
    "pre_tokenizer": {
        "ByteLevel": _BYTE_LEVEL,
        "CharDelimiterSplit": {"delimiter": _is_letter},
        "Metaspace": _METASPACE,
        "Split": {"pattern": _is_pattern, "behavior": _BEHAVIOUR, "invert": _is_flag},
        "Punctuation": {"behavior?": _BEHAVIOUR},
        "Digits": {"individual_digits": _is_flag},
    },
    "decoder": {
        "BPEDecoder": {"suffix": _is_text},
        "ByteLevel": _BYTE_LEVEL,
        "WordPiece": {"prefix": _is_text, "cleanup": _is_flag},
        "Metaspace": _METASPACE,
        "CTC": {"pad_token": _is_text, "word_delimiter_token": _is_text, "cleanup": _is_flag},
        "Replace": _REPLACE,
        "Strip": {"content": _is_letter, "start": _is_count, "stop": _is_count},
    },
    "post_processor": {
        "BertProcessing": {"sep": _is_token, "cls": _is_token},
        "RobertaProcessing": {
            "sep": _is_token, "cls": _is_token, "trim_offsets": _is_flag,
            "add_prefix_space": _is_flag,
        },
        "ByteLevel": _BYTE_LEVEL,
    },
}  # fmt: skip
SEQUENCES = {
    "normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders",
    "post_processor": "processors",
}  # fmt: skip
ADDED: Fields = {
    "id": _is_id, "content": _is_text, "single_word": _is_flag, "lstrip": _is_flag,
    "rstrip": _is_flag, "normalized": _is_flag, "special": _is_flag,
}  # fmt: skip
_FLAG = _or_null(_is_flag)
MODELS: dict[str, Fields] = {
    "BPE": {
        "dropout?": _or_null(lambda value: type(value) in (int, float)),
        "unk_token?": _or_null(_is_text), "continuing_subword_prefix?": _or_null(_is_text),
        "end_of_word_suffix?": _or_null(_is_text), "fuse_unk?": _FLAG, "byte_fallback?": _FLAG,
        "ignore_merges?": _FLAG,
    },
    "WordPiece": {
        "unk_token": _is_text, "continuing_subword_prefix": _is_text,
        "max_input_chars_per_word": _is_count,
    },
    "WordLevel": {"unk_token": _is_text},
    "Unigram": {"unk_id?": _or_null(_is_count), "byte_fallback?": _is_flag},
}  # fmt: skip


def require_known(data: Mapping[str, Any]) -> None:
    """Check everything in a tokenizer.json but its vocabulary.

    Raises:
        ValueError: the tokenizers library refuses such a file; the message says why.
    """
    if data.get("version", "1.0") != "1.0":
        raise ValueError("its version is not 1.0")
    for key in ("truncation", "padding"):
        if not isinstance(data.get(key), dict | None):
            raise ValueError(f"its {key} is not an object")
    added = data.get("added_tokens", [])
    if not isinstance(added, list):
        raise ValueError("its added_tokens are not a list")
    for entry in added:
        _require_fields(entry, ADDED, "an added token")
    for place, key in SEQUENCES.items():
        if data.get(place) is not None:
            _require_component(data[place], place, key, 0)


def _require_component(part: object, place: str, inner: str, depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"its {place} is nested more than {DEEPEST} deep")
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise ValueError(f"its {place} is not a component with a type")
    kind = part["type"]
    if kind == "Sequence":
        if not isinstance(part.get(inner), list):
            raise ValueError(f"its {place} is a Sequence without {inner}")
        for child in part[inner]:
            _require_component(child, place, inner, depth + 1)
    else:
        _require_fields(part, PARTS[place].get(kind, {}), f"its {place} {kind[:40]}")


def _require_fields(part: object, fields: Fields, what: str) -> None:
    if not isinstance(part, dict):
        raise ValueError(f"{what} is not an object")
    for name, check in fields.items():
        key = name.removesuffix("?")
        if key not in part:
            if key == name:
                raise ValueError(f"{what} has no '{key}'")
        elif not check(part[key]):
            raise ValueError(f"{what} has a '{key}' of another type")


def kind_of_model(model: Mapping[str, Any]) -> str:
    """The type of a tokenizer's model; files from before 2020 do not give it.

    Raises:
        ValueError: it is unknown, or the model lacks what its type needs.
    """
    kind = model.get("type")
    if kind is None and "type" not in model:
        kind = "Unigram" if isinstance(model.get("vocab"), list) else "BPE"
        if kind == "BPE" and "max_input_chars_per_word" in model:
            kind = "WordPiece"
        elif kind == "BPE" and "merges" not in model:
            kind = "WordLevel"
    if not isinstance(kind, str) or kind not in MODELS:
        raise ValueError(f"its model has the type {str(kind)[:40]!r}")
    _require_fields(model, MODELS[kind], "its model")
    return kind


def require_merges(model: Mapping[str, Any], pieces: Mapping[str, Any]) -> None:
    """Check the merges of a BPE model: two pieces each, which make a third one.

    Raises:
        ValueError: they are missing, or name a piece that the vocabulary lacks.
    """
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise ValueError("its model has no merges")
    prefix = len(model.get("continuing_subword_prefix") or "")
    as_text = not merges or isinstance(merges[0], str)
    if as_text:  # a comment may be the first of them
        merges = [m for m in merges if not (isinstance(m, str) and m.startswith("#version"))]
    for merge in merges:
        if isinstance(merge, str) is not as_text:
            raise ValueError("its merges are of two forms")
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_text, pair)):
            raise ValueError("a merge is not a pair of pieces")
        first, second = pair
        if first not in pieces or second not in pieces or first + second[prefix:] not in pieces:
            raise ValueError("a merge names a piece that is not in the vocabulary")
