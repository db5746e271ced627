"""A folder registry under crashes, full disks, damage, and several processes at once."""

import errno
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import pytest

from huref.errors import RegistryError
from huref.registry.matrices import Matrices, from_entries
from huref.registry.store import Store
from huref.registry.stores import (
    catalogue,
    create_store,
    open_or_create,
    open_store,
    segment_writer,
    segments,
)
from huref.registry.stores import folder as folder_store
from tests.support.registry_cases import RECIPE, are_equal, random_entry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked"),
]


def in_child(work: Callable[[], None]) -> int:
    """Run in a process of its own and return its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "segments").iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bases"


@pytest.fixture
def store(folder: Path) -> Store:
    """A registry whose next addition merges segments."""
    store = create_store(str(folder), RECIPE)
    for i in range(segment_writer.FANOUT - 1):
        store.add([random_entry(i)])
    return store


def killed_at(line: int, work: Callable[[], object]) -> Callable[[], None]:
    """The same work in a process that exits at the n-th line of the registry's code."""
    modules = (folder_store, segment_writer, segments, catalogue)
    own_files = {module.__file__ for module in modules}
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in own_files:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os._exit(9)
        return trace

    def run() -> None:
        sys.settrace(trace)
        work()

    return run


def test_a_writer_killed_at_any_line_leaves_the_last_committed_state(
    store: Store, folder: Path
) -> None:
    before = {entry.model for entry in store.entries()}
    killed = done = 0
    for line in range(1, 2000, 8):
        new = random_entry(100 + line)
        status = in_child(killed_at(line, lambda entry=new: store.add([entry])))  # type: ignore[misc]
        entries = {entry.model: entry for entry in open_store(str(folder)).entries()}
        assert set(entries) - {new.model} == before, line
        if new.model in entries:
            assert are_equal(entries[new.model], new)
            store.remove(new.model)
        killed += status == 9
        if status == 0:
            done += 1
            break
    assert killed > 20
    assert done == 1
    store.add([random_entry(0)])  # sweeps the files of killed writers
    with sqlite3.connect(folder / "registry.sqlite") as db:
        named = {f"{name}.safetensors" for (name,) in db.execute("SELECT name FROM segments")}
    assert set(files_of(folder)) == named


def test_what_was_acknowledged_survives_a_kill_at_any_time(folder: Path) -> None:
    create_store(str(folder), RECIPE)
    added = 0
    for attempt in range(8):
        receiver, sender = os.pipe()
        child = os.fork()
        if child == 0:
            store = open_store(str(folder))
            for i in range(10_000):
                store.add([random_entry(attempt * 10_000 + i)])
                os.write(sender, b".")
        time.sleep(0.03 + 0.04 * attempt)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(sender)
        added += len(os.read(receiver, 100_000))
        os.close(receiver)
        store = open_store(str(folder))
        count = len(list(store.entries()))
        assert added <= count <= added + attempt + 1  # a kill may come before the acknowledgement
        assert count == len(store)
    assert added > 0


def test_writers_wait_for_each_other(store: Store, folder: Path) -> None:
    def write(first: int) -> Callable[[], None]:
        def work() -> None:
            writer = open_store(str(folder))
            for i in range(first, first + 12):
                writer.add([random_entry(i)])

        return work

    children = []
    for first in (0, 10, 20, 30):  # they overlap by two
        child = os.fork()
        if child == 0:
            status = 1
            try:
                write(first)()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    expected = {random_entry(i).model for i in range(42)}
    entries = list(open_store(str(folder)).entries())
    assert sorted(entry.model for entry in entries) == sorted(expected)


def test_a_writer_gives_up_while_another_has_the_lock(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "PATIENCE", 0.05)
    with sqlite3.connect(folder / "registry.sqlite", isolation_level=None) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(RegistryError, match="another process has been writing"):
            store.add([random_entry(50)])
        assert len(store.search(random_entry(1).query)) == 10  # readers need not wait
        db.execute("ROLLBACK")
    assert store.add([random_entry(50)]) == 1


def test_a_reader_sees_the_state_it_began_with(store: Store) -> None:
    reader = store.chunks()
    seen = {next(reader).labels[0].model}
    store.add([random_entry(50)])  # merges the segments that the reader still has to read
    seen |= {label.model for chunk in reader for label in chunk.labels}
    assert seen == {random_entry(i).model for i in range(segment_writer.FANOUT - 1)}


