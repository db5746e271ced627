"""More small files that try to cost much: JSON, YAML, vocabularies, answers, registries.

As in `tests.support.hostile_files`, which has the first ones.
"""

import base64
import json
import struct
from pathlib import Path

from tests.support.hostile_files import FILES, hostile

# JSON.


@hostile("one long number/config.json")
def _() -> bytes:
    return b'{"a":' + b"9" * 4_000_000 + b"}"


@hostile("numbers of the longest kind/config.json")
def _() -> bytes:
    return b'{"a":[' + (b"9" * 4299 + b",") * 900 + b"0]}"


@hostile("long fractions/config.json")
def _() -> bytes:
    return b'{"a":[' + (b"0." + b"3" * 20_000 + b"e-7,") * 200 + b"0]}"


@hostile("exponents/config.json")
def _() -> bytes:
    return b'{"a":[' + b"1e-999999999," * 300_000 + b"0]}"


@hostile("one key over and over/config.json")
def _() -> bytes:
    return b'{"a":0' + b',"a":0' * 600_000 + b"}"


@hostile("short keys/config.json")
def _() -> bytes:
    return b"{" + b",".join(b'"%x":0' % i for i in range(300_000)) + b"}"


@hostile("escapes/config.json")
def _() -> bytes:
    return b'{"a":"' + rb"\ud83d\ude00" * 400_000 + b'"}'


@hostile("a lone surrogate at the end/config.json")
def _() -> bytes:
    return b'{"a":"' + rb"\ud83d\ude00" * 300_000 + rb'\ud83d"}'


@hostile("backslashes/config.json")
def _() -> bytes:
    return b'{"a":"' + b"\\\\" * 2_000_000 + b'"}'


@hostile("brackets in a text/config.json")
def _() -> bytes:
    return b'{"a":"' + b"[{" * 2_000_000 + b'"}'


@hostile("space/config.json")
def _() -> bytes:
    return b'{"a":' + b" \n" * 4_000_000 + b"0}"


@hostile("empty texts/config.json")
def _() -> bytes:
    return b'{"a":[' + b'"",' * 2_000_000 + b"0]}"


# YAML.


@hostile("tags that are declared/README.md")
def _() -> bytes:
    lines = b"".join(b"%%TAG !e%d! tag:x,2000:\n" % i for i in range(40_000))
    return b"---\n" + lines + b"---\na: b\n"


@hostile("tags that are declared/mergekit_config.yml")
def _() -> bytes:
    return b"".join(b"%%TAG !e%d! tag:x,2000:\n" % i for i in range(40_000)) + b"---\na: b\n"


@hostile("many documents/mergekit_config.yml")
def _() -> bytes:
    return b"---\n" * 400_000


@hostile("anchors of open lists/mergekit_config.yml")
def _() -> bytes:
    nest = b"".join(b"&a%d [" % i for i in range(58))
    return b"a: &b c\nd: " + nest + b"*b," * 300_000 + b"0" + b"]" * 58


@hostile("many anchors/mergekit_config.yml")
def _() -> bytes:
    return b"".join(b"- &a%d x\n" % i for i in range(40_000))


@hostile("dates/mergekit_config.yml")
def _() -> bytes:
    return b"- 2001-12-14t21:59:43.10-05:00\n" * 40_000


@hostile("base 64/mergekit_config.yml")
def _() -> bytes:
    return b"- !!binary " + base64.b64encode(bytes(3_000_000)) + b"\n"


@hostile("pairs of pairs/mergekit_config.yml")
def _() -> bytes:
    return b"a: !!omap [" + b"{b: c}," * 60_000 + b"]\nb: !!set {" + b"a," * 60_000 + b"}\n"


@hostile("a merge of one map many times/mergekit_config.yml")
def _() -> bytes:
    keys = b",".join(b"k%d: v" % i for i in range(400))
    return b"a: &a {" + keys + b"}\nb: {<<: [" + b"*a," * 3000 + b"*a]}\n"


@hostile("a scalar of many lines/recipe.yaml")
def _() -> bytes:
    return b"name: a\n" + b"  b\n" * 600_000


@hostile("escapes/recipe.yaml")
def _() -> bytes:
    return b'name: "' + rb"\U0001F600" * 300_000 + b'"\n'


@hostile("comments/recipe.yaml")
def _() -> bytes:
    return b"#\n" * 1_500_000 + b"name: a\n"


@hostile("flows of colons/recipe.yaml")
def _() -> bytes:
    return b"name: {" + b"a:," * 200_000 + b"}\n"


@hostile("floats of base 60/recipe.yaml")
def _() -> bytes:
    return b"name: [" + b"1:1:1.5," * 100_000 + b"]\n"


# Vocabularies: the parsers, then the tokenizers that run on them.


