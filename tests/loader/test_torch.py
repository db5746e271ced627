"""Torch files, zip and legacy: read as torch reads them; unsafe and invalid ones refused."""

import collections
import contextlib
import io
import os
import pickle
import struct
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from huref.errors import CheckpointError
from huref.loader.checkpoint import open_checkpoint
from huref.loader.formats.pickle_machine import EndOfPickleError
from huref.loader.formats.pickled_tensors import Name
from huref.loader.formats.unpickle import unpickle

MakeModel = Callable[..., Path]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.bool]


def some_tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {f"t{i}": (torch.randn(30, 5 + i) * 3).to(d) for i, d in enumerate(DTYPES)}
    tensors["fp8"] = torch.randn(6, 7).to(torch.float8_e4m3fn)
    big = torch.randn(40, 12)
    tensors |= {"turned": big.T, "part": big[3:9], "columns": big[:, 2:4], "tied": big}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 3), "line": torch.ones(4)}
    return tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    return path


def check(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    checkpoint = open_checkpoint(str(folder))
    assert set(checkpoint.names) == set(expected)
    for name, tensor in checkpoint.read(expected).items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor.float(), expected[name].float()), name
        if tensor.dim() == 2 and len(tensor):
            rows = [len(tensor) - 1, 0]
            read = checkpoint.read_rows(name, rows)
            assert torch.equal(read.float(), expected[name].float()[rows]), name


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("wrap", [None, "state_dict"])
def test_torch_files_are_read_exactly(folder: Path, is_zip: bool, wrap: str | None) -> None:
    tensors = some_tensors()
    if not is_zip:
        tensors.pop("fp8")  # newer than the format
    saved = {wrap: tensors, "epoch": 3} if wrap else collections.OrderedDict(tensors)
    torch.save(saved, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    check(folder, tensors)


def test_a_module_state_with_parameters_is_read(folder: Path) -> None:
    linear = torch.nn.Linear(4, 3)
    torch.save(linear.state_dict(keep_vars=True), folder / "model.pt")
    check(folder, {k: v.data for k, v in linear.state_dict().items()})


def test_a_zip_that_torch_did_not_write_is_read(folder: Path) -> None:
    tensors = some_tensors()
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    with (
        zipfile.ZipFile(buffer) as old,
        zipfile.ZipFile(folder / "pytorch_model.bin", "w") as new,
    ):
        for record in old.infolist():
            info = zipfile.ZipInfo(record.filename)
            info.extra = b"xx\x03\x00abc" if "data/" in record.filename else b""
            new.writestr(info, old.read(record))
    check(folder, tensors)


def test_few_bytes_are_read_of_a_large_file(folder: Path) -> None:
    torch.save({f"t{i}": torch.randn(500, 500) for i in range(8)}, folder / "pytorch_model.bin")
    checkpoint = open_checkpoint(str(folder))
    checkpoint.read(["t3"])
    assert checkpoint.bytes_read < 1_000_000 + 70_000
    assert checkpoint.bytes_total > 8_000_000


def test_shards_are_found_through_their_index(make_llama: MakeModel, tmp_path: Path) -> None:
    import json

    import safetensors.torch

    folder = make_llama("model", max_shard_size="150KB")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    for shard in set(index["weight_map"].values()):
        tensors = safetensors.torch.load_file(folder / shard)
        torch.save(tensors, sharded / shard.replace("safetensors", "bin"))
    weight_map = {k: v.replace("safetensors", "bin") for k, v in index["weight_map"].items()}
    name = "pytorch_model.bin.index.json"
    (sharded / name).write_text(json.dumps({"weight_map": weight_map}))
    (sharded / "config.json").write_text((folder / "config.json").read_text())
    whole = open_checkpoint(str(folder))
    check(sharded, whole.read(whole.names))
    (sharded / sorted(weight_map.values())[0]).unlink()
    with pytest.raises(CheckpointError, match=r"index\.json: it names '.*bin', which is missing"):
        open_checkpoint(str(sharded)).read(["model.norm.weight"])


# --- refusals ---------------------------------------------------------------------------------


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function: Callable[..., object], *arguments: object):
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        Call(os.system, "touch {}"),
        Call(eval, "1"),
        Call(collections.Counter, "ab"),
        Call(torch.load, "x"),
        Call(getattr, 1, "real"),
    ],
    ids=["os.system", "eval", "Counter", "torch.load", "getattr"],
)
def test_pickles_that_call_functions_are_refused(folder: Path, call: Call, is_zip: bool) -> None:
    marker = folder / "executed"
    if call.call[0] is os.system:
        call = Call(os.system, f"touch {marker}")
    saved = {"t": torch.ones(2), "x": call}
    torch.save(saved, folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*nothing was executed"):
        open_checkpoint(str(folder)).read(["t"])
    assert not marker.exists()


def write_zip(folder: Path, data_pkl: bytes, **records: bytes) -> None:
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("x/data.pkl", data_pkl)
        for name, data in records.items():
            archive.writestr(f"x/data/{name}", data)


def tensor_pickle(
    offset: int, shape: tuple[int, ...], stride: tuple[int, ...], count: int
) -> bytes:
    """A state dict {"t": tensor} over storage "0" with `count` floats, as torch would write it."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value: int) -> bytes:
        data = value.to_bytes(20, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data

    def row(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
    storage += number(count) + b"tQ"
    arguments = storage + number(offset) + row(shape) + row(stride) + b"\x89}t"
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"R"
    return b"\x80\x02}" + text("t") + rebuild + b"s."


def test_a_handmade_pickle_is_read_like_one_of_torch(folder: Path) -> None:
    write_zip(folder, tensor_pickle(1, (2, 2), (2, 1), 6), **{"0": struct.pack("<6f", *range(6))})
    assert open_checkpoint(str(folder)).read(["t"])["t"].tolist() == [[1, 2], [3, 4]]


INVALID_TENSORS = {
    "beyond the storage": (tensor_pickle(0, (7,), (1,), 6), 6),
    "negative offset": (tensor_pickle(-1, (6,), (1,), 6), 6),
    "negative shape": (tensor_pickle(0, (-6,), (1,), 6), 6),
    "negative stride": (tensor_pickle(5, (6,), (-1,), 6), 6),
    "repeated by stride 0": (tensor_pickle(0, (2**40,), (0,), 6), 6),
    "overlapping rows": (tensor_pickle(0, (3, 3), (1, 1), 6), 6),
    "storage too small": (tensor_pickle(0, (6,), (1,), 6), 4),
    "storage missing": (tensor_pickle(0, (6,), (1,), 6), None),
    "absurd count": (tensor_pickle(0, (2**50,), (1,), 2**50), 6),
    "absurd shape": (tensor_pickle(0, (2**61, 2**61), (2**61, 1), 6), 6),
    "many axes": (tensor_pickle(0, (1,) * 1000, (1,) * 1000, 6), 6),
}


@pytest.mark.parametrize("case", INVALID_TENSORS)
def test_invalid_tensors_are_refused(folder: Path, case: str) -> None:
    pickled, floats = INVALID_TENSORS[case]
    write_zip(folder, pickled, **({} if floats is None else {"0": bytes(4 * floats)}))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_checkpoint(str(folder)).read(["t"])


def nested(opening: bytes, depth: int) -> bytes:
    return b"\x80\x02" + opening * depth + b"."


BOMBS = {
    "nested lists": nested(b"]", 300_000),
    "nested tuples as a key": b"\x80\x02}" + b")" + b"\x85" * 200_000 + b"Ns.",
    "memo index of 2^32 - 1": b"\x80\x02Nr\xff\xff\xff\xff.",
    "text of 2^60 bytes": b"\x80\x02\x8d" + struct.pack("<Q", 2**60) + b"x.",
    "copies of a long list": b"\x80\x02](" + b"(K\x01K\x01t" * 20_000 + b"eq\x00"
    + (b"ccollections\nOrderedDict\nh\x00\x85R0") * 20_000 + b".",
    "empty stack": b"\x80\x020.",
    "no mark": b"\x80\x02t.",
    "nothing": b"\x80\x02.",
    "nothing but a mark": b"\x80\x02(.",
    "state of a name": b"\x80\x02ctorch\nFloatStorage\n}b.",
    "millions of instructions": b"\x80\x02" + b"N0" * 4_000_000 + b"N.",
    "unknown instruction": b"\x80\x02\xff.",
    "an extension": b"\x80\x02\x82\x01.",
    "a new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "text as a call": b"\x80\x02X\x01\x00\x00\x00a)R.",
    "not a pickle": b"hello world",
    "cut short": b"\x80\x02}X\x05\x00\x00\x00ab",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_pickle_bombs_are_refused_quickly(folder: Path, bomb: str) -> None:
    write_zip(folder, BOMBS[bomb])
    began = time.process_time()  # CPU time, because the machine may be busy
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_checkpoint(str(folder)).read(["t"])
    assert time.process_time() - began < 10


def test_compressed_records_are_refused(folder: Path) -> None:
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(50_000_000))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: 'x/data\.pkl' is compressed"):
        open_checkpoint(str(folder)).read(["t"])


@pytest.mark.parametrize("change", [b"", bytes(20)], ids=["lost", "added"])
def test_legacy_storages_that_moved_are_refused(folder: Path, change: bytes) -> None:
    path = folder / "pytorch_model.bin"
    state = {name: torch.randn(30, 30) for name in "abcd"}
    torch.save(state, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    first = len(data) - 4 * (8 + 30 * 30 * 4) + 100  # inside the first storage
    rest = data[first:] if change else data[first + 20 :] + bytes(20)
    path.write_bytes(data[:first] + change + rest)
    with pytest.raises(CheckpointError, match="storages are not at the positions"):
        open_checkpoint(str(folder)).entry("a")


def test_a_zip_with_an_invalid_directory_is_refused(folder: Path) -> None:
    write_zip(folder, tensor_pickle(0, (6,), (1,), 6), **{"0": bytes(24)})
    path = folder / "pytorch_model.bin"
    data = bytearray(path.read_bytes())
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[second + 42 : second + 46] = bytes(4)  # the second record now begins at byte 0
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_checkpoint(str(folder)).read(["t"])


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_truncated_torch_files_are_refused(folder: Path, is_zip: bool, share: float) -> None:
    path = folder / "pytorch_model.bin"
    torch.save({"t": torch.randn(100, 100)}, path, _use_new_zipfile_serialization=is_zip)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        open_checkpoint(str(folder)).read(["t"])


# What torch.load reads and what a directory or a description says can be made to differ.


def moved_data(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """A file whose data lie eight bytes before where torch puts them, and eight bytes follow."""
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    with zipfile.ZipFile(buffer) as old:
        records = [(record.filename, old.read(record)) for record in old.infolist()]
    out, directory = bytearray(), bytearray()
    for name, data in records:
        start, crc = len(out), zlib.crc32(data)
        bare = start + 30 + len(name)
        aligned = -(-(bare + 24) // 64) * 64
        extra = aligned - bare - (8 if "data/" in name else 0)
        sizes = struct.pack("<III", crc, len(data), len(data))
        head = struct.pack("<HHHHH", 0, 8, 0, 0, 0) + sizes + struct.pack("<H", len(name))
        out += b"PK\x03\x04" + head + struct.pack("<H", extra) + name.encode()
        out += b"FB" + struct.pack("<H", extra - 4) + bytes(extra - 4) + data
        out += bytes(8 if "data/" in name else 0) + b"PK\x07\x08" + sizes
        directory += b"PK\x01\x02" + bytes(2) + head + bytes(12)
        directory += struct.pack("<I", start) + name.encode()
    counts = struct.pack("<HHHHIIH", 0, 0, *[len(records)] * 2, len(directory), len(out), 0)
    path.write_bytes(out + directory + b"PK\x05\x06" + counts)


def with_state(tensor: torch.Tensor) -> torch.Tensor:
    made = torch.nn.Parameter(torch.zeros_like(tensor))
    made.__dict__["data"] = tensor
    return made


def negated(tensor: torch.Tensor) -> torch.Tensor:
    return torch._neg_view(-tensor)


def test_data_that_lie_elsewhere_than_computed_are_refused(folder: Path) -> None:
    tensors = {"t": torch.randn(40, 30), "u": torch.randn(8)}
    path = folder / "pytorch_model.bin"
    moved_data(path, tensors)
    assert torch.equal(torch.load(path)["t"], tensors["t"])
    checkpoint = open_checkpoint(str(folder))
    for read in (lambda: checkpoint.read(["t"]), lambda: checkpoint.read_rows("t", [1])):
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: its data do not lie"):
            read()


@pytest.mark.parametrize("change", [negated, with_state])
def test_tensors_that_torch_changes_as_it_loads_them_are_refused(
    folder: Path, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    tensor = torch.randn(4, 3)
    path = folder / "pytorch_model.bin"
    torch.save({"t": change(tensor)}, path)
    assert torch.equal(torch.load(path)["t"].detach(), tensor)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: its pickle has a tensor whose"):
        open_checkpoint(str(folder)).read(["t"])


def test_big_endian_zips_are_refused(folder: Path) -> None:
    tensor = torch.randn(4, 3)
    swapped = torch.from_numpy(tensor.numpy().byteswap())
    path = folder / "pytorch_model.bin"
    torch.save({"t": swapped}, path)
    with zipfile.ZipFile(path) as old:
        records = [(record.filename, old.read(record)) for record in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, data in records:
            new.writestr(name, b"big" if name.endswith("/byteorder") else data)
    assert torch.equal(torch.load(path)["t"], tensor)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: .* big-endian machine"):
        open_checkpoint(str(folder)).read(["t"])


def test_records_of_one_name_are_refused(folder: Path) -> None:
    pickled = tensor_pickle(0, (6,), (1,), 6)
    write_zip(folder, pickled, **{"0": bytes(24)})
    with zipfile.ZipFile(folder / "pytorch_model.bin", "a") as archive:
        archive.writestr("x/DATA/0", bytes(24))
    with pytest.raises(CheckpointError, match=r"'x/(data|DATA)/0' more than once"):
        open_checkpoint(str(folder)).read(["t"])


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner)
    | st.tuples(inner, inner),
    max_leaves=20,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(plain, st.sampled_from([2, 3, 4, 5]))
def test_plain_data_is_unpickled_as_by_python(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert unpickle(data, "x") == (value, len(data))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_damaged_pickles_are_refused_or_give_plain_data(noise: bytes, position: int) -> None:
    data = bytearray(tensor_pickle(0, (6,), (1,), 6))
    data[position : position + len(noise)] = noise
    with contextlib.suppress(CheckpointError, EndOfPickleError):
        value, _ = unpickle(data, "x")
        assert isinstance(value, dict | list | tuple | str | int | float | bytes | None | Name)