def test_single_additions_do_not_rewrite_much(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    write = segments.write_segment

    def counted(path: Path, matrices: Matrices) -> None:
        nonlocal written
        written += len(matrices.latents)
        write(path, matrices)

    monkeypatch.setattr(segment_writer, "write_segment", counted)
    monkeypatch.setattr(segment_writer, "FANOUT", 4)
    store = create_store(str(folder), RECIPE)
    for i in range(63):
        store.add([random_entry(i)])
        assert len(files_of(folder)) <= 3 * 3
    assert written <= 3 * 63  # once by itself, once in four, once in sixteen
    assert len(store) == 63


def refuse_to_write(*_: object) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_changes_nothing(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse_to_write)
        with pytest.raises(RegistryError, match="no space left on the disk; nothing was changed"):
            store.add([random_entry(50)])
    assert files_of(folder) == before
    assert store.add([random_entry(50)]) == 1


def test_a_full_catalogue_changes_nothing(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = catalogue.connect

    def connect_to_a_full_disk(place: Path, mode: str) -> sqlite3.Connection:
        db = connect(place, mode)
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")
        return db

    before = files_of(folder)
    with monkeypatch.context() as patch:
        patch.setattr(folder_store, "connect", connect_to_a_full_disk)
        with pytest.raises(RegistryError, match="no space left on the disk; nothing was changed"):
            store.add(random_entry(i) for i in range(100, 200))
    assert files_of(folder) == before
    assert len(store) == segment_writer.FANOUT - 1


def test_a_limit_that_the_system_sets_changes_nothing(store: Store, folder: Path) -> None:
    resource = pytest.importorskip("resource")

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        with pytest.raises(RegistryError, match=r"no space left|the disk failed"):
            store.add(random_entry(i) for i in range(100, 200))

    before = files_of(folder)
    assert in_child(work) == 0
    assert files_of(folder) == before
    assert len(open_store(str(folder))) == segment_writer.FANOUT - 1


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def garble(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut, garble, remove])
def test_a_damaged_segment_is_named(
    store: Store, folder: Path, damage: Callable[[Path], None]
) -> None:
    victim = sorted((folder / "segments").iterdir())[4]
    damage(victim)
    with pytest.raises(RegistryError, match=rf"{victim.stem}.*restore the registry") as caught:
        store.search(random_entry(1).query)
    assert "\n" not in str(caught.value)
    with pytest.raises(RegistryError, match=r"restore the registry"):
        store.add([random_entry(50)])  # would merge it
    assert len(store) == segment_writer.FANOUT - 1


def test_a_segment_with_other_contents_is_damaged(store: Store, folder: Path) -> None:
    victim = sorted((folder / "segments").iterdir())[0]
    entry = random_entry(1)
    matrices = from_entries([entry, entry])
    segments.write_segment(victim, matrices)
    with pytest.raises(RegistryError, match="it should have 1 rows"):
        list(store.entries())
    matrices = from_entries([random_entry(1, latent=np.full(512, np.inf, np.float32))])
    segments.write_segment(victim, matrices)
    with pytest.raises(RegistryError, match="do not fit together"):
        list(store.entries())


@pytest.mark.parametrize("damage", [garble, lambda path: path.write_bytes(b"")])
def test_a_damaged_catalogue_is_named(
    store: Store, folder: Path, damage: Callable[[Path], None]
) -> None:
    damage(folder / "registry.sqlite")
    with pytest.raises(RegistryError, match=r"damaged .*; restore|there is no registry"):
        open_store(str(folder))
    with pytest.raises(RegistryError):
        store.add([random_entry(50)])


def test_a_newer_or_foreign_layout_is_refused(store: Store, folder: Path) -> None:
    def change(statement: str) -> None:
        with sqlite3.connect(folder / "registry.sqlite") as db:
            db.execute(statement)

    change("UPDATE about SET value = 'other' WHERE name = 'sketch'")
    with pytest.raises(RegistryError, match="its sketches have the version 'other'"):
        open_store(str(folder))
    change("UPDATE about SET value = '{' WHERE name = 'recipe'")
    with pytest.raises(RegistryError, match="damaged"):
        open_store(str(folder))
    change("PRAGMA user_version = 9")
    with pytest.raises(RegistryError, match="newer huref"):
        open_store(str(folder))


def test_a_registry_that_a_full_disk_left_half_made_is_made(folder: Path) -> None:
    (folder / "segments").mkdir(parents=True)
    (folder / "registry.sqlite").touch()
    store, is_new = open_or_create(str(folder), RECIPE)
    assert is_new
    assert len(store) == 0
    assert not open_or_create(str(folder), RECIPE)[1]
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "notes.txt").write_text("mine")
    with pytest.raises(RegistryError, match="not empty"):
        open_or_create(str(folder.parent / "other"), RECIPE)


def test_a_killed_init_can_be_repeated(folder: Path) -> None:
    statuses = []
    for line in range(1, 240, 6):
        create = killed_at(line, lambda: create_store(str(folder), RECIPE))
        statuses.append(in_child(create))
        with suppress(RegistryError):  # killed after it had committed
            create_store(str(folder), RECIPE)
        assert len(open_store(str(folder))) == 0
        shutil.rmtree(folder)
        if statuses[-1] == 0:
            break
    assert statuses[-1] == 0
    assert set(statuses[:-1]) == {9}
