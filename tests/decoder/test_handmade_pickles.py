"""Pickles that no pickler writes: bombs, unknown instructions, and NVIDIA's modules by hand."""

import struct
from pathlib import Path

import pytest

from huref.decoder.nvidia_pickles import read_network
from tests.support.refusals import refuses_to_open


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def module(modules: bytes) -> bytes:
    """A handmade pickle of a module; `modules` builds the dict _modules."""
    state = b"}(" + text("_parameters") + b"}" + text("_buffers") + b"}"
    state += text("_modules") + modules + b"u"
    meta = b"}(" + text("type") + text("class") + text("class_name") + text("Block")
    meta += text("state") + state + b"u"
    return b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n(" + meta + b"tR"


def network_file(network: bytes) -> bytes:
    return b"\x80\x03}" + text("G_ema") + network + b"s."


def shared(levels: int) -> bytes:
    """Modules with the same child twice: 2^levels paths in a few bytes per level."""
    pushes = module(b"}") + b"q\x00"
    for _ in range(levels):
        pushes += b"0" + module(b"}(" + text("a") + b"h\x00" + text("b") + b"h\x00u") + b"q\x00"
    return pushes


def deep(levels: int) -> bytes:
    pushes = module(b"}") + b"q\x00"
    for _ in range(levels):
        pushes += b"0" + module(b"}(" + text("a") + b"h\x00u") + b"q\x00"
    return pushes


# The dict _modules is stored in the memo; then the finished module is inserted into it.
CYCLE = module(b"}q\x07") + b"q\x08h\x07" + text("self") + b"h\x08s0"

BOMBS = {
    "shared modules": network_file(shared(12)),
    "a module in itself": network_file(CYCLE),
    "deep modules": network_file(deep(5000)),
    "nested tuples": network_file(b")" + b"\x85" * 300_000),
    "nested lists": network_file(b"]" * 300_000 + b"a" * 299_999),
    "millions of instructions": b"\x80\x03" + b"N0" * 4_000_000 + b"N.",
    "text of 2^60 bytes": b"\x80\x03\x8d" + struct.pack("<Q", 2**60) + b"x.",
    "bytes of 2^60": b"\x80\x03\x8e" + struct.pack("<Q", 2**60) + b"x.",
    "bytes of 2^32": b"\x80\x03B\xff\xff\xff\xffx.",
    "copies of a set": b"\x80\x03](" + b"K\x01" * 50_000 + b"eq\x00"
    + (b"cbuiltins\nset\nh\x00\x85R0") * 20_000 + b".",
    "no root": b"\x80\x03" + b" " * 40,
    "no network": network_file(b"}"),
    "cut short": network_file(module(b"}"))[:-20],
    "INST": network_file(b"(ios\nsystem\n"),
    "OBJ": network_file(b"(cos\nsystem\no"),
    "BINPERSID": network_file(text("storage") + b"Q"),
    "PERSID": network_file(b"Pstorage\n"),
    "EXT1": network_file(b"\x82\x01"),
    "NEWOBJ of a dict": network_file(b"ccollections\nOrderedDict\n)\x81"),
    "NEWOBJ with arguments": network_file(b"cdnnlib.util\nEasyDict\n}\x85\x81"),
    "NEWOBJ_EX": network_file(b"cdnnlib.util\nEasyDict\n)}\x92"),
    "dotted name": network_file(
        b"\x8c\x17torch_utils.persistence\x8c\x09os.system\x93" + text("x") + b"\x85R"
    ),
    "constructor without meta": network_file(
        b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n)R"
    ),
    "constructor with two": network_file(
        b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n}}\x86R"
    ),
    "a storage by name": network_file(b"ctorch\nFloatStorage\n)R"),
    "a dtype that is called": network_file(b"ctorch\nfloat32\n)R"),
    "module as a key": network_file(b"}" + module(b"}") + b"Ns"),
    "empty stack": b"\x80\x03" + b"0" * 40,
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_quickly(path: Path, bomb: str) -> None:
    path.write_bytes(BOMBS[bomb].ljust(64, b"\0"))
    refuses_to_open(path)


def test_handmade_modules_are_read_like_those_of_nvidia(path: Path) -> None:
    path.write_bytes(network_file(module(b"}(" + text("a") + module(b"}") + b"u")))
    assert set(read_network(path).modules) == {"", "a"}


def test_files_of_the_tensorflow_version_are_named(path: Path) -> None:
    path.write_bytes(b"\x80\x03cdnnlib.tflib.network\nNetwork\n)\x81." + bytes(32))
    refuses_to_open(path, r"nothing was executed.*TensorFlow.*legacy\.py")
