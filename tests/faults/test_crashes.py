"""Kills, full and read-only disks, two versions on one cache."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

import huref
from huref.api import cache
from huref.api.open import measure
from huref.errors import DiskError, HurefError
from huref.files import replacing
from scripts.fuzz.kill import MODELS, finish, kill_at_random

pytestmark = pytest.mark.slow

MakeModel = Callable[..., Path]


def test_kills_lose_nothing_and_leave_nothing_half_made(tmp_path: Path) -> None:
    """`python -m scripts.fuzz kill` does this as often as wanted."""
    result = kill_at_random(2, tmp_path)
    assert result.kills == 12
    assert result.is_clean, result
    assert finish(tmp_path) == len(MODELS)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
def test_a_full_disk_is_one_line_and_leaves_nothing(code: int, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")

    def write() -> NoReturn:
        with replacing(tmp_path / "out") as path:
            path.write_text("half")
            raise OSError(code, os.strerror(code))

    with pytest.raises(DiskError, match="cannot be written"):
        write()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"out": "before"}


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    make_llama: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_llama("model")
    expected = huref.fingerprint(folder).latent
    (tmp_path / "file").write_text("")
    for home in ("/proc/huref", "/dev/null/x", str(tmp_path / "file")):
        monkeypatch.setenv("HUREF_HOME", home)
        record, _ = measure(str(folder), cache=True)
        assert record.latent is not None
        assert np.array_equal(record.latent, expected)


def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    for place in (Path("/proc/dog.png"), Path("/sys/dog.png"), tmp_path / "none" / "dog.png"):
        with pytest.raises(HurefError) as caught, replacing(place):
            pass
        assert "\n" not in str(caught.value)


def test_two_versions_on_one_cache_do_not_read_each_others_records(
    make_llama: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "home"))
    folder = make_llama("model")
    names: set[str] = set()
    for attribute, value in (("__version__", "0.0.1"), ("__version__", "9.9.9"), ("VERSION", 999)):
        with monkeypatch.context() as patch:
            patch.setattr(cache, attribute, value)
            measure(str(folder), cache=True)
            found = {path.name for path in cache.cache_folder().iterdir()}
            assert len(found - names) == 1  # each its own, and none is overwritten
            assert names <= found
            names = found
