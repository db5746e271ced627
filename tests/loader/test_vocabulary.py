"""All vocabulary formats give the same tokens, compared with the libraries that write them."""

import base64
import io
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from huref.errors import CheckpointError
from huref.invariants.anchors import choose_anchors
from huref.loader.checkpoint import open_checkpoint
from huref.loader.ranges import Meter
from huref.loader.repository import LocalFolder
from huref.loader.vocabulary import Token, parse_tokenizer_json
from huref.loader.vocabulary.bpe_files import added_tokens, parse_vocab_json, parse_vocab_txt
from huref.loader.vocabulary.files import open_vocabulary
from huref.loader.vocabulary.gguf import parse_gguf_vocabulary
from huref.loader.vocabulary.sentencepiece import parse_sentencepiece
from huref.loader.vocabulary.tiktoken import looks_like_tiktoken, parse_tekken, parse_tiktoken
from tests.support.containers import write_header_only
from tests.support.small_models import FLAGS, some_words


def sentences() -> list[str]:
    rng = random.Random(0)
    words = [word.removeprefix("Ġ") for word in some_words(600)]
    return [" ".join(rng.choices(words, k=12)) for _ in range(400)]


@pytest.fixture(scope="module")
def sentencepiece_model() -> bytes:
    import sentencepiece

    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()),
        model_writer=buffer,
        vocab_size=900,
        model_type="bpe",
        byte_fallback=True,
        user_defined_symbols=["<mine>", "▁two▁words"],
        minloglevel=2,
    )
    return buffer.getvalue()


def opened(folder: Path) -> list[Token]:
    return open_vocabulary(LocalFolder(folder, "m", Meter()))


def test_sentencepiece_agrees_with_the_library(sentencepiece_model: bytes) -> None:
    import sentencepiece

    library = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
    tokens = parse_sentencepiece(sentencepiece_model)
    assert len(tokens) == library.get_piece_size()
    for token in tokens:
        piece = library.id_to_piece(token.id)
        if library.is_byte(token.id):
            assert (token.kind, token.text) == ("byte", bytes([int(piece[3:5], 16)]))
        elif library.is_control(token.id) or library.is_unknown(token.id):
            assert token.kind == "special"
        elif piece in ("<mine>", "▁two▁words"):
            assert token.kind == "added"
        else:
            assert (token.kind, token.text.decode()) == ("normal", piece.replace("▁", " "))


def test_sentencepiece_vocabulary_is_the_same_from_four_files(
    sentencepiece_model: bytes, tmp_path: Path
) -> None:
    """tokenizer.model, a converted tokenizer.json, GGUF, and vocab.json give the same anchors."""
    import sentencepiece

    library = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
    pieces = [library.id_to_piece(i) for i in range(library.get_piece_size())]
    special = [i for i in range(len(pieces)) if library.is_control(i) or library.is_unknown(i)]
    added = [pieces.index("<mine>"), pieces.index("▁two▁words")]
    converted = json.dumps(
        {
            "model": {"type": "BPE", "vocab": {p: i for i, p in enumerate(pieces)}, "merges": []},
            "added_tokens": [
                {"id": i, "content": pieces[i], "special": i in special, **FLAGS}
                for i in [*special, *added]
            ],
            "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}]},
        }
    )
    kinds = [3 if i in special else 4 if i in added else 6 if library.is_byte(i) else 1
             for i in range(len(pieces))]  # fmt: skip
    metadata = write_header_only(tmp_path / "m.gguf", "llama", pieces, kinds)
    side_files = {
        "special_tokens_map.json": {"x_token": pieces[0], "bos_token": {"content": pieces[1]},
                                    "eos_token": pieces[2]},
        "added_tokens.json": {pieces[i]: i for i in added},
    }  # fmt: skip
    vocab_json = json.dumps({p: i for i, p in enumerate(pieces)}).encode()
    vocabularies = [
        parse_sentencepiece(sentencepiece_model),
        parse_tokenizer_json(converted.encode()),
        parse_gguf_vocabulary(metadata),
        parse_vocab_json(vocab_json, added_tokens(side_files)),
    ]
    anchors = [choose_anchors(tokens, 256) for tokens in vocabularies]
    assert anchors.count(anchors[0]) == len(anchors)
    normal = [{(t.id, t.text) for t in tokens if t.kind == "normal"} for tokens in vocabularies]
    assert normal.count(normal[0]) == len(normal)


