"""More small files that try to cost much: pickles, GGUF, safetensors, PNG, StyleGAN2's pickles.

As in `tests.support.hostile_files`, which has the first ones.
"""

import io
import json
import struct
import zipfile
import zlib

from tests.support.hostile_files import (
    PERSISTENT,
    SIZE,
    _chunk,
    _gguf,
    _legacy,
    _module,
    _png,
    _safetensors,
    _tensor,
    _text,
    hostile,
)

# Pickles.

STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
)
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@hostile("recalls of one memo/a.bin")
def _() -> bytes:
    return _legacy(b"(]q\x00" + b"h\x00" * 1_200_000 + b"l")


@hostile("a tower of tuples/a.bin")
def _() -> bytes:
    return _legacy(b")" + b"\x85" * 900_000)


@hostile("a list in itself/a.bin")
def _() -> bytes:
    return _legacy(b"]q\x00(" + b"h\x00" * 500_000 + b"e")


@hostile("marks/a.bin")
def _() -> bytes:
    return _legacy(b"(" * 1_000_000 + b"t" * 1_000_000)


@hostile("short globals/a.bin")
def _() -> bytes:
    return _legacy(b"(" + SIZE * 200_000 + b"t")


@hostile("empty texts/a.bin")
def _() -> bytes:
    return _legacy(b"(" + b"\x8c\x00" * 900_000 + b"t")


@hostile("frames/a.bin")
def _() -> bytes:
    return _legacy(b"\x95" + bytes(8) + (b"\x95" + bytes(8)) * 200_000 + b"N")


@hostile("long numbers/a.bin")
def _() -> bytes:
    return _legacy(b"(" + (b"\x8a\xff" + b"\x7f" * 255) * 8000 + b"t")


@hostile("items one by one/a.bin")
def _() -> bytes:
    return _legacy(b"]" + b"Na" * 700_000)


@hostile("views of one storage/a.bin")
def _() -> bytes:
    storage = STORAGE + b"q\x000"
    view = REBUILD + b"(h\x00K\x00)" + b")\x89}tR"
    names = (b"X\x05\x00\x00\x00%05d" % i for i in range(20_000))
    return _legacy(
        storage + b"}(" + b"".join(name + view for name in names) + b"u", b"](X\x01\x00\x00\x000e"
    )


@hostile("builds/a.bin")
def _() -> bytes:
    return _legacy(b"}" + b"}b" * 500_000)


@hostile("deep objects that are passed over/a.bin")
def _() -> bytes:
    return _legacy(b"cargparse\nNamespace\n" + b")\x81" * 400_000)


def _zip(files: list[tuple[str, bytes]], comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data)
        archive.comment = comment
    return buffer.getvalue()


@hostile("many records of a zip/a.bin")
def _() -> bytes:
    return _zip([("a/data.pkl", b"\x80\x02}."), *((f"a/data/{i:x}", b"") for i in range(30_000))])


@hostile("a pickle in a zip/a.bin")
def _() -> bytes:
    pickled = b"\x80\x02N" + b"".join(b"r" + struct.pack("<I", i) for i in range(500_000)) + b"."
    return _zip([("a/data.pkl", pickled)])


@hostile("a directory of many/a.bin")
def _() -> bytes:
    """The end of a zip states 65,535 records in a directory that repeats one."""
    whole = _zip([("a/data.pkl", b"\x80\x02}.")])
    start = whole.rfind(b"PK\x01\x02")
    end = whole.rfind(b"PK\x05\x06")
    record = whole[start:end]
    directory = record * 60_000
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 60_000, 60_000, len(directory), start, 0)
    return whole[:start] + directory + tail


# GGUF.


@hostile("one key over and over/a.gguf")
def _() -> bytes:
    return _gguf((_text(b"a") + struct.pack("<IB", 7, 1)) * 90_000, 90_000)


@hostile("short keys/a.gguf")
def _() -> bytes:
    return _gguf(
        b"".join(_text(b"%x" % i) + struct.pack("<IB", 0, 1) for i in range(90_000)), 90_000
    )


