"""Records and pictures: contents, and refusal of damaged ones."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors import safe_open
from safetensors.torch import save_file

import huref
from huref.api.open import open_record
from huref.errors import RecordError
from huref.invariants.record import digest_of, load_record

Edit = Callable[[dict[str, torch.Tensor], dict[str, str]], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.zoo import ZOO

    folder = tmp_path_factory.mktemp("made")
    huref.fingerprint(ZOO / "llama-b", folder / "b.png", record=folder / "b.safetensors")
    return folder


def test_contents_of_a_record_file(made: Path) -> None:
    with safe_open(made / "b.safetensors", "pt") as file:
        assert file.get_slice("terms").get_shape() == [2, 3, 512, 512]
        assert file.get_slice("latent").get_shape() == [512]
        metadata = file.metadata()
    assert set(metadata) == {
        *("recipe", "model", "revision", "layers", "anchors", "traits", "files", "digest"),
        *("forward", "signs", "samples"),
    }
    assert json.loads(metadata["layers"]) == [1, 2]
    rows = json.loads(metadata["anchors"])
    assert len(rows) == 512
    assert all(bytes.fromhex(text) or number == -1 for text, number in rows)
    record = load_record(made / "b.safetensors")
    picture = open_record(str(made / "b.png"))
    assert record.latent is not None
    assert picture.latent is not None
    assert (record.latent == picture.latent).all()
    assert record.recipe == picture.recipe


def seal(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Make the digest fit, as a careful editor would."""
    metadata["digest"] = digest_of(tensors, metadata)


def drop_terms(tensors: dict[str, torch.Tensor], _: object) -> None:
    del tensors["terms"]


