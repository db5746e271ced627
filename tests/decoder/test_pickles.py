"""NVIDIA's pickles are read as descriptions; all other contents are refused, never executed."""

import collections
import contextlib
import functools
import io
import operator
import os
import pickle
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from huref.decoder.library import import_decoder
from huref.decoder.network_files import open_network
from huref.errors import CheckpointError
from tests.support.nvidia_generator import (
    EasyDict,
    Persisted,
    install_nvidia_modules,
    nvidia_network,
    nvidia_state,
    write_nvidia,
)
from tests.support.refusals import refuses_to_open

pytestmark = pytest.mark.usefixtures("nvidia_modules", "home")


def small(**attributes: Any) -> Persisted:
    """A network of one tensor."""
    network = Persisted("Generator", **attributes)
    network.register_buffer("scale", torch.arange(6.0))
    return network


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class State:
    """Pickles as an object that BUILD gives a state."""

    def __init__(self, kind: Callable[..., Any], arguments: tuple[Any, ...], state: Any) -> None:
        self.parts = (kind, arguments, state)

    def __reduce__(self) -> Any:
        return self.parts


def test_embedded_source_is_never_executed(path: Path, tmp_path: Path) -> None:
    """In a process with an audit hook that exits when anything is compiled or executed."""
    state = nvidia_state()
    network = nvidia_network(state, 256.0, 0.01)
    marker = tmp_path / "executed"
    source = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    for module in network.modules():
        module.source = source  # type: ignore[assignment]
    write_nvidia(path, network, source=source)
    program = f"""
import os, sys
from pathlib import Path
from huref.decoder.library import import_decoder
import_decoder(Path({str(path)!r}), "first")  # completes lazy imports
forbidden = ("compile", "exec", "os.system", "os.posix_spawn", "subprocess.Popen")
def watch(event, arguments):
    if event in forbidden:
        os.write(2, f"{{event}} {{arguments}}".encode())
        os._exit(3)
sys.addaudithook(watch)
import_decoder(Path({str(path)!r}), "second")
assert not {{"torch_utils", "dnnlib"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    assert not marker.exists()


EVIL = {
    "os.system": Call(os.system, "touch executed"),
    "eval": Call(eval, "open('executed', 'w')"),
    "exec": Call(exec, "open('executed', 'w')"),
    "getattr": Call(getattr, {}, "update"),
    "open": Call(open, "executed", "w"),
    "attrgetter": Call(operator.attrgetter, "x"),
    "partial": Call(functools.partial, print),
    "torch.load": Call(torch.load, "executed"),
    "pickle.loads": Call(pickle.loads, b"cos\nsystem\n."),
    "Counter": Call(collections.Counter, "ab"),
    "import_module": Call(__import__, "torch_utils"),
}


@pytest.mark.parametrize("evil", EVIL)
@pytest.mark.parametrize("place", ["network", "attribute", "options", "buffer", "meta", "key"])
def test_calls_are_refused_wherever_they_are(
    path: Path, evil: str, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    network = small()
    more: dict[str, Any] = {}
    if place == "network":
        network = EVIL[evil]  # type: ignore[assignment]
    elif place == "attribute":
        network = small(payload=[EVIL[evil]])
    elif place == "options":
        more = {"training_set_kwargs": EasyDict(a=EVIL[evil])}
    elif place == "buffer":
        network._buffers["payload"] = EVIL[evil]  # type: ignore[assignment]
    elif place == "meta":
        network.source = EVIL[evil]  # type: ignore[assignment]
    else:
        more = {"x": {EVIL[evil]: 1}}
    write_nvidia(path, network, **more)
    refuses_to_open(path, "nothing was executed")
    assert not (tmp_path / "executed").exists()


def nested(data: bytes) -> Call:
    return Call(torch.storage._load_from_bytes, data)


def saved(value: Any, is_zip: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


def storage(count: int) -> Any:
    """The storage that torch pickles as part of a tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, but used in such files
        return torch.arange(float(count)).storage()  # type: ignore[no-untyped-call]


def storage_file(count: int = 6, claimed: int | None = None) -> bytes:
    """A nested file as torch writes one, or one that claims another number of elements."""
    data = saved(storage(count))
    if claimed is None:
        return data
    number = b"\x8a\x08" + struct.pack("<q", claimed)
    return data.replace(b"K" + bytes([count]) + b"N", number + b"N", 1)


def test_nested_files_are_like_those_of_torch(path: Path) -> None:
    view = Call(torch._utils._rebuild_tensor_v2, nested(storage_file()), 1, (2,), (2,), False, {})
    network = small()
    network._buffers["view"] = view  # type: ignore[assignment]
    write_nvidia(path, network)
    source = open_network(path)
    assert source.read(["view"])["view"].tolist() == [1.0, 3.0]
    assert source.read(["scale"])["scale"].tolist() == list(range(6))