def _bpe(vocabulary: dict[str, int], merges: object = (), **more: object) -> bytes:
    model = {"type": "BPE", "vocab": vocabulary, "merges": list(merges)}  # type: ignore[call-overload]
    return json.dumps({"model": model, **more}).encode()


@hostile("ids far apart/tokenizer.json")
def _() -> bytes:
    return _bpe({"a": 0, "b": 2**32 - 2})


@hostile("merges of one pair/tokenizer.json")
def _() -> bytes:
    return _bpe({"a": 0, "aa": 1}, ["a a"] * 200_000)


@hostile("prefixes of one word/tokenizer.json")
def _() -> bytes:
    vocabulary = {"a" * (i + 1): i for i in range(2000)}
    return _bpe(vocabulary, ["a" * i + " a" for i in range(1, 2000)])


@hostile("one long piece/tokenizer.json")
def _() -> bytes:
    return _bpe({"a": 0, "b" * 4_000_000: 1})


@hostile("many added tokens/tokenizer.json")
def _() -> bytes:
    entry = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    added = [{"id": i, "content": f"<{i:x}>", "special": True, **entry} for i in range(30_000)]
    return _bpe({"a": 0}, added_tokens=added)


@hostile("a pattern that backtracks/tokenizer.json")
def _() -> bytes:
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$|(a|aa)+b"}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    words = {"a" * 40 + chr(98 + i % 20) + "a" * (30 + i % 60): i for i in range(400)}
    return _bpe(words, pre_tokenizer=split)


@hostile("a normaliser that grows/tokenizer.json")
def _() -> bytes:
    grow = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 200}
    chain = {"type": "Sequence", "normalizers": [grow] * 4}
    return _bpe({chr(97 + i % 26) + f"a{i}": i for i in range(400)}, normalizer=chain)


@hostile("a long template/tokenizer.json")
def _() -> bytes:
    pieces = [{"Sequence": {"id": "A", "type_id": 0}}] * 60_000
    after = {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": {}}
    return _bpe({f"{i:x}": i for i in range(3000)}, post_processor=after)


@hostile("short pieces of a lattice/tokenizer.json")
def _() -> bytes:
    pieces = [["a" * (i + 1), -1.0] for i in range(1500)]
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], *pieces]}
    return json.dumps({"model": model}).encode()


@hostile("a charsmap/tokenizer.json")
def _() -> bytes:
    charsmap = base64.b64encode(struct.pack("<I", 400_000) + b"\xff" * 800_000).decode()
    return _bpe({"a": 0}, normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap})


@hostile("ids far apart/a.tiktoken")
def _() -> bytes:
    return b"YQ== 0\nYg== 4294967294\n"


@hostile("one long piece/a.tiktoken")
def _() -> bytes:
    return b"YQ== 0\n" + base64.b64encode(b"ab" * 500_000) + b" 1\n"


@hostile("prefixes of one word/a.tiktoken")
def _() -> bytes:
    return b"".join(base64.b64encode(b"a" * (i + 1)) + b" %d\n" % i for i in range(1200))


def _pieces(*texts: bytes, trainer: bytes = b"\x12\x02\x18\x02") -> bytes:
    """A SentencePiece model of type BPE."""
    found = bytearray()
    for text in texts:
        piece = b"\x0a" + _varint(len(text)) + text + b"\x15" + struct.pack("<f", -1.0)
        found += b"\x0a" + _varint(len(piece)) + piece
    return bytes(found) + trainer


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


@hostile("one long piece/tokenizer.model")
def _() -> bytes:
    return _pieces(b"a", b"ab" * 400_000)


@hostile("long pieces/tokenizer.model")
def _() -> bytes:
    return _pieces(*(b"%d" % i + b"ab" * 2000 for i in range(500)))


@hostile("prefixes of one word/tokenizer.model")
def _() -> bytes:
    return _pieces(*(b"a" * (i + 1) for i in range(1500)))


@hostile("short pieces that merge/tokenizer.model")
def _() -> bytes:
    return _pieces(*(b"%x" % i for i in range(60_000)))


@hostile("short pieces of a lattice/tokenizer.model")
def _() -> bytes:
    return _pieces(*(b"a" * (i + 1) for i in range(1500)), trainer=b"")


@hostile("long pieces/vocab.txt")
def _() -> bytes:
    return b"[UNK]\n" + b"\n".join(b"%d" % i + b"ab" * 20_000 for i in range(50))


@hostile("ids far apart/vocab.json")
def _() -> bytes:
    return json.dumps({"a": 0, "b": 2**32 - 2}).encode()


def _write_merges(folder: Path) -> Path:
    (folder / "merges.txt").write_bytes(b"#version: 0.2\n" + b"a a\n" * 100_000)
    return _write_far(folder)


_write_far = FILES["ids far apart/vocab.json"]
FILES["ids far apart, with merges/vocab.json"] = _write_merges


# Answers of endpoints and of the Hub.


def _answer(**choice: object) -> bytes:
    return json.dumps({"choices": [choice]}).encode()


