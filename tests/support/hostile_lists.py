"""Files beside a model's that try to cost much: lists, journals, keys, manifests, baselines.

As in `tests.support.hostile_files`, which has the first ones.
"""

import base64
import json
import struct
from collections.abc import Callable
from pathlib import Path

from tests.support.hostile_files import FILES, _legacy, _safetensors

Bytes = Callable[[], bytes]
FAR = 2**61 - 1  # multiples of it hash alike

JSON: dict[str, Bytes] = {
    "lists": lambda: b'{"a":[' + b"[]," * 1_000_000 + b"0]}",
    "dicts": lambda: b'{"a":[' + b'{"":{}},' * 400_000 + b"0]}",
    "deep": lambda: b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "short keys": lambda: b"{" + b",".join(b'"%x":1' % i for i in range(200_000)) + b"}",
    "colliding numbers": lambda: (
        b"{" + b",".join(b'"%x":%d' % (i, i * FAR) for i in range(60_000)) + b"}"
    ),
    "a key twice": lambda: b"{" + b",".join([b'"a":{}'] * 300_000) + b"}",
    "short texts": lambda: b'["' + b'","'.join([b"ab"] * 500_000) + b'"]',
}
LINES: dict[str, Bytes] = {
    "short lines": lambda: b"a\n" * 700_000,
    "names": lambda: b"".join(b"a/%x\n" % i for i in range(150_000)),
    "empty lines": lambda: b"\n" * 3_000_000,
    "one long line": lambda: b"a" * 3_000_000,
    "tabs": lambda: b"\t" * 2_000_000,
    "comments": lambda: b"#\n" * 1_000_000,
    "returns": lambda: b"a\r" * 700_000,
    "wide letters": lambda: "😀/a\n".encode() * 200_000,
    "line ends of Unicode": lambda: "a b\u2028".encode() * 200_000,
    "zeros": lambda: bytes(2_000_000),
}


def _journal(fields: bytes, count: int) -> bytes:
    line = b'{"listed":"%x","model":"a","revision":null,"recipe":"r","status":"done",%s"at":"x"}\n'
    return b"".join(line % (i, fields) for i in range(count))


def _pem(kind: bytes, body: bytes) -> bytes:
    return b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (kind, body, kind)


def _der(kind: int, body: bytes) -> bytes:
    return bytes([kind, 0x84]) + struct.pack(">I", len(body)) + body


def _long_key() -> bytes:
    """A public key of RSA of 800,000 bits."""
    number = _der(2, b"\0" + b"\xff" * 100_000) + _der(2, b"\x7f" * 100_000)
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    key = _der(0x30, algorithm + _der(3, b"\0" + _der(0x30, number)))
    return _pem(b"PUBLIC KEY", base64.b64encode(key))