NESTED = {
    "a zip": saved({"a": torch.ones(2)}, True),
    "a call in a legacy file": saved(Call(os.system, "touch executed")),
    "a call in a zip": saved(Call(os.system, "touch executed"), True),
    "a state dict": saved({"a": torch.ones(2)}),
    "a tensor": saved(torch.ones(2)),
    "two storages": saved([storage(2), storage(3)]),
    "nothing": b"",
    "a bare pickle": pickle.dumps(7),
    "cut short": storage_file()[:-5],
    "cut in its pickles": storage_file()[:40],
    "absurd count": storage_file(claimed=2**50),
    "negative count": storage_file(claimed=-1),
    "count of another": storage_file(claimed=5),
}


@pytest.mark.parametrize("kind", NESTED)
def test_nested_files_that_are_no_storage_are_refused(path: Path, kind: str) -> None:
    view = Call(torch._utils._rebuild_tensor_v2, nested(NESTED[kind]), 0, (1,), (1,), False, {})
    network = small()
    network._buffers["view"] = view  # type: ignore[assignment]
    write_nvidia(path, network)
    refuses_to_open(path)


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (7,), (1,)),
        (-1, (6,), (1,)),
        (0, (-6,), (1,)),
        (5, (6,), (-1,)),
        (0, (2**40,), (0,)),
        (0, (3, 3), (1, 1)),
        (0, (2**61, 2**61), (2**61, 1)),
        (0, (1,) * 1000, (1,) * 1000),
        (0, ("a",), (1,)),
    ],
)
def test_tensors_that_leave_or_repeat_their_storage(
    path: Path, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    rebuild = torch._utils._rebuild_tensor_v2
    network = small()
    view = Call(rebuild, nested(storage_file()), offset, shape, stride, False, {})
    network._buffers["view"] = view  # type: ignore[assignment]
    write_nvidia(path, network)
    refuses_to_open(path)


def test_more_tensors_than_a_generator_has_are_not_read(path: Path) -> None:
    """Many valid views of one storage."""
    network = Persisted("Generator")
    state = nvidia_state()
    whole = torch.zeros(2**20)
    for name in state:
        network._buffers[name] = whole
    for i in range(300):
        network._buffers[f"mapping.fc{i}.weight"] = whole
    write_nvidia(path, network)
    assert path.stat().st_size < 2**23
    with pytest.raises(CheckpointError, match="more than any generator"):
        import_decoder(path)


STATES = {
    "slots of a dict": State(collections.OrderedDict, (), (None, {"__class__": 1})),
    "slots of an EasyDict": State(EasyDict, (), (None, {"update": 1})),
    "slots of a module": State(small, (), (None, {"state": {}})),
    "slots of a tensor": State(
        torch._utils._rebuild_tensor_v2,
        (nested(storage_file()), 0, (1,), (1,), False, {}),
        (None, {"offset": 0}),
    ),
    "state of a storage": State(nested(b"").call[0], (storage_file(),), {"count": 2**40}),
}


@pytest.mark.parametrize("kind", STATES)
def test_states_that_set_attributes_are_refused(path: Path, kind: str) -> None:
    state = STATES[kind]
    if kind == "slots of a module":
        constructor, (meta,), _ = small().__reduce__()
        state = State(constructor, (meta,), (None, {"state": {}}))
    write_nvidia(path, small(payload=state))
    refuses_to_open(path, "nothing was executed")


def test_numpy_scalars_are_ignored(path: Path) -> None:
    """Their state is a tuple, which is dropped."""
    import numpy as np

    write_nvidia(path, small(size=np.int64(3), rate=np.float32(0.5), kinds={1, 2}))
    assert open_network(path).read(["scale"])["scale"].tolist() == list(range(6))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_files_cut_short(path: Path, share: float) -> None:
    write_nvidia(path, nvidia_network(nvidia_state(), None, 0.01))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"network\.pkl"):
        import_decoder(path)


@settings(deadline=None, max_examples=150)
@given(noise=st.binary(min_size=1, max_size=40), position=st.integers(0, 4000))
def test_damaged_pickles_raise_checkpoint_errors_only(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, position: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    with pytest.MonkeyPatch.context() as monkeypatch:
        install_nvidia_modules(monkeypatch)
        write_nvidia(path, small())
    data = bytearray(path.read_bytes())
    position %= len(data)
    data[position : position + len(noise)] = noise
    path.write_bytes(data)
    with contextlib.suppress(CheckpointError):
        source = open_network(path)
        source.read(source.entries)