@hostile("a long id/a.answer")
def _() -> bytes:
    entry = {"token": "token_id:" + "9" * 400_000, "logprob": -1.0}
    return _answer(logprobs={"content": [entry]})


@hostile("digits of another script/a.answer")
def _() -> bytes:
    return _answer(text="a", prompt_logprobs=[{"²" * 10: {"logprob": -1}}])


@hostile("a number of many digits/a.answer")
def _() -> bytes:
    return _answer(text="a", prompt_logprobs=[{"9" * 1_000_000: {"logprob": -1}}])


@hostile("bytes one by one/a.answer")
def _() -> bytes:
    entry = {"token": "a", "logprob": -1.0, "bytes": [97] * 300_000}
    return _answer(logprobs={"content": [entry] * 3})


@hostile("many choices/a.answer")
def _() -> bytes:
    return json.dumps({"choices": [{"text": "a"}] * 60_000}).encode()


@hostile("many tokens of a prompt/a.answer")
def _() -> bytes:
    return _answer(text="a", prompt_logprobs=[{"1": {"logprob": -1}}] * 40_000)


@hostile("lists of other lengths/a.answer")
def _() -> bytes:
    tokens = {"tokens": ["a"] * 200_000, "token_logprobs": [-1.0] * 199_999}
    return _answer(text="a", logprobs=tokens)


@hostile("tops of other shapes/a.answer")
def _() -> bytes:
    tokens = {"tokens": ["a"] * 3, "token_logprobs": [-1, -1, -1], "top_logprobs": [[], 7, "a"]}
    return _answer(text="a", logprobs=tokens)


@hostile("a long text/a.answer")
def _() -> bytes:
    return _answer(message={"content": "ab" * 3_000_000})


@hostile("odd counts/a.answer")
def _() -> bytes:
    usage = {"prompt_tokens": 10**300, "completion_tokens": -(10**300), "total_tokens": True}
    return json.dumps({"choices": [{"text": "a"}], "usage": usage}).encode()


@hostile("long names of files/a.description")
def _() -> bytes:
    files = [{"rfilename": "a/" * 500_000 + str(i), "size": 1} for i in range(4)]
    return json.dumps({"sha": "0" * 40, "siblings": files}).encode()


@hostile("files of one name/a.description")
def _() -> bytes:
    files = [{"rfilename": "a", "size": 1, "lfs": {"sha256": "0" * 64, "size": 1}}] * 40_000
    return json.dumps({"sha": "0" * 40, "siblings": files}).encode()


# Registries: exports as `huref registry add` and `pull` read them.


def _head(**changes: object) -> bytes:
    recipe = {"name": "x", "anchors": "latin", "m": 2048, "layers": [1, 2], "terms": "whitened",
              "damping": 0.1, "encoder": "x", "decoder": "x", **changes}  # fmt: skip
    return json.dumps({"huref": "registry", "recipe": recipe, "sketch": "signs-1"}).encode() + b"\n"


def _entry(**changes: object) -> bytes:
    entry = {"model": "a", "revision": None, "recipe": "x", "base": None, "measured_at": "2026",
             "measured_by": "x", "latent": "", "sketch": "", "anchors": "", **changes}  # fmt: skip
    return json.dumps(entry).encode() + b"\n"


@hostile("empty lines/a.jsonl")
def _() -> bytes:
    return _head() + b"\n" * 2_000_000


@hostile("small entries/a.jsonl")
def _() -> bytes:
    return _head() + _entry() * 20_000


@hostile("a long name/a.jsonl")
def _() -> bytes:
    return _head() + _entry(model="a" * 6_000_000)


@hostile("a long array/a.jsonl")
def _() -> bytes:
    return _head() + _entry(latent=base64.b64encode(bytes(9_000_000)).decode())


@hostile("arrays that are no base 64/a.jsonl")
def _() -> bytes:
    return _head() + _entry(sketch="=" * 4_000_000)


@hostile("many layers/a.jsonl")
def _() -> bytes:
    return _head(layers=list(range(400_000))) + _entry()


@hostile("numbers of layers/a.jsonl")
def _() -> bytes:
    return _head(layers=[10**4000, -(10**4000)], damping=1e308, m=-1) + _entry()


@hostile("deep lines/a.jsonl")
def _() -> bytes:
    return _head() + (b'{"a":' + b"[" * 98 + b"]" * 98 + b"}\n") * 10_000


@hostile("lists in short lines/a.jsonl")
def _() -> bytes:
    return _head() + (b'{"a":[' + b"[]," * 90 + b"0]}\n") * 12_000


@hostile("a long signature/a.jsonl")
def _() -> bytes:
    return _head() + _entry(signer="0" * 2_000_000, signature="A" * 2_000_000)


@hostile("a line without an end/a.jsonl")
def _() -> bytes:
    return _head() + b'{"model":"' + b"a" * 17_000_000
