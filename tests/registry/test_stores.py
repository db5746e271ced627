"""Registries of both kinds, in a folder and in LanceDB."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from huref.errors import RecipeError, RegistryError
from huref.registry.anchor_codes import count_shared
from huref.registry.correlation import (
    anchor_ratio,
    correlate_sketches,
    ics_deviation,
    lower_bound,
)
from huref.registry.entry import Entry, Query
from huref.registry.exchange import export, read_jsonl
from huref.registry.store import Store
from huref.registry.stores import create_store, folder, open_store, segment_writer
from tests.support.registry_cases import (
    RECIPE,
    VOCABULARIES,
    M,
    are_equal,
    random_entry,
    small_recipe,
)

MakeStore = Callable[[str], Store]


@pytest.fixture(params=["folder", "lance"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    if request.param == "lance":
        pytest.importorskip("lancedb")

    def create(name: str) -> Store:
        suffix = ".lance" if request.param == "lance" else ""
        return create_store(str(tmp_path / f"{name}{suffix}"), RECIPE)

    return create


@pytest.fixture
def store(make: MakeStore) -> Store:
    return make("bases")


def names(store: Store) -> list[str]:
    return sorted(entry.model for entry in store.entries())


def test_entries_come_back_bit_for_bit(store: Store) -> None:
    entries = [
        random_entry(i, base="org/model-0" if i else None, vocabulary=i % 3) for i in range(7)
    ]
    entries[3] = replace(entries[3], revision=None)
    assert store.add(entries) == 7
    again = open_store(store.uri)
    assert again.recipe == RECIPE
    found = {entry.model: entry for entry in again.entries()}
    assert len(found) == len(again) == 7
    assert all(are_equal(found[entry.model], entry) for entry in entries)
    assert again.count_bases() == 1
    assert {(label.model, label.base) for label in again.labels()} == {
        (entry.model, entry.base) for entry in entries
    }


def test_a_model_is_added_once_per_commit(store: Store) -> None:
    first = random_entry(1)
    newer = replace(random_entry(2), model=first.model)
    twice = replace(random_entry(3), model=first.model, revision=first.revision)
    assert store.add([first, twice, newer]) == 2
    assert store.add([twice]) == 0
    assert store.add([]) == 0
    kept = {entry.revision: entry for entry in store.entries()}
    assert are_equal(kept[first.revision], first)
    assert store.has(first.model, first.revision, RECIPE.digest)
    assert not store.has(first.model, first.revision, "another")
    assert not store.has(first.model, None, RECIPE.digest)
    assert not store.has("it's not there", None, RECIPE.digest)


def test_remove_takes_one_commit_or_all(store: Store) -> None:
    entries = [random_entry(i) for i in range(4)]
    entries[1] = replace(entries[1], model=entries[0].model)
    store.add(entries)
    assert store.remove(entries[0].model, entries[0].revision) == 1
    assert store.remove(entries[0].model, entries[0].revision) == 0
    assert not store.has(*entries[0].key)
    assert store.has(*entries[1].key)
    assert store.remove(entries[1].model) == 1
    assert store.remove("org/nobody") == 0
    assert names(store) == [entries[2].model, entries[3].model]
    assert all(are_equal(a, b) for a, b in zip(sorted(store.entries(), key=lambda e: e.model),
                                          entries[2:], strict=True))  # fmt: skip


def test_an_entry_of_another_recipe_changes_nothing(store: Store) -> None:
    other = replace(random_entry(2), recipe=small_recipe(name="other").digest)
    with pytest.raises(RecipeError, match="org/model-2: made by the recipe"):
        store.add([random_entry(1), other])
    assert len(store) == 0


def brute_force(query: Query, entries: list[Entry]) -> list[str]:
    assert query.sketch is not None
    assert query.anchors is not None
    ranked = []
    for entry in entries:
        if (shared := count_shared(query.anchors, entry.anchors)) >= 64:
            factor = anchor_ratio(shared, M, M)
            ics = factor * correlate_sketches(query.sketch, entry.sketch[None]).mean()
            deviation = factor * ics_deviation(query.sketch.size * 8, measured=False)
            ranked.append((float(lower_bound(ics, deviation)), entry.model))
    return [name for _, name in sorted(ranked, reverse=True)]


def test_search_scans_every_entry(store: Store) -> None:
    mixed = VOCABULARIES[0].copy()
    mixed[: M // 4] = VOCABULARIES[1][: M // 4]
    entries = [random_entry(i, base=None if i % 2 else "x", vocabulary=i % 2) for i in range(60)]
    entries += [random_entry(i, anchors=mixed) for i in range(60, 90)]
    store.add(entries)
    g = np.random.default_rng(5)
    for place in (0, 33, 77):
        target = entries[place]
        flipped = np.packbits(g.random((6, target.sketch.shape[1] * 8)) < 0.35, axis=-1)
        query = Query(target.latent, target.sketch ^ flipped, target.anchors)
        found = store.search(query, limit=90)
        assert [match.entry.model for match in found] == brute_force(query, entries)
        assert found[0].entry.model == target.model
        assert found[0].latent_cosine == pytest.approx(1)
        bases = store.search(query, limit=3, bases_only=True)
        assert all(match.entry.base is None for match in bases)
        by_picture = store.search(Query(target.latent), limit=2)
        assert by_picture[0].entry.model == target.model
        assert by_picture[0].ics is None
        assert by_picture[1].latent_cosine < 0.5


def test_too_few_shared_anchors_are_no_match(store: Store) -> None:
    few = VOCABULARIES[1].copy()
    few[:63] = VOCABULARIES[0][:63]
    store.add([random_entry(1), random_entry(2, anchors=few)])
    assert [m.entry.model for m in store.search(random_entry(1).query)] == ["org/model-1"]
    few[63] = VOCABULARIES[0][63]
    store.add([random_entry(3, anchors=few)])
    found = store.search(random_entry(1).query)
    assert [m.shared_anchors for m in found] == [128, 64]


def test_search_in_an_empty_registry_finds_nothing(store: Store) -> None:
    assert store.search(random_entry(1).query) == []


def test_entries_that_do_not_fit_are_refused(store: Store) -> None:
    store.add([random_entry(1)])
    with pytest.raises(RegistryError, match=r"org/model-2: .* have the shapes .*\(6, 5\)"):
        store.add([random_entry(2, sketch=np.zeros((6, 5), np.uint8))])
    with pytest.raises(RegistryError, match="org/model-3: its latent is not finite"):
        store.add([random_entry(3, latent=np.full(512, np.nan, np.float32))])
    assert len(store) == 1


def test_writers_at_the_same_time_add_a_model_once(store: Store) -> None:
    def write(_: int) -> int:
        writer = open_store(store.uri)
        return sum(writer.add([random_entry(i)]) for i in range(8))

    with ThreadPoolExecutor(4) as pool:
        added = sum(pool.map(write, range(4)))
    assert added == len(store) == len({label.model for label in store.labels()}) == 8


def test_a_registry_is_not_created_twice(make: MakeStore, store: Store) -> None:
    with pytest.raises(RegistryError, match="there is a registry already"):
        make("bases")


def test_a_uri_without_a_registry(tmp_path: Path) -> None:
    for name in ("nothing", "nothing.lance"):
        with pytest.raises(RegistryError, match="there is no registry; make one with"):
            open_store(str(tmp_path / name))
        assert not (tmp_path / name).exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(RegistryError, match="the folder is not empty"):
        create_store(str(tmp_path / "full"), RECIPE)
    with pytest.raises(RegistryError, match="a file of that name"):
        create_store(str(tmp_path / "full" / "thesis.tex"), RECIPE)
    with pytest.raises(RegistryError, match="it is no registry; give a folder"):
        open_store("postgres://here/there")


def test_exports_can_be_read_by_every_kind_of_registry(make: MakeStore, tmp_path: Path) -> None:
    store = make("one")
    entries = [random_entry(i, base="org/ü" if i else None) for i in range(3)]
    store.add(entries)
    text = tmp_path / "all.jsonl"
    assert export(store, str(text)) == 3
    recipe, read = read_jsonl(text)
    assert recipe == RECIPE
    other = create_store(str(tmp_path / "two"), recipe)
    assert other.add(read) == 3
    assert export(other, str(tmp_path / "three")) == 3
    found = {entry.model: entry for entry in open_store(str(tmp_path / "three")).entries()}
    assert all(are_equal(found[entry.model], entry) for entry in entries)
    assert export(store, str(tmp_path / "names.csv")) == 3
    lines = (tmp_path / "names.csv").read_text("utf-8").splitlines()
    assert lines[0] == "model,revision,recipe,base,measured_at,measured_by"
    assert len(lines) == 4


def test_a_damaged_export_names_the_line(tmp_path: Path) -> None:
    store = create_store(str(tmp_path / "one"), RECIPE)
    store.add([random_entry(1), random_entry(2)])
    text = tmp_path / "all.jsonl"
    export(store, str(text))
    lines = text.read_text().splitlines()
    lines[2] = lines[2][:-40]
    text.write_text("\n".join(lines))
    target = create_store(str(tmp_path / "two"), RECIPE)
    with pytest.raises(RegistryError, match="line 3 is damaged"):
        target.add(read_jsonl(text)[1])
    assert len(target) == 0
    text.write_text('{"model": 1}\n')
    with pytest.raises(RegistryError, match="it is no file that 'huref registry export' wrote"):
        read_jsonl(text)


def test_many_entries_are_added_in_one_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "FULL", 8)
    monkeypatch.setattr(segment_writer, "FULL", 8)
    store = create_store(str(tmp_path / "one"), RECIPE)
    assert store.add(random_entry(i) for i in range(50)) == 50
    assert len(list(store.chunks())) == 7

    def until_another_recipe() -> Iterator[Entry]:
        yield from (random_entry(i) for i in range(50, 70))
        yield random_entry(70, recipe="another")

    with pytest.raises(RecipeError):
        store.add(until_another_recipe())
    assert len(store) == 50
    assert len(list((tmp_path / "one" / "segments").iterdir())) == 7