@hostile("deep arrays/a.gguf")
def _() -> bytes:
    return _gguf(_text(b"a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100_000, 1)


@hostile("an array of more than there is/a.gguf")
def _() -> bytes:
    return _gguf(_text(b"a") + struct.pack("<IIQ", 9, 8, 2**60) + bytes(1_000_000), 1)


@hostile("a string of more than there is/a.gguf")
def _() -> bytes:
    return _gguf(struct.pack("<Q", 2**63 - 1) + bytes(1_000_000), 1)


@hostile("short strings/a.gguf")
def _() -> bytes:
    strings = b"".join(_text(b"%x" % (i % 16)) for i in range(500_000))
    return _gguf(_text(b"a") + struct.pack("<IIQ", 9, 8, 500_000) + strings, 1)


@hostile("truths/a.gguf")
def _() -> bytes:
    return _gguf(_text(b"a") + struct.pack("<IIQ", 9, 7, 4_000_000) + bytes(4_000_000), 1)


@hostile("long numbers/a.gguf")
def _() -> bytes:
    values = struct.pack("<Q", 2**64 - 1) * 500_000
    return _gguf(_text(b"a") + struct.pack("<IIQ", 9, 10, 500_000) + values, 1)


@hostile("sizes beyond all/a.gguf")
def _() -> bytes:
    shape = (2**63 - 1,) * 4
    return _gguf(tensors=_tensor(b"a", shape) * 20_000, number=20_000)


@hostile("experts of experts/a.gguf")
def _() -> bytes:
    names = (b"blk.0.ffn_up_exps.%d_exps.weight" % i for i in range(400))
    tensors = b"".join(_tensor(n, (1, 1, 900), 24, 928 * i) for i, n in enumerate(names))
    return _gguf(tensors=tensors, number=400) + bytes(928 * 400 + 64)


@hostile("long names/a.gguf")
def _() -> bytes:
    return _gguf(
        tensors=b"".join(_tensor(b"a" * 60_000 + b"%d" % i, (0,)) for i in range(60)), number=60
    )


@hostile("many parts/a.gguf")
def _() -> bytes:
    values = _text(b"split.count") + struct.pack("<IH", 2, 65535)
    values += _text(b"general.alignment") + struct.pack("<II", 4, 2**20)
    return _gguf(values, 2, _tensor(b"a", (1,)), 1) + bytes(2**20 + 64)


def _gguf_vocabulary(pieces: list[bytes], model: bytes, scores: bool) -> bytes:
    values = _text(b"tokenizer.ggml.model") + struct.pack("<I", 8) + _text(model)
    values += _text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, len(pieces))
    values += b"".join(map(_text, pieces))
    if scores:
        values += _text(b"tokenizer.ggml.scores") + struct.pack("<IIQ", 9, 6, len(pieces))
        values += struct.pack("<f", -1.0) * len(pieces)
    return _gguf(values, 2 + scores)


@hostile("one long piece/vocabulary.gguf")
def _() -> bytes:
    return _gguf_vocabulary([b"a", b"ab" * 400_000], b"llama", scores=True)


@hostile("prefixes of one word/vocabulary.gguf")
def _() -> bytes:
    return _gguf_vocabulary([b"a" * (i + 1) for i in range(1500)], b"llama", scores=True)


@hostile("prefixes of a lattice/vocabulary.gguf")
def _() -> bytes:
    return _gguf_vocabulary([b"a" * (i + 1) for i in range(1500)], b"t5", scores=True)


# Headers of safetensors.


def _entries(*entries: tuple[str, object]) -> bytes:
    return json.dumps(dict(entries), separators=(",", ":")).encode()


def _one(**changes: object) -> bytes:
    entry = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1], **changes}
    return _safetensors(_entries(("a", entry)), b"0")


@hostile("many notes/header.safetensors")
def _() -> bytes:
    return _safetensors(_entries(("__metadata__", {f"{i:x}": "" for i in range(200_000)})))


@hostile("empty tensors/header.safetensors")
def _() -> bytes:
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    return _safetensors(_entries(*((f"{i:x}", entry) for i in range(60_000))))


