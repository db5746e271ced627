"""Registries, caches and records: nothing outside is written or removed, nothing inside trusted."""

import os
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from huref.api.cache import keep, recall
from huref.errors import HurefError, RecordError, RegistryError
from huref.files import create_new, make_private, replacing
from huref.invariants.record import load_record
from huref.registry.exchange import read_jsonl
from huref.registry.fleet.journal import Journal, JournalLine
from huref.registry.store import Store
from huref.registry.stores import create_store, open_store
from tests.support.registry_cases import RECIPE, random_entry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bases"


@pytest.fixture
def store(folder: Path) -> Store:
    store = create_store(str(folder), RECIPE)
    store.add([random_entry(0)])
    return store


def _precious(folder: Path) -> dict[str, bytes]:
    """Files of a user's, some with names like those of segments."""
    folder.mkdir()
    for name in ("thesis.tex", f"{'0' * 32}.safetensors", ".bashrc"):
        (folder / name).write_text(f"dear {name}")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("act", ["add", "remove", "create", "search"])
def test_a_linked_folder_of_segments_is_neither_swept_nor_written(
    act: str, store: Store, folder: Path, tmp_path: Path
) -> None:
    before = _precious(tmp_path / "home")
    (folder / "segments").rename(tmp_path / "moved")
    (folder / "segments").symlink_to(tmp_path / "home")
    actions: dict[str, Callable[[], object]] = {
        "add": lambda: open_store(str(folder)).add([random_entry(1)]),
        "remove": lambda: open_store(str(folder)).remove(random_entry(0).model),
        "create": lambda: create_store(str(folder), RECIPE),
        "search": lambda: list(open_store(str(folder)).chunks()),
    }
    with pytest.raises(RegistryError, match=r"symbolic link|not empty"):
        actions[act]()
    assert _files(tmp_path / "home") == before


def test_a_linked_catalogue_is_not_followed(store: Store, folder: Path, tmp_path: Path) -> None:
    (folder / "registry.sqlite").rename(tmp_path / "theirs.sqlite")
    (folder / "registry.sqlite").symlink_to(tmp_path / "theirs.sqlite")
    before = (tmp_path / "theirs.sqlite").read_bytes()
    with pytest.raises(RegistryError, match="symbolic link"):
        open_store(str(folder)).add([random_entry(1)])
    assert (tmp_path / "theirs.sqlite").read_bytes() == before


def test_only_files_of_our_own_names_are_swept(store: Store, folder: Path, tmp_path: Path) -> None:
    segments = folder / "segments"
    (tmp_path / "outside").write_text("precious")
    ours = [f"{'a' * 32}.safetensors", f".{'b' * 32}.safetensors.0a1b2c3d"]
    theirs = ["notes.txt", "model.safetensors", f"{'A' * 32}.safetensors", ".hidden", "x" * 32]
    for name in [*ours, *theirs]:
        (segments / name).write_text("x")
    (segments / f"{'c' * 32}.safetensors").symlink_to(tmp_path / "outside")
    (segments / f"{'d' * 32}.safetensors").mkdir()
    store.add([random_entry(1)])
    names = {path.name for path in segments.iterdir()}
    assert not names & set(ours)
    assert names >= {*theirs, f"{'c' * 32}.safetensors", f"{'d' * 32}.safetensors"}
    assert (tmp_path / "outside").read_text() == "precious"
    assert len(store) == 2


CATALOGUES = {
    "a path as a segment": "UPDATE segments SET name = '../../outside'",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
    "a view": "CREATE VIEW v AS SELECT 1",
    "a table": "CREATE TABLE more (a)",
    "a name of bytes": "UPDATE entries SET model = x'ff00'",
    "a date of bytes": "UPDATE entries SET measured_at = x'ff00'",
    "a number of rows": "UPDATE segments SET size = 1000000000",
    "a place of its own": "UPDATE entries SET place = -5",
    "no recipe": "DELETE FROM about WHERE name = 'recipe'",
    "a recipe of lists": "UPDATE about SET value = '[[[]]]' WHERE name = 'recipe'",
    "a huge recipe": (
        "UPDATE about SET value = json_set(value, '$.m', 1000000000) WHERE name = 'recipe'"
    ),
}


@pytest.mark.parametrize("kind", CATALOGUES)
def test_a_forged_catalogue_is_refused_or_does_nothing(
    kind: str, store: Store, folder: Path, tmp_path: Path
) -> None:
    with sqlite3.connect(folder / "registry.sqlite") as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute(CATALOGUES[kind])
    db.close()
    before = _precious(tmp_path / "outside")
    try:
        opened = open_store(str(folder))
        list(opened.entries())
        list(opened.labels())
        opened.add([random_entry(1)])
        opened.remove(random_entry(0).model)
    except HurefError:
        pass
    else:
        assert kind in ("a number of rows", "a place of its own")
    assert _files(tmp_path / "outside") == before


def test_private_files_are_their_owners_alone(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        with replacing(tmp_path / "a", private=True) as temporary:
            assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        with replacing(tmp_path / "b"):
            pass
        make_private(tmp_path / "c")
        (tmp_path / "d").write_text("")
        make_private(tmp_path / "d")
        found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(mask)
    assert found == {"a": 0o600, "b": 0o644, "c": 0o600, "d": 0o600}


def test_where_models_lie_is_their_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huref.registry.places import recall_place, remember_place

    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "home"))
    latent = np.zeros(512, np.float32)
    remember_place("r", latent, str(tmp_path))
    assert recall_place("r", latent) == tmp_path
    assert stat.S_IMODE((tmp_path / "home" / "places.sqlite").stat().st_mode) == 0o600


