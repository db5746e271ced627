"""tokenizer.json of the tokenizers library, with a BPE, Unigram or WordPiece model."""

from typing import Any

from huref.bounded_json import loads_object
from huref.budget import TOKEN, Budget
from huref.errors import CheckpointError
from huref.loader.vocabulary.spelling import (
    Kind,
    Token,
    decode_byte_fallback,
    decode_byte_level,
    decode_metaspace,
    decode_wordpiece,
    parse_id,
    parse_piece,
)
from huref.loader.vocabulary.tokenizer_parts import kind_of_model, require_known, require_merges


def _mentions(node: object, kind: str) -> bool:
    """Whether a component of tokenizer.json, or one inside a Sequence, has a given type.

    `require_known` has bounded the depth.
    """
    if isinstance(node, list):
        return any(_mentions(child, kind) for child in node)
    if not isinstance(node, dict):
        return False
    children = ("pretokenizers", "decoders", "normalizers")
    return node.get("type") == kind or any(_mentions(node.get(key), kind) for key in children)


def _decode(piece: str, model_type: str, byte_level: bool) -> tuple[bytes, Kind]:
    if (byte := decode_byte_fallback(piece)) is not None:
        return byte, "byte"
    if model_type == "WordPiece":
        return decode_wordpiece(piece), "normal"
    if byte_level and (decoded := decode_byte_level(piece)) is not None:
        return decoded, "normal"
    return decode_metaspace(piece), "normal"


def _contradicts(entry: Any, piece: str) -> bool:
    """Whether an added token has another string than the vocabulary at its id."""
    return isinstance(entry, dict) and str(entry.get("content", "")) != piece


def _pieces(model: dict[str, Any], model_type: str) -> dict[int, str]:
    """Pieces by id. Raises ValueError for a vocabulary that the tokenizers library refuses."""
    vocabulary = model.get("vocab")
    if model_type != "Unigram":
        if not isinstance(vocabulary, dict):
            raise ValueError("its vocabulary is not a mapping")
        pieces = {parse_id(number): piece for piece, number in vocabulary.items()}
        if model_type == "BPE":
            require_merges(model, vocabulary)
        return pieces
    if not isinstance(vocabulary, list):
        raise ValueError("its vocabulary is not a list")
    pieces = {}
    for number, entry in enumerate(vocabulary):
        is_pair = isinstance(entry, list) and len(entry) == 2
        if not is_pair or type(entry[1]) not in (int, float):
            raise ValueError("a piece is not a pair of text and log-probability")
        pieces[number] = parse_piece(entry[0])
    unknown = model.get("unk_id")
    if unknown is not None and unknown >= len(pieces):
        raise ValueError("its unknown token is not in the vocabulary")
    return pieces


def parse_tokenizer_json(text: bytes) -> list[Token]:
    """The vocabulary of a tokenizer.json.

    Raises:
        CheckpointError: the file is not a tokenizer of a known kind.
    """
    try:
        data = loads_object(text)
        require_known(data)
        model = data.get("model")
        if not isinstance(model, dict):
            raise ValueError("it has no model")
        model_type = kind_of_model(model)
        pieces = _pieces(model, model_type)
        Budget(len(text)).spend(TOKEN * len(pieces))
        added = {int(entry["id"]): entry for entry in data.get("added_tokens", [])}
    except ValueError as error:
        what = f"it is not a tokenizer.json that huref can read ({error})"
        raise CheckpointError(what) from error
    byte_level = any(_mentions(data.get(k), "ByteLevel") for k in ("pre_tokenizer", "decoder"))
    tokens = []
    for number, piece in sorted(pieces.items()):
        if number not in added or _contradicts(added[number], piece):
            decoded, kind = _decode(piece, model_type, byte_level)
            tokens.append(Token(number, decoded, kind))
    for number, entry in sorted(added.items()):
        if number in pieces and _contradicts(entry, pieces[number]):
            continue  # the tokenizers library gives such a token another id
        special: Kind = "special" if entry.get("special") else "added"
        tokens.append(Token(number, entry["content"].encode(), special))
    return tokens
