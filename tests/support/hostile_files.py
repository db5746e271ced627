"""Small files that try to cost much memory or time, by kind; each is made without much of either.

Every entry is a name and a function that writes one file into a folder and returns its path. The
suffix decides which parser `read_file` of `tests/support/read_within_limits.py` runs.
"""

import base64
import json
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

Maker = Callable[[Path], Path]
FILES: dict[str, Maker] = {}
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)


def hostile(name: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Register a function that returns the bytes of a file."""

    def register(make: Callable[[], bytes]) -> Callable[[], bytes]:
        def write(folder: Path) -> Path:
            path = folder / name.rpartition("/")[2]
            path.write_bytes(make())
            return path

        FILES[name] = write
        return make

    return register


# JSON of all kinds: a config, a header of safetensors, an index, tokenizers.


def _safetensors(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


@hostile("lists/config.json")
def _() -> bytes:
    return b'{"a":[' + b"[]," * 4_000_000 + b"0]}"


@hostile("dicts/config.json")
def _() -> bytes:
    return b'{"a":[' + b'{"":{}},' * 1_000_000 + b"0]}"


@hostile("deep/config.json")
def _() -> bytes:
    return b'{"a":' * 900 + b"1" + b"}" * 900


@hostile("pairs/config.json")
def _() -> bytes:
    return b'{"a":[' + b'{"":0},' * 400_000 + b"0]}"


@hostile("wide characters/config.json")
def _() -> bytes:
    return b'{"a":"' + "😀".encode() + b"a" * 8_000_000 + b'"}'


@hostile("many numbers/config.json")
def _() -> bytes:
    return b'{"a":[' + b"1e9," * 2_000_000 + b"0]}"


@hostile("lists/header.safetensors")
def _() -> bytes:
    return _safetensors(b'{"a":[' + b"[]," * 4_000_000 + b"0]}")


@hostile("least tensors/header.safetensors")
def _() -> bytes:
    entries = (
        b'"%x":{"dtype":"U8","shape":[],"data_offsets":[%d,%d]}' % (i, i, i + 1)
        for i in range(60_000)
    )
    return _safetensors(b"{" + b",".join(entries) + b"}", bytes(60_000))


@hostile("long shapes/header.safetensors")
def _() -> bytes:
    shape = b"[" + b"1," * 2_000_000 + b"1]"
    return _safetensors(b'{"a":{"dtype":"U8","shape":' + shape + b',"data_offsets":[0,1]}}', b"0")


@hostile("colliding ids/tokenizer.json")
def _() -> bytes:
    vocabulary = {f"t{i}": i * (2**61 - 1) for i in range(60_000)}
    return json.dumps({"model": {"type": "BPE", "vocab": vocabulary, "merges": []}}).encode()


@hostile("short pieces/tokenizer.json")
def _() -> bytes:
    vocabulary = ",".join(f'["{i:x}",0]' for i in range(120_000))
    text = '{"model":{"type":"Unigram","unk_id":0,"vocab":[' + vocabulary + "]}}"
    return text.encode()


@hostile("nested pre-tokenizers/tokenizer.json")
def _() -> bytes:
    part = '{"type":"Sequence","pretokenizers":['
    text = '{"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"pre_tokenizer":'
    return (text + part * 480 + "]}" * 480 + "}").encode()


@hostile("colliding ids/vocab.json")
def _() -> bytes:
    return json.dumps({f"t{i}": i * (2**61 - 1) for i in range(60_000)}).encode()


@hostile("short pieces/vocab.json")
def _() -> bytes:
    return ("{" + ",".join(f'"{i:x}":{i}' for i in range(150_000)) + "}").encode()


@hostile("lists/vocab.json")
def _() -> bytes:
    return b'{"a":[' + b"[]," * 2_000_000 + b"0]}"


# Vocabularies without JSON.


@hostile("empty lines/vocab.txt")
def _() -> bytes:
    return b"\n" * 4_000_000


@hostile("short lines/vocab.txt")
def _() -> bytes:
    return b"".join(b"%x\n" % i for i in range(160_000))


@hostile("carriage returns/vocab.txt")
def _() -> bytes:
    return b"\r\n" * 2_000_000


@hostile("empty pieces/tokenizer.model")
def _() -> bytes:
    return b"\x0a\x00" * 2_000_000


@hostile("short pieces/tokenizer.model")
def _() -> bytes:
    texts = (b"%x" % i for i in range(150_000))
    pieces = (bytes([0x0A, len(t)]) + t for t in texts)
    return b"".join(bytes([0x0A, len(p)]) + p for p in pieces)


@hostile("many fields/tokenizer.model")
def _() -> bytes:
    return b"\x0a\x03\x0a\x01a" + b"\x10\x00" * 1_000_000


@hostile("short lines/a.tiktoken")
def _() -> bytes:
    return b"".join(b"AA== %d\n" % i for i in range(200_000))


@hostile("empty lines/a.tiktoken")
def _() -> bytes:
    return b"AA== 1\n" + b"\n" * 4_000_000


@hostile("long ranks/a.tiktoken")
def _() -> bytes:
    return b"".join(b"AA== " + b"9" * 4000 + b"%d\n" % i for i in range(1000))


# Pickles. Legacy torch files need no zip around them.


def _legacy(value: bytes, keys: bytes = b"]") -> bytes:
    head = MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    return head + b"\x80\x02" + value + b"." + b"\x80\x02" + keys + b"."


SIZE = b"ctorch\nSize\n"


@hostile("sizes of a text/a.bin")
def _() -> bytes:
    text = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000
    return _legacy(SIZE + b"q\x00" + text + b"\x85q\x010" + b"h\x00h\x01R" * 200_000)


@hostile("copies of a list/a.bin")
def _() -> bytes:
    row = b"](" + b"K\x01" * 100_000 + b"e"
    return _legacy(SIZE + b"q\x00" + row + b"\x85q\x01" + b"h\x00h\x01R" * 100_000)


@hostile("colliding keys/a.bin")
def _() -> bytes:
    keys = (((i + 1) * (2**61 - 1)).to_bytes(11, "little") for i in range(60_000))
    return _legacy(b"}(" + b"".join(b"\x8a\x0b" + key + b"N" for key in keys) + b"u")


@hostile("colliding pairs/a.bin")
def _() -> bytes:
    keys = (((i + 1) * (2**61 - 1)).to_bytes(11, "little") for i in range(60_000))
    pairs = b"".join(b"\x8a\x0b" + key + b"N\x86" for key in keys)
    return _legacy(b"ccollections\nOrderedDict\n](" + pairs + b"e\x85R")


@hostile("empty lists/a.bin")
def _() -> bytes:
    return _legacy(b"(" + b"]" * 3_000_000 + b"l")


@hostile("empty dicts/a.bin")
def _() -> bytes:
    return _legacy(b"](" + b"}" * 3_000_000 + b"e")


@hostile("memo of nothing/a.bin")
def _() -> bytes:
    return _legacy(b"N" + b"".join(b"r" + struct.pack("<I", i) for i in range(600_000)))


@hostile("nested keys/a.bin")
def _() -> bytes:
    doubled = b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))
    return _legacy(b"}", b"]q\x00" + doubled)


# GGUF: experts without bytes, arrays, tensors.


def _gguf(values: bytes = b"", count: int = 0, tensors: bytes = b"", number: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, number, count) + values + tensors


def _text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _tensor(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return _text(name) + axes + struct.pack("<IQ", kind, offset)


@hostile("experts without bytes/a.gguf")
def _() -> bytes:
    names = [b"blk.%d.ffn_up_exps.weight" % i for i in range(300)]
    tensors = b"".join(_tensor(name, (0, 4, 100_000)) for name in names)
    return _gguf(tensors=tensors, number=300)


@hostile("experts of a byte/a.gguf")
def _() -> bytes:
    names = [b"blk.%d.ffn_up_exps.weight" % i for i in range(40)]
    tensors = b"".join(_tensor(n, (1, 1, 50_000), 24, 50_048 * i) for i, n in enumerate(names))
    return _gguf(tensors=tensors, number=40) + bytes(40 * 50_048 + 64)


@hostile("nested arrays/a.gguf")
def _() -> bytes:
    inner = struct.pack("<IQ", 4, 0) * 300_000
    return _gguf(_text(b"a") + struct.pack("<IIQ", 9, 9, 300_000) + inner, 1)


@hostile("short numbers/a.gguf")
def _() -> bytes:
    return _gguf(_text(b"a") + struct.pack("<IIQ", 9, 3, 3_000_000) + bytes(range(250)) * 24_000, 1)


@hostile("empty strings/a.gguf")
def _() -> bytes:
    return _gguf(_text(b"a") + struct.pack("<IIQ", 9, 8, 600_000) + bytes(8 * 600_000), 1)


@hostile("least tensors/a.gguf")
def _() -> bytes:
    names = (b"%x" % i for i in range(90_000))
    return _gguf(tensors=b"".join(_tensor(name, (0,)) for name in names), number=90_000)


@hostile("a vocabulary of nothing/vocabulary.gguf")
def _() -> bytes:
    key = _text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 600_000)
    return _gguf(key + bytes(8 * 600_000), 1)


# NVIDIA's StyleGAN2 pickles.

PERSISTENT = b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n"


def _module(kind: bytes, members: bytes) -> bytes:
    """A module whose `_modules` are the pairs in `members`; leaves it on the stack."""
    empty = b"".join(b"\x8c%c%s}" % (len(name), name) for name in (b"_parameters", b"_buffers"))
    state = b"}(" + empty + b"\x8c\x08_modules}(" + members + b"uu"
    meta = b"}(\x8c\x04type\x8c\x05class\x8c\x0aclass_name\x8c%c%s\x8c\x05state" % (len(kind), kind)
    return b"\x80\x04"[:0] + PERSISTENT + meta + state + b"u\x85R"


@hostile("shared modules/a.pkl")
def _() -> bytes:
    made = b"}"
    body = _module(b"M", b"") + b"r\x00\x00\x00\x000"
    for level in range(40):
        last, this = struct.pack("<I", level), struct.pack("<I", level + 1)
        members = b"".join(b"\x8c\x02%02dj%s" % (i, last) for i in range(40))
        body += _module(b"M", members) + b"r" + this + b"0"
    top = b"j" + struct.pack("<I", 40)
    return b"\x80\x04" + body + made + b"\x8c\x05G_ema" + top + b"s."


@hostile("a shared dict/a.pkl")
def _() -> bytes:
    many = b"}(" + b"".join(b"\x8c\x05%05dN" % i for i in range(20_000)) + b"ur\x01\x00\x00\x000"
    parts = b""
    for i in range(400):
        state = b"}(" + b"\x8c\x0b_parametersj\x01\x00\x00\x00\x8c\x08_buffers}\x8c\x08_modules}u"
        meta = b"}(\x8c\x04type\x8c\x05class\x8c\x0aclass_name\x8c\x01M\x8c\x05state"
        parts += b"\x8c\x03%03d" % i + PERSISTENT + meta + state + b"u\x85R"
    return b"\x80\x04" + many + b"}\x8c\x05G_ema" + _module(b"M", parts) + b"s."


@hostile("empty sets/a.pkl")
def _() -> bytes:
    return b"\x80\x04(" + b"\x8f" * 2_000_000 + b"l."


# PNG and registries.


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(*chunks: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    image = _chunk(b"IDAT", zlib.compress(bytes(8 * 25)))
    return b"\x89PNG\r\n\x1a\n" + header + image + b"".join(chunks) + _chunk(b"IEND", b"")


@hostile("a bomb of text/a.png")
def _() -> bytes:
    bomb = zlib.compress(bytes(900_000), 9)
    return _png(*(_chunk(b"zTXt", b"k%d\0\0" % i + bomb) for i in range(300)))


@hostile("a long text/a.png")
def _() -> bytes:
    return _png(_chunk(b"zTXt", b"huref:latent\0\0" + zlib.compress(bytes(400_000_000), 9)))


@hostile("lists in the recipe/a.png")
def _() -> bytes:
    return _png(_chunk(b"tEXt", b"huref:recipe.json\0" + b"[" + b"[]," * 300_000 + b"0]"))


@hostile("a long first line/a.jsonl")
def _() -> bytes:
    return b'{"huref":"' + b"a" * 20_000_000


@hostile("lists/a.jsonl")
def _() -> bytes:
    return b'{"recipe":[' + b"[]," * 3_000_000 + b"0]}\n"


@hostile("a large recipe/a.jsonl")
def _() -> bytes:
    recipe = {"name": "x", "anchors": "latin", "m": 10**12, "layers": [1], "terms": "x",
              "damping": 0.1, "encoder": "x", "decoder": "x"}  # fmt: skip
    return json.dumps({"recipe": recipe, "sketch": "signs-1"}).encode() + b"\n{}\n"


# Answers of endpoints and of the Hub, as their bytes reach the parsers.


@hostile("a count of bytes/a.answer")
def _() -> bytes:
    entry = {"token": "a", "logprob": -1.0, "bytes": 3_000_000_000}
    return json.dumps({"choices": [{"text": "a", "logprobs": {"content": [entry]}}]}).encode()


@hostile("lists/a.answer")
def _() -> bytes:
    return b'{"choices":[' + b"[]," * 2_000_000 + b"0]}"


@hostile("many tokens/a.answer")
def _() -> bytes:
    top = [{"token": f"{i:x}", "logprob": -1} for i in range(50_000)]
    entry = {"token": "a", "logprob": -1.0, "top_logprobs": top}
    return json.dumps({"choices": [{"logprobs": {"content": [entry]}}]}).encode()


@hostile("many files/a.description")
def _() -> bytes:
    files = [{"rfilename": f"{i:x}", "size": 1} for i in range(100_000)]
    return json.dumps({"sha": "0" * 40, "siblings": files}, separators=(",", ":")).encode()


@hostile("lists/a.description")
def _() -> bytes:
    return b'{"siblings":[' + b"[]," * 2_000_000 + b"0]}"


@hostile("deep/a.description")
def _() -> bytes:
    return b'{"cardData":' * 5000 + b"1" + b"}" * 5000


# YAML of model cards, merges and recipes.


def _card(body: bytes) -> bytes:
    return b"---\n" + body + b"\n---\n"


@hostile("lists/README.md")
def _() -> bytes:
    return _card(b"a: [" + b"[]," * 300_000 + b"0]")


@hostile("a tower of aliases/README.md")
def _() -> bytes:
    floors = (b"a%d: &a%d [%s]" % (i, i, b",".join([b"*a%d" % (i - 1)] * 4)) for i in range(1, 40))
    return _card(b"a0: &a0 [x]\n" + b"\n".join(floors) + b"\nbase_model: *a39")


@hostile("an alias of itself/README.md")
def _() -> bytes:
    return _card(b"base_model: &a\n  model: *a")


@hostile("merge keys/README.md")
def _() -> bytes:
    floors = (b"a%d: &a%d {<<: [%s]}" % (i, i, b",".join([b"*a%d" % (i - 1)] * 20))
              for i in range(1, 12))  # fmt: skip
    return _card(b"a0: &a0 {k: v}\n" + b"\n".join(floors))


@hostile("a number of base 60/README.md")
def _() -> bytes:
    return _card(b"a: 1" + b":59" * 300_000)


@hostile("short lines/README.md")
def _() -> bytes:
    return _card(b"- a\n" * 250_000)


@hostile("colliding keys/README.md")
def _() -> bytes:
    return _card(b"".join(b"? %d\n: x\n" % ((i + 1) * (2**61 - 1)) for i in range(30_000)))


@hostile("an alias of itself/mergekit_config.yml")
def _() -> bytes:
    return b"base_model: &a\n  model: *a\n"


@hostile("many models/mergekit_config.yml")
def _() -> bytes:
    return b"models:\n" + b"- model: a/b\n" * 70_000


@hostile("slices of one list/mergekit_config.yml")
def _() -> bytes:
    sources = b"".join(b"- model: a/b%d\n" % i for i in range(1000))
    return b"s: &s\n" + sources + b"slices:\n" + b"- sources: *s\n" * 1000


@hostile("a tower of aliases/recipe.yaml")
def _() -> bytes:
    floors = (b"a%d: &a%d [%s]" % (i, i, b",".join([b"*a%d" % (i - 1)] * 4)) for i in range(1, 40))
    return b"a0: &a0 [x]\n" + b"\n".join(floors) + b"\nname: *a39\n"


@hostile("a number of base 60/recipe.yaml")
def _() -> bytes:
    return b"name: x\nm: 1" + b":59" * 300_000 + b"\n"


@hostile("lists/recipe.yaml")
def _() -> bytes:
    return b"name: [" + b"[]," * 300_000 + b"0]"


# Statements, lists of pairs, patterns of an adapter.


@hostile("dicts/a.attestation")
def _() -> bytes:
    return b'{"a":[' + b'{"":{}},' * 1_000_000 + b"0]}"


@hostile("lists in the payload/a.attestation")
def _() -> bytes:
    payload = (
        b'{"_type":"https://in-toto.io/Statement/v1","subject":[' + b"[]," * 2_000_000 + b"0]}"
    )
    return json.dumps(
        {
            "payloadType": "application/vnd.in-toto+json",
            "payload": base64.b64encode(payload).decode(),
            "signatures": [{"sig": "AAAA"}],
        }
    ).encode()


@hostile("many timestamps/a.attestation")
def _() -> bytes:
    token = {"type": "rfc3161", "data": "AAAA"}
    signature = {"sig": "AAAA", "timestamps": [token] * 200_000}
    return json.dumps({"payloadType": "x", "payload": "AAAA", "signatures": [signature]}).encode()


@hostile("short rows/pairs.tsv")
def _() -> bytes:
    return b"id_a\tid_b\texpected\n" + b"a\tb\tx\n" * 500_000


@hostile("many columns/pairs.tsv")
def _() -> bytes:
    return b"id_a\tid_b\texpected" + b"\tc" * 1_000_000 + b"\na\tb\tdescends\n"


@hostile("columns by rows/pairs.tsv")
def _() -> bytes:
    names = b"".join(b"\tc%d" % i for i in range(3000))
    return b"id_a\tid_b\texpected" + names + b"\n" + b"a\tb\tdescends\n" * 3000


def _patterns(*patterns: str) -> bytes:
    return json.dumps({"peft_type": "LORA", "alpha_pattern": dict.fromkeys(patterns, 3)}).encode()


@hostile("optional letters/adapter_config.json")
def _() -> bytes:
    return _patterns("a?" * 40 + "a" * 40)


@hostile("equal alternatives/adapter_config.json")
def _() -> bytes:
    return _patterns("(a|a)" * 60 + "b")


@hostile("six stars/adapter_config.json")
def _() -> bytes:
    return _patterns(".*" * 6 + "!")


@hostile("nested repetitions/adapter_config.json")
def _() -> bytes:
    return _patterns("((((((a{1,9}){1,9}){1,9}){1,9}){1,9}){1,9})", "(a*)*b", "(a+)+$")


@hostile("many patterns/adapter_config.json")
def _() -> bytes:
    return _patterns(*(f"{i:x}.*" for i in range(9000)))