def test_byte_level_vocabulary_is_the_same_from_six_files(tmp_path: Path) -> None:
    """tokenizer.json, vocab.json, GGUF, tiktoken, Llama 3's tokenizer.model and Tekken."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator([*sentences(), "naïve straße 中文 🐕 thé"], trainer)
    library.save(str(tmp_path / "tokenizer.json"))
    first = opened(tmp_path)
    library.model.save(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    second = opened(tmp_path)
    pieces = [piece for piece, _ in sorted(library.get_vocab().items(), key=lambda kv: kv[1])]
    metadata = write_header_only(tmp_path / "m.gguf", "gpt2", pieces, [1] * len(pieces))
    lines = [base64.b64encode(t.text) + b" %d" % t.id for t in first]
    tiktoken = b"\n".join(lines) + b"\n"
    (tmp_path / "tokenizer.model").write_bytes(tiktoken)
    tekken = {
        "config": {"default_vocab_size": len(first) + 5, "default_num_special_tokens": 5},
        "vocab": [{"rank": t.id, "token_bytes": base64.b64encode(t.text).decode()} for t in first],
    }
    third, fourth = parse_gguf_vocabulary(metadata), parse_tiktoken(tiktoken)
    fifth, sixth = opened(tmp_path), parse_tekken(json.dumps(tekken).encode())
    assert first == second == third == fourth == fifth
    assert [(t.id - 5, t.text) for t in sixth] == [(t.id, t.text) for t in first]
    anchors = [choose_anchors(v, 128) for v in (first, second, third, fourth, fifth, sixth)]
    assert {a.tokens for a in anchors} == {anchors[0].tokens}


def test_tiktoken_files_agree_with_the_library(tmp_path: Path) -> None:
    from tiktoken.load import load_tiktoken_bpe

    words = [bytes([i]) for i in range(256)] + [word.encode() for word in some_words(100)]
    path = tmp_path / "qwen.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(w) + b" %d\n" % i for i, w in enumerate(words)))
    tokens = opened(tmp_path)
    assert {t.text: t.id for t in tokens} == load_tiktoken_bpe(str(path))


def test_special_tokens_are_read_from_the_files_beside_a_vocab_json(tmp_path: Path) -> None:
    vocab = {"Ġthe": 0, "<|endoftext|>": 1, "<extra>": 2}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "eos_token": "<|endoftext|>",
                "added_tokens_decoder": {"2": {"content": "<extra>", "special": False}},
            }
        )
    )
    assert [(t.text, t.kind) for t in opened(tmp_path)] == [
        (b" the", "normal"),
        (b"<|endoftext|>", "special"),
        (b"<extra>", "added"),
    ]


def test_vocab_txt_agrees_with_tokenizer_json() -> None:
    pieces = ["[PAD]", "[CLS]", "the", "##re", "["]
    text = ("\n".join(pieces) + "\n").encode()
    converted = {
        "model": {
            "type": "WordPiece", "vocab": {p: i for i, p in enumerate(pieces)},
            "unk_token": "[PAD]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        "added_tokens": [
            {"id": i, "content": pieces[i], "special": True, **FLAGS} for i in (0, 1)
        ],
    }  # fmt: skip
    expected = parse_tokenizer_json(json.dumps(converted).encode())
    assert sorted(expected, key=lambda t: t.id) == parse_vocab_txt(text)


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("tokenizer.model", b""),
        ("tokenizer.model", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
        ("tokenizer.model", b"\x0a\x02\x0a\x7f"),
        ("tokenizer.model", b"\x0b\x00"),
        ("tokenizer.model", b"\xff" * 40),
        ("tokenizer.model", b"\x0a\x04\x0a\x02\xff\xfe"),
        ("tokenizer.model", b"IQ== 0\nnonsense"),
        ("qwen.tiktoken", b"IQ== zero"),
        ("qwen.tiktoken", b"!!!! 0"),
        ("qwen.tiktoken", b"\n"),
        ("vocab.json", b"[1]"),
        ("vocab.json", b'{"a": "x"}'),
        ("vocab.json", b'{"a":' * 100_000),
        ("vocab.txt", b"\xff\xfe"),
        ("tekken.json", b"{}"),
        ("tekken.json", b'{"config": {"default_num_special_tokens": 1}, "vocab": [{}]}'),
        ("tokenizer.json", b'{"model":' * 100_000),
    ],
)
def test_files_that_are_not_a_vocabulary_are_refused(
    tmp_path: Path, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        opened(tmp_path)


def test_a_gguf_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    write_header_only(tmp_path / "m.gguf", "none", None, None)
    with pytest.raises(CheckpointError, match=r"m\.gguf: there is no vocabulary"):
        _ = open_checkpoint(str(tmp_path / "m.gguf")).vocabulary


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60), st.integers(0, 2000))
def test_damaged_sentencepiece_models_are_refused_or_read(
    sentencepiece_model: bytes, noise: bytes, position: int
) -> None:
    data = bytearray(sentencepiece_model)
    data[position : position + len(noise)] = noise
    try:
        assert parse_sentencepiece(bytes(data))
    except CheckpointError as error:
        assert "SentencePiece model" in error.what  # noqa: PT017


def test_tiktoken_is_distinguished_from_sentencepiece(sentencepiece_model: bytes) -> None:
    assert looks_like_tiktoken(b"IQ== 0\nIg== 1\n")
    assert not looks_like_tiktoken(sentencepiece_model[:1024])


@pytest.mark.parametrize(("model", "space"), [("gpt2", "Ġ"), ("llama", "▁")])
def test_an_unknown_gguf_tokenizer_model_is_recognised_by_its_spaces(
    model: str, space: str
) -> None:
    pieces = {"tokenizer.ggml.tokens": [f"{space}the", "ing", f"{space}model", "é"]}
    known = parse_gguf_vocabulary(pieces | {"tokenizer.ggml.model": model})
    assert [token.text for token in known][:3] == [b" the", b"ing", b" model"]
    assert parse_gguf_vocabulary(pieces) == known
    assert parse_gguf_vocabulary(pieces | {"tokenizer.ggml.model": "new"}) == known
