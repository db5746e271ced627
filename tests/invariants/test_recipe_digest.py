"""The digest by which fingerprints are compared does not depend on the decoder."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import huref
from huref.api.fingerprint import render
from huref.api.open import measure, open_record, picture_text, read_picture
from huref.cli import main
from huref.errors import RecipeError, RecordError
from huref.invariants.record import Record
from huref.recipe import Recipe, load_recipe
from huref.registry.entry import make_entry
from huref.registry.exchange import export, read_jsonl
from huref.registry.identify import identify
from huref.registry.map.draw import draw_map
from huref.registry.store import Store
from huref.registry.stores import create_store, open_store
from tests.support.zoo import ZOO

NOW = load_recipe()[0]
BEFORE = replace(NOW, decoder="0" * 12)  # a decoder that does not exist


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    return {name: open_record(str(ZOO / name)) for name in ("llama-a", "llama-a-finetune")}


@pytest.fixture
def older(records: dict[str, Record], tmp_path: Path) -> Path:
    """A record that was saved with another decoder."""
    path = tmp_path / "older.safetensors"
    replace(records["llama-a"], recipe=BEFORE).save(path)
    return path


@pytest.fixture
def bases(records: dict[str, Record], tmp_path: Path) -> Store:
    """A registry that was created with that decoder."""
    store = create_store(str(tmp_path / "bases"), BEFORE)
    store.add([make_entry(replace(records["llama-a"], recipe=BEFORE))])
    return store


@pytest.mark.parametrize(
    ("name", "digest"),
    [("static-1", "26249a62fd7a"), ("function-1", "65d74cddb88e"), ("paper", "f1e51a5d49df")],
)
def test_recipes_that_shipped_stay_as_they_are(name: str, digest: str) -> None:
    recipe = load_recipe(name)[0]
    assert (recipe.name, recipe.digest) == (name, digest)


def test_default_is_the_newest_recipe_under_its_own_name() -> None:
    assert load_recipe("function-1") == load_recipe("default")
    with pytest.raises(RecipeError, match="there is no recipe 'function-99'"):
        load_recipe("function-99")


def test_files_in_the_current_folder_are_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("default", "checkpoints/encoder.safetensors", "checkpoints/decoder.safetensors"):
        (tmp_path / name).write_text("not huref's")
    monkeypatch.chdir(tmp_path)
    assert load_recipe()[0] == NOW


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"}, {"anchors": "all"}, {"m": 256}, {"layers": (1,)}, {"terms": "other"},
        {"damping": 0.2}, {"encoder": "0" * 12},
    ],
)  # fmt: skip
def test_every_field_but_the_decoder_changes_the_digest(changes: dict[str, object]) -> None:
    other: Recipe = replace(NOW, **changes)  # type: ignore[arg-type]
    assert other.digest != NOW.digest
    assert other.differences(NOW) == list(changes)


def test_the_decoder_changes_the_picture_digest_only() -> None:
    assert BEFORE.digest == NOW.digest
    assert BEFORE.picture_digest != NOW.picture_digest
    assert BEFORE.differences(NOW) == []


def test_records_of_two_decoders_are_compared(older: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    arguments = ["compare", str(older), str(ZOO / "llama-a-finetune"), "--json", "-o", str(page)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["recipe"] == NOW.digest
    assert data["pairs"][0]["verdict"] == "descends"
    assert page.read_text("utf-8").count("data:image/png") >= 2  # both models have a picture
    with pytest.raises(RecipeError, match="encoder differ"):
        huref.compare([older, _with_encoder(older, tmp_path)])


def _with_encoder(path: Path, folder: Path) -> Path:
    record = open_record(str(path))
    record = replace(record, recipe=replace(record.recipe, encoder="0" * 12))
    record.save(folder / "other-encoder.safetensors")
    return folder / "other-encoder.safetensors"


def test_a_fingerprint_is_redrawn_by_another_decoder_on_request_only(
    records: dict[str, Record],
) -> None:
    record = replace(records["llama-a"], recipe=BEFORE)
    with pytest.raises(RecordError, match="made for the decoder 000000000000"):
        render(record)
    assert np.array_equal(render(record, redraw=True), render(records["llama-a"]))


def test_a_picture_says_which_decoder_drew_it(records: dict[str, Record], tmp_path: Path) -> None:
    path = tmp_path / "dog.png"
    fingerprint = huref.fingerprint(ZOO / "llama-a", path)
    assert fingerprint.to_json()["recipe"] == NOW.digest
    assert picture_text(fingerprint.record)["huref:recipe"] == NOW.picture_digest
    assert read_picture(path).recipe == NOW


def test_a_registry_can_be_used_with_another_decoder(bases: Store, tmp_path: Path) -> None:
    store, child = open_store(bases.uri), str(ZOO / "llama-a-finetune")
    for arguments in (
        ["registry", "search", store.uri, child],
        ["registry", "add", store.uri, str(ZOO / "llama-b")],
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.stderr
    assert {entry.recipe for entry in store.entries()} == {NOW.digest}
    found = identify(child, store, read=0)
    assert (found.answer, found.base) == ("descends", "llama-a")
    assert found.draw().ndim == 3
    assert all(image is not None for image in draw_map(store).images)


def test_a_fleet_continues_with_another_decoder(bases: Store, tmp_path: Path) -> None:
    listed = tmp_path / "models.txt"
    listed.write_text(f"{ZOO / 'llama-a'}\n{ZOO / 'llama-b'}\n")
    arguments = ["fleet", str(listed), "-o", bases.uri, "--json"]
    arguments += ["--picture", str(tmp_path / "dogs.png")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    # A folder has no commit: what no journal tells of is measured again.
    assert (data["done"], data["known"], data["failed"]) == (2, 0, 0)
    with Image.open(tmp_path / "dogs.png") as image:
        assert min(image.size) > 100


def test_an_export_with_a_former_digest_can_be_imported(bases: Store, tmp_path: Path) -> None:
    out = tmp_path / "bases.jsonl"
    assert export(bases, str(out)) == 1
    head, line = out.read_text("utf-8").splitlines()
    assert json.loads(line)["recipe"] == NOW.digest
    out.write_text(f"{head}\n{line.replace(NOW.digest, BEFORE.picture_digest)}\n")
    recipe, entries = read_jsonl(out)
    assert create_store(str(tmp_path / "copy"), recipe).add(entries) == 1


def test_a_cached_record_is_used_with_any_decoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "home"))
    first, _ = measure(str(ZOO / "llama-b"), cache=True)
    (kept,) = (tmp_path / "home" / "records").iterdir()
    replace(first, recipe=replace(first.recipe, decoder="0" * 12)).save(kept)
    again, costs = measure(str(ZOO / "llama-b"), cache=True)
    assert "terms" not in costs.seconds  # nothing was measured
    assert again.recipe == first.recipe