def test_the_umask_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(mask: int) -> int:
        raise AssertionError("other threads would create files with this mask")

    monkeypatch.setattr(os, "umask", forbidden)
    with replacing(tmp_path / "a", private=True):
        pass
    with replacing(tmp_path / "b"):
        pass


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("precious")
    (tmp_path / "out").symlink_to(tmp_path / "theirs")
    with replacing(tmp_path / "out") as temporary:
        temporary.write_text("ours")
    assert (tmp_path / "theirs").read_text() == "precious"
    assert (tmp_path / "out").read_text() == "ours"
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    with pytest.raises(FileExistsError):
        create_new(tmp_path / "link")
    with pytest.raises(HurefError, match="symbolic link"):
        make_private(tmp_path / "link")


def test_a_linked_journal_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("precious")
    (tmp_path / "journal").symlink_to(tmp_path / "theirs")
    with pytest.raises(HurefError, match="symbolic link"):
        Journal(tmp_path / "journal").write([JournalLine("a", "a", None, "r", "done")])
    assert (tmp_path / "theirs").read_text() == "precious"


def test_a_journal_of_odd_lines_is_read_as_far_as_it_makes_sense(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path).write([JournalLine("a", "a", None, "r", "done")])
    odd = ['{"listed": ["a"]}', "null", "[" * 5000, '{"at": 1}', "\x00", '"\\ud800"', "1e999"]
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in odd)
        line = path.read_text().splitlines()[0].replace('"a"', '["a"]', 1)
        file.write(line + "\n")
    assert list(Journal(path).lines) == [("a", "r")]


@pytest.mark.parametrize(
    "line",
    ["null", "[]", "{}", '{"model": 7}', "[" * 1000, '{"a": NaN}', '{"latent": "????"}', "\x1b[2J"],
)
def test_a_damaged_line_of_an_export_is_one_line(line: str, store: Store, tmp_path: Path) -> None:
    from huref.registry.exchange import export

    path = tmp_path / "out.jsonl"
    export(store, str(path))
    head = path.read_text().splitlines()[0]
    path.write_text(f"{head}\n{line}\n")
    with pytest.raises(RegistryError, match="line 2 is damaged") as caught:
        list(read_jsonl(path)[1])
    assert "\n" not in str(caught.value)


def test_a_record_in_the_cache_is_private_and_a_damaged_one_is_made_again(
    make_llama: Callable[..., Path], tmp_path: Path
) -> None:
    import huref

    out = tmp_path / "record.safetensors"
    huref.fingerprint(make_llama("model"), record=out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    record = load_record(out)
    kept = tmp_path / "cache" / "a.safetensors"
    keep(kept, record)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    data = kept.read_bytes()
    for damage in (
        b"",
        data[:100],
        data[:-1],
        b"\xff" * len(data),
        data[:8] + b"[" * 999,
    ):
        kept.write_bytes(damage)
        assert recall(kept, "x", "d") is None
        with pytest.raises(RecordError):
            load_record(kept)


def test_shipped_networks_are_those_that_the_recipe_expects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml

    from huref.assets import locate
    from huref.encoder.checkpoint import load_encoder, save_encoder
    from huref.errors import CheckpointDigestError, RecipeError
    from huref.recipe import load_recipe

    default = locate("configs/recipes/default.yaml")
    data = yaml.safe_load(default.read_text())
    for name in ("default", "paper"):
        expected = yaml.safe_load(locate(f"configs/recipes/{name}.yaml").read_text())["expected"]
        assert expected["encoder"] == load_encoder(locate(data["encoder"])).digest
    loaded = load_encoder(locate(data["encoder"]))
    with torch.no_grad():
        next(loaded.network.parameters()).view(-1)[0] += 1
    metadata = {k: v for k, v in loaded.metadata.items() if k not in ("digest", "format")}
    save_encoder(loaded.network, tmp_path / "other.safetensors", metadata)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(data | {"encoder": "other.safetensors"}))
    with pytest.raises(CheckpointDigestError, match="the recipe expects the encoder"):
        load_recipe(str(recipe))
    recipe.write_text(yaml.safe_dump({k: v for k, v in data.items() if k != "expected"}))
    assert load_recipe(str(recipe))[0].digest == load_recipe()[0].digest
    for odd in (7, {"encoder": "abc"}, {"other": "0" * 64}, ["a"]):
        recipe.write_text(yaml.safe_dump(data | {"expected": odd}))
        with pytest.raises(RecipeError, match="expected"):
            load_recipe(str(recipe))


def test_entries_with_other_arrays_are_refused(store: Store) -> None:
    from dataclasses import replace

    entry = random_entry(3)
    for change in (
        {"latent": np.full(512, np.nan, np.float32)},
        {"latent": np.zeros(3, np.float32)},
        {"sketch": np.zeros((1, 1), np.uint8)},
        {"anchors": np.zeros(7, np.uint32)},
    ):
        with pytest.raises(RegistryError):
            store.add([replace(entry, **change)])
    assert len(store) == 1