@hostile("one place for all/header.safetensors")
def _() -> bytes:
    entry = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    return _safetensors(_entries(*((f"{i:x}", entry) for i in range(40_000))), b"0")


@hostile("sizes beyond all/header.safetensors")
def _() -> bytes:
    entry = {"dtype": "F64", "shape": [2**61] * 64, "data_offsets": [0, 1]}
    return _safetensors(_entries(*((f"{i:x}", entry) for i in range(2000))), b"0")


@hostile("nothing times much/header.safetensors")
def _() -> bytes:
    return _one(shape=[0, 2**61, 2**61], data_offsets=[0, 0])


@hostile("a long name/header.safetensors")
def _() -> bytes:
    return _safetensors(_entries(("a" * 5_000_000, {"dtype": 7})), b"0")


@hostile("a long type/header.safetensors")
def _() -> bytes:
    return _one(dtype="F" * 5_000_000)


@hostile("space/header.safetensors")
def _() -> bytes:
    return _safetensors(b"{" + b" " * 6_000_000 + b"}")


@hostile("places that are no whole numbers/header.safetensors")
def _() -> bytes:
    return _one(data_offsets=[0.0, 1e308])


@hostile("one name over and over/header.safetensors")
def _() -> bytes:
    entry = b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    return _safetensors(b"{" + b",".join([entry] * 60_000) + b"}", b"0")


@hostile("a length beyond all/header.safetensors")
def _() -> bytes:
    return struct.pack("<Q", 2**64 - 1) + b"{" * 1_000_000


# PNG.

IMAGE = zlib.compress(bytes(8 * 25))