OTHERS: dict[str, dict[str, Bytes]] = {
    "tekken.json": {
        "many tokens": lambda: json.dumps({
            "vocab": [{"rank": i, "token_bytes": base64.b64encode(b"%x" % i).decode()}
                      for i in range(60_000)],
            "config": {"pattern": "(a*)*b", "default_vocab_size": 61_000,
                       "default_num_special_tokens": 1000},
        }).encode(),
        "ranks far apart": lambda: json.dumps({
            "vocab": [{"rank": i * 10**12, "token_bytes": "YQ=="} for i in range(30_000)],
            "config": {"default_vocab_size": 10**12, "default_num_special_tokens": 10**12},
        }).encode(),
        "many special tokens": lambda: json.dumps({
            "vocab": [],
            "special_tokens": [{"rank": i, "token_str": f"{i:x}"} for i in range(60_000)],
            "config": {"default_vocab_size": 10**11, "default_num_special_tokens": 10**11},
        }).encode(),
    },
    "tokenizer_config.json": {
        "added tokens": lambda: json.dumps({"added_tokens_decoder": {
            str(i): {"content": f"{i:x}"} for i in range(40_000)}}).encode(),
        "added tokens that collide": lambda: json.dumps({"added_tokens_decoder": {
            str(i * FAR): {"content": f"{i:x}"} for i in range(40_000)}}).encode(),
    },
    "special_tokens_map.json": {
        "many special tokens": lambda: json.dumps(
            {"additional_special_tokens": [f"<{i:x}>" for i in range(150_000)]}).encode(),
    },
    "added_tokens.json": {
        "ids far apart": lambda: json.dumps({f"{i:x}": i * 10**15 for i in range(90_000)}).encode(),
    },
    "merges.txt": {
        "prefixes of one word": lambda: b"".join(b"a" * i + b" a\n" for i in range(1, 2000)),
        "pairs": lambda: b"".join(b"%x %x\n" % (i, i + 1) for i in range(150_000)),
        "spaces": lambda: b" " * 3_000_000,
    },
    "journal": {
        "lines": lambda: _journal(b"", 30_000),
        "deep lines": lambda: (b"[" * 90 + b"]" * 90 + b"\n") * 8000,
        "lines with a list": lambda: _journal(b'"kind":[' + b"[]," * 100 + b"0],", 5000),
    },
    "a.pem": {
        "many keys": lambda: _pem(b"PUBLIC KEY", b"MDAwMDAw") * 20_000,
        "a long key": lambda: _pem(b"PUBLIC KEY", b"A" * 3_000_000),
        "beginnings": lambda: b"-----BEGIN CERTIFICATE-----\n" * 100_000,
        "dashes": lambda: b"-" * 3_000_000,
        "many certificates": lambda: _pem(b"CERTIFICATE", b"MAMCAQE=") * 20_000,
        "deep DER": lambda: _pem(b"PUBLIC KEY", base64.b64encode(b"\x30\x80" * 300_000)),
        "headers": lambda: b"-----BEGIN RSA PRIVATE KEY-----\n" + b"A: b\n" * 200_000,
        "a key of many bits": _long_key,
    },
    "a.tst": {
        "deep": lambda: b"\x30\x80" * 500_000,
        "a length beyond all": lambda: b"\x30\x84\x7f\xff\xff\xff" + b"\x30" * 1_000_000,
        "zeros": lambda: bytes(2_000_000),
        "empty sequences": lambda: _der(0x30, b"\x30\x00" * 1_000_000),
        "short identifiers": lambda: _der(0x30, b"\x06\x01\x2a" * 600_000),
    },
    "signature.safetensors": {
        "short notes": lambda: _safetensors(json.dumps(
            {"__metadata__": {f"{i:x}": "a" for i in range(150_000)}}).encode()),
        "lists": lambda: _safetensors(b'{"a":[' + b"[]," * 1_000_000 + b"0]}"),
        "dicts": lambda: _safetensors(b'{"a":[' + b'{"":{}},' * 400_000 + b"0]}"),
    },
    "manifest": {
        "many layers": lambda: json.dumps({"schemaVersion": 2, "layers": [
            {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "0" * 64}
        ] * 20_000}).encode(),
    },
    "network.pt": {
        "lists": lambda: _legacy(b"(" + b"]" * 2_000_000 + b"l"),
        "items one by one": lambda: _legacy(b"]" * 500_000 + b"a" * 499_999),
        "many keys": lambda: _legacy(b"}X\5\0\0\0g_ema}(" + b"".join(
            b"X\4\0\0\0%04xK\1" % (i % 65536) for i in range(150_000)) + b"us"),
    },
}  # fmt: skip
KINDS = {
    **dict.fromkeys(
        ("tekken.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
         "a.baseline", "manifest", "pytorch_model.bin.index.json", "params.json"), JSON),
    **dict.fromkeys(("merges.txt", "models.txt", "journal"), LINES),
    "a.pem": {}, "a.tst": {}, "signature.safetensors": {}, "network.pt": {},
}  # fmt: skip


def _register(name: str, make: Bytes) -> None:
    def write(folder: Path) -> Path:
        path = folder / name.rpartition("/")[2]
        path.write_bytes(make())
        return path

    FILES[name] = write


for _kind, _general in KINDS.items():
    for _what, _make in (_general | OTHERS.get(_kind, {})).items():
        _register(f"{_what}/{_kind}", _make)