EDITS: dict[str, Edit] = {
    "no terms": drop_terms,
    "a small term": lambda t, _: t.update(terms=t["terms"][:, :, :4, :4].contiguous()),
    "NaN": lambda t, _: t["terms"].view(-1)[:1].fill_(float("nan")),
    "infinite latent": lambda t, _: t["latent"][:1].fill_(float("inf")),
    "too few anchors": lambda _, m: m.update(anchors="[]"),
    "anchors that are not hex": lambda _, m: m.update(anchors='[["zz", 1]]'),
    "no recipe": lambda _, m: m.pop("recipe"),
    "a recipe with a surplus field": lambda _, m: m.update(
        recipe=json.dumps(json.loads(m["recipe"]) | {"x": 1})
    ),
    "a recipe of absurd size": lambda _, m: m.update(
        recipe=json.dumps(json.loads(m["recipe"]) | {"m": 10**12})
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_damaged_records_are_refused(made: Path, tmp_path: Path, edit: str) -> None:
    with safe_open(made / "b.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in ("terms", "latent")}
        metadata = dict(file.metadata())
    EDITS[edit](tensors, metadata)
    seal(tensors, metadata)
    save_file(tensors, tmp_path / "r.safetensors", metadata)
    with pytest.raises(huref.HurefError, match=r"r\.safetensors"):
        load_record(tmp_path / "r.safetensors")


def read_all(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        return {name: file.get_tensor(name) for name in names}, dict(file.metadata())


def test_units_and_traits_are_restored(made: Path) -> None:
    record = load_record(made / "b.safetensors")
    assert record.units is not None
    assert record.units.networks.tolist() == [[1, -1, 192], [2, -1, 192]]
    assert record.units.layers == (1, 2)
    squares = record.units.of_network(1).float().square().mean(dim=(0, 2))
    assert squares.tolist() == pytest.approx([1, 1, 1], rel=1e-2)
    assert record.barcodes is not None
    assert record.barcodes.networks.tolist() == [[1, -1, 192, 192], [2, -1, 192, 192]]
    assert record.traits is not None
    assert (record.traits.vocabulary, record.traits.blocks, record.traits.width) == (4096, 5, 112)


def test_a_record_without_units_is_compared_by_its_terms(made: Path, tmp_path: Path) -> None:
    tensors, metadata = read_all(made / "b.safetensors")
    del metadata["traits"]
    old = {name: tensors[name] for name in ("terms", "latent")}
    seal(old, metadata)
    save_file(old, tmp_path / "old.safetensors", metadata)
    record = load_record(tmp_path / "old.safetensors")
    assert record.units is None
    assert record.traits is None
    pair = huref.compare([made / "b.safetensors", tmp_path / "old.safetensors"]).pairs[0]
    assert pair.evidence.units is None
    assert "no features of hidden units" in pair.evidence.why
    assert pair.evidence.verdict == "descends"


def test_terms_and_units_decide_where_a_record_has_no_relations(made: Path, tmp_path: Path) -> None:
    tensors, metadata = read_all(made / "b.safetensors")
    old = {name: tensor for name, tensor in tensors.items() if "relations" not in name}
    assert len(old) == len(tensors) - 3
    seal(old, metadata)
    save_file(old, tmp_path / "old.safetensors", metadata)
    pair = huref.compare([made / "b.safetensors", tmp_path / "old.safetensors"]).pairs[0]
    assert pair.evidence.retention is None
    assert pair.similarity.ics == pytest.approx(1.0)
    assert pair.evidence.verdict == "descends"
    assert pair.evidence.log10_p is not None
    assert pair.evidence.log10_p < -99


DAMAGED_UNITS: dict[str, Edit] = {
    "NaN": lambda t, _: t["units.features"].view(-1)[:1].fill_(float("nan")),
    "a missing part": lambda t, _: t.pop("units.scales"),
    "too many units": lambda t, _: t["units.networks"][0, 2:].fill_(9999),
    "a network of no units": lambda t, _: t["units.networks"][0, 2:].fill_(0),
    "NaN in a barcode": lambda t, _: t["barcodes.numbers"].view(-1)[:1].fill_(float("nan")),
    "NaN in a relation": lambda t, _: t["relations.cosines"][:1].fill_(float("nan")),
    "too few relations": lambda t, _: t["relations.networks"][0, 2:].fill_(2),
    "too few barcodes": lambda t, _: t["barcodes.networks"][0, 3:].fill_(1),
    "traits of another type": lambda _, m: m.update(traits="[]"),
}


@pytest.mark.parametrize("edit", DAMAGED_UNITS)
def test_damaged_units_are_refused(made: Path, tmp_path: Path, edit: str) -> None:
    tensors, metadata = read_all(made / "b.safetensors")
    DAMAGED_UNITS[edit](tensors, metadata)
    seal(tensors, metadata)
    save_file(tensors, tmp_path / "r.safetensors", metadata)
    with pytest.raises(RecordError, match=r"r\.safetensors"):
        load_record(tmp_path / "r.safetensors")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("huref:latent", "AAAA"),
        ("huref:latent", "not base64!"),
        ("huref:latent", None),
        ("huref:recipe", "000000000000"),
        ("huref:recipe.json", "{}"),
        ("huref:recipe.json", None),
        ("huref:model", None),
    ],
)
def test_damaged_pictures_are_refused(
    made: Path, tmp_path: Path, key: str, value: str | None
) -> None:
    with Image.open(made / "b.png") as image:
        image.load()
        assert isinstance(image, PngImagePlugin.PngImageFile)
        text = dict(image.text) | {key: value}
        information = PngImagePlugin.PngInfo()
        for name, content in text.items():
            if content is not None:
                information.add_itxt(name, content)
        image.save(tmp_path / "p.png", pnginfo=information)
    with pytest.raises(huref.HurefError, match=r"p\.png"):
        open_record(str(tmp_path / "p.png"))


def test_a_picture_gives_no_record_to_save(made: Path, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="only a model's weights"):
        huref.fingerprint(made / "b.png", tmp_path / "x.png", record=tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())