def _picture(*parts: bytes) -> bytes:
    """A PNG of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + _chunk(b"IEND", b"")


def _header(width: int, height: int, depth: int = 8, kind: int = 2, lace: int = 0) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, lace))


@hostile("many texts/a.png")
def _() -> bytes:
    return _png(_chunk(b"tEXt", b"k\0") * 200_000)


@hostile("texts of other names/a.png")
def _() -> bytes:
    return _png(*(_chunk(b"tEXt", b"%x\0" % i) for i in range(150_000)))


@hostile("empty parts of an image/a.png")
def _() -> bytes:
    return _picture(_header(8, 8), _chunk(b"IDAT", b"") * 200_000, _chunk(b"IDAT", IMAGE))


@hostile("the largest sides/a.png")
def _() -> bytes:
    return _picture(_header(2**31 - 1, 2**31 - 1), _chunk(b"IDAT", IMAGE))


@hostile("a large image of little/a.png")
def _() -> bytes:
    return _picture(_header(8192, 8192), _chunk(b"IDAT", zlib.compress(bytes(20_000_000), 9)))


@hostile("a large image of one bit/a.png")
def _() -> bytes:
    rows = zlib.compress(bytes(8192 * 1025), 9)
    return _picture(_header(8192, 8192, 1, 0), _chunk(b"IDAT", rows))


@hostile("a large interlaced image/a.png")
def _() -> bytes:
    return _picture(_header(8192, 8192, 1, 3, 1), _chunk(b"PLTE", bytes(6)), _chunk(b"IDAT", IMAGE))


@hostile("an image with more than it says/a.png")
def _() -> bytes:
    return _picture(_header(8, 8), _chunk(b"IDAT", zlib.compress(bytes(200_000_000), 9)))


@hostile("a bomb of a profile/a.png")
def _() -> bytes:
    return _png(_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(100_000_000), 9)))


@hostile("a bomb of international text/a.png")
def _() -> bytes:
    bomb = zlib.compress(bytes(900_000), 9)
    return _png(*(_chunk(b"iTXt", b"k%d\0\1\0\0\0" % i + bomb) for i in range(100)))


@hostile("frames/a.png")
def _() -> bytes:
    control = _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    return _picture(
        _header(8, 8), control, _chunk(b"IDAT", IMAGE), _chunk(b"fcTL", bytes(26)) * 50_000
    )


@hostile("an odd latent/a.png")
def _() -> bytes:
    return _png(_chunk(b"tEXt", b"huref:latent\0" + b"A" * 1_000_000))


@hostile("numbers in the recipe/a.png")
def _() -> bytes:
    return _png(_chunk(b"tEXt", b"huref:recipe.json\0" + b'{"m":' + b"9" * 900_000 + b"}"))


# NVIDIA's StyleGAN2 pickles.


def _network(body: bytes) -> bytes:
    return b"\x80\x04}\x8c\x05G_ema" + body + b"s."


@hostile("a tower of modules/a.pkl")
def _() -> bytes:
    """40 levels of modules, each with one inside."""
    body = _module(b"M", b"")
    for _ in range(40):
        body = _module(b"M", b"\x8c\x01m" + body)
    return _network(body)


@hostile("many modules/a.pkl")
def _() -> bytes:
    inner = _module(b"M", b"")
    return _network(_module(b"M", b"".join(b"\x8c\x05%05d" % i + inner for i in range(20_000))))


@hostile("modules without a name/a.pkl")
def _() -> bytes:
    return _network(_module(b"M", b"".join(b"N" + _module(b"M", b"") for _ in range(3000))))


def _blob(count: int) -> bytes:
    """A nested torch file of a storage of some elements."""
    return _legacy(STORAGE.replace(b"K\x01t", b"J" + struct.pack("<i", count) + b"t"),
                   b"](X\x01\x00\x00\x000e") + struct.pack("<q", count)  # fmt: skip


@hostile("many nested files/a.pkl")
def _() -> bytes:
    blob = _blob(1) + bytes(4)
    one = b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(blob)) + blob + b"\x85R0"
    return b"\x80\x04" + one * 6000 + b"}."


@hostile("a nested file in a nested file/a.pkl")
def _() -> bytes:
    blob = _blob(2**31 - 1)
    for _ in range(20):
        inner = (
            b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(blob)) + blob + b"\x85R"
        )
        blob = _legacy(inner)
    return b"\x80\x04B" + struct.pack("<I", len(blob)) + blob + b"."


@hostile("one nested file over and over/a.pkl")
def _() -> bytes:
    blob = _blob(1) + bytes(4)
    call = (
        b"ctorch.storage\n_load_from_bytes\nq\x00B"
        + struct.pack("<I", len(blob))
        + blob
        + b"\x85q\x01R0"
    )
    return b"\x80\x04" + call + b"h\x00h\x01R0" * 100_000 + b"}."


@hostile("sets of a long list/a.pkl")
def _() -> bytes:
    row = b"](" + b"K\x01" * 50_000 + b"e\x85q\x01"
    return b"\x80\x04cbuiltins\nset\nq\x000" + row + b"0" + b"h\x00h\x01R" * 50_000 + b"."


@hostile("options/a.pkl")
def _() -> bytes:
    return b"\x80\x04(" + b"cdnnlib.util\nEasyDict\n)\x81" * 40_000 + b"l."


@hostile("bytes that are passed over/a.pkl")
def _() -> bytes:
    return b"\x80\x04(" + (b"B" + struct.pack("<I", 1) + b"x") * 400_000 + b"l."


@hostile("a description of much/a.pkl")
def _() -> bytes:
    state = b"}(" + b"".join(b"\x8c\x05%05dN" % i for i in range(100_000)) + b"u"
    meta = b"}(\x8c\x04type\x8c\x05class\x8c\x0aclass_name\x8c\x01M\x8c\x05state"
    return _network(PERSISTENT + meta + state + b"u\x85R")


@hostile("recalls of a module/a.pkl")
def _() -> bytes:
    inner = _module(b"M", b"") + b"r\x00\x00\x00\x000"
    members = b"".join(b"\x8c\x05%05dj\x00\x00\x00\x00" % i for i in range(30_000))
    return b"\x80\x04" + inner + b"}\x8c\x05G_ema" + _module(b"M", members) + b"s."


@hostile("the TensorFlow version/a.pkl")
def _() -> bytes:
    return b"\x80\x03cdnnlib.tflib.network\nNetwork\n" + b")\x81" * 300_000 + b"."
