"""Seals of pictures and records: no edit is accepted, and who signed is said."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors import safe_open
from safetensors.torch import save_file

import huref
from huref.api.open import open_record
from huref.api.picture import check_pixels
from huref.decoder.picture import read_png, write_png
from huref.errors import EditedError, HurefError
from huref.evidence.seal import seal_text
from huref.invariants.record import load_record
from tests.evidence.conftest import MODEL, Keys, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, keys: dict[str, Keys]) -> Path:
    """A record, and pictures of it: plain, signed and with a caption."""
    folder = tmp_path_factory.mktemp("pictures")
    huref.fingerprint(MODEL, folder / "plain.png", record=folder / "r.safetensors")
    record = folder / "r.safetensors"
    for name, arguments in (
        ("signed", ("--key", keys["ed25519"].private)),
        ("caption", ("--key", keys["p256"].private, "--caption")),
    ):
        result = run("fingerprint", record, "-o", folder / f"{name}.png", *arguments)
        assert result.exit_code == 0, result.output
    return folder


def test_compare_and_identify_say_who_signed(
    folder: Path, keys: dict[str, Keys], tmp_path: Path
) -> None:
    result = run("compare", folder / "plain.png", folder / "signed.png", folder / "caption.png")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert lines[0] == f"{folder / 'plain.png'}: unsigned"
    ids = [open_record(str(folder / f"{name}.png")).seal for name in ("signed", "caption")]
    assert all(seal is not None and seal.pixels_checked for seal in ids)
    assert lines[1] == f"{folder / 'signed.png'}: signed by {ids[0].signer[:16]}"  # type: ignore[union-attr]
    run("registry", "init", tmp_path / "r")
    run("registry", "add", tmp_path / "r", folder / "r.safetensors")
    result = run("identify", folder / "signed.png", "--registry", tmp_path / "r")
    assert result.exit_code == 0, result.output
    assert "signed by" in result.stderr


def test_verify_checks_a_pictures_key(folder: Path, keys: dict[str, Keys]) -> None:
    signed = folder / "signed.png"
    assert run("verify", signed, "--key", keys["ed25519"].public).exit_code == 0
    for file, key in ((signed, "other"), (folder / "plain.png", "ed25519")):
        result = run("verify", file, "--key", keys[key].public)
        assert (result.exit_code, result.stderr.count("\n")) == (3, 1), result.output


def write(path: Path, text: dict[str, str], pixels: np.ndarray, **options: Any) -> Path:
    """A PNG by Pillow, not by huref."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in text.items():
        chunks.add_text(key, value)
    Image.fromarray(pixels).save(path, pnginfo=chunks, **options)
    return path


def is_refused(path: Path) -> bool:
    """Whether a picture is refused, with an error that names it."""
    try:
        open_record(str(path))
    except HurefError as error:
        return path.name in str(error)
    return False


@pytest.mark.parametrize("name", ["plain", "signed", "caption"])
def test_no_edit_of_a_picture_is_accepted(folder: Path, tmp_path: Path, name: str) -> None:
    text, pixels = read_png(folder / f"{name}.png")
    other, _ = read_png(folder / ("signed.png" if name != "signed" else "caption.png"))
    path = tmp_path / "edited.png"
    assert open_record(str(write(path, text, pixels))).model == MODEL.name, "saved again, unedited"
    edits = []
    for key in sorted(text):
        letter = "B" if text[key][:1] == "A" else "A"
        edits += [
            (f"changed {key}", text | {key: letter + text[key][1:]}, pixels),
            (f"longer {key}", text | {key: text[key] + "A"}, pixels),
            (f"empty {key}", text | {key: ""}, pixels),
            (f"without {key}", {k: v for k, v in text.items() if k != key}, pixels),
        ]
        if key in other and other[key] != text[key]:
            edits.append((f"another's {key}", text | {key: other[key]}, pixels))
    edits.append(("a new text", text | {"huref:note": "by me"}, pixels))
    for place in ((0, 0, 0), (100, 100, 1), (pixels.shape[0] - 1, 255, 2)):
        changed = pixels.copy()
        changed[place] ^= 1
        edits.append((f"pixel {place}", text, changed))
    edits.append(("mirrored", text, np.ascontiguousarray(pixels[:, ::-1])))
    edits.append(("cropped", text, pixels[:-1]))
    for what, edited, image in edits:
        if edited == text and image is pixels:
            continue  # an empty text made empty
        write(path, edited, image)
        assert is_refused(path), f"accepted: {what}"
    result = run("compare", write(path, text, pixels[:, ::-1]), folder / "plain.png")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert "was edited" in result.stderr


def test_two_texts_of_one_name_transparency_and_animation_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    text, pixels = read_png(folder / "plain.png")
    chunks = PngImagePlugin.PngInfo()
    for key, value in [("huref:model", "org/other"), *text.items()]:
        chunks.add_text(key, value)
    Image.fromarray(pixels).save(tmp_path / "twice.png", pnginfo=chunks)
    write(tmp_path / "clear.png", text, pixels, transparency=(0, 0, 0))
    frames = [Image.fromarray(pixels[::-1])]
    write(tmp_path / "moving.png", text, pixels, save_all=True, append_images=frames)
    write(tmp_path / "grey.png", text, pixels[..., 0])
    for name in ("twice", "clear", "moving", "grey"):
        with pytest.raises(EditedError, match=f"{name}.png"):
            open_record(str(tmp_path / f"{name}.png"))


def test_chunks_that_change_what_is_shown_and_bytes_after_the_end_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    data = (folder / "signed.png").read_bytes()
    path = tmp_path / "chunk.png"
    gamma = struct.pack(">I", 30_000)
    for kind, value in ((b"gAMA", gamma), (b"sRGB", b"\0"), (b"pHYs", bytes(9)), (b"teSt", b"x")):
        chunk = struct.pack(">I", len(value)) + kind + value
        chunk += struct.pack(">I", zlib.crc32(kind + value))
        path.write_bytes(data[:33] + chunk + data[33:])  # after the header
        assert is_refused(path), kind
    for tail in (b"x", b"PK\x03\x04", data[-12:]):
        path.write_bytes(data + tail)
        assert is_refused(path), tail
    path.write_bytes(data)
    assert not is_refused(path)


def test_a_picture_that_its_latent_does_not_draw_is_refused_though_sealed(
    folder: Path, tmp_path: Path, keys: dict[str, Keys]
) -> None:
    """Whoever edits on purpose makes the digest fit; the decoder still knows the dog."""
    text, pixels = read_png(folder / "plain.png")
    del text["huref:digest"]
    path = tmp_path / "sealed.png"
    shifted = pixels.copy()
    shifted[10:20, 10:20] ^= 2
    write_png(path, shifted, seal_text(text, shifted))
    with pytest.raises(EditedError, match="not what its recipe draws"):
        open_record(str(path))
    level = pixels.copy()
    level[3, 5] ^= 1  # as another machine's rounding
    write_png(path, level, seal_text(text, level))
    assert open_record(str(path)).seal is not None


def test_a_picture_of_an_unknown_decoder_is_unchecked(folder: Path, tmp_path: Path) -> None:
    import json
    from dataclasses import replace

    text, pixels = read_png(folder / "plain.png")
    record = open_record(str(folder / "plain.png"))
    recipe = replace(record.recipe, decoder="0" * 12)
    assert record.latent is not None
    assert not check_pixels(pixels, record.latent, recipe)
    text |= {"huref:recipe.json": recipe.to_json(), "huref:recipe": recipe.picture_digest}
    assert json.loads(text["huref:recipe.json"])["decoder"] == "0" * 12
    del text["huref:digest"]
    write_png(tmp_path / "x.png", pixels, seal_text(text, pixels))
    assert "pixels unchecked" in str(open_record(str(tmp_path / "x.png")).seal)


RecordEdit = Callable[[dict[str, torch.Tensor], dict[str, str]], object]


def test_no_edit_of_a_record_is_accepted(folder: Path, tmp_path: Path) -> None:
    with safe_open(folder / "r.safetensors", "pt") as file:
        names = list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
        metadata = dict(file.metadata())
    path = tmp_path / "edited.safetensors"

    def refused(changed: dict[str, torch.Tensor], text: dict[str, str]) -> None:
        save_file(changed, path, text)
        with pytest.raises(HurefError, match=r"edited\.safetensors"):
            load_record(path)

    save_file(tensors, path, metadata)
    assert load_record(path).digest == metadata["digest"]
    for key, value in metadata.items():
        refused(tensors, {k: v for k, v in metadata.items() if k != key})
        refused(tensors, metadata | {key: value + " "})
        refused(tensors, metadata | {key: value[:-1] + ("1" if value[-1:] != "1" else "2")})
    refused(tensors, metadata | {"salt": "00"})
    for name, tensor in tensors.items():
        if tensor.numel():  # effects are measured at full depth alone
            changed = tensor.clone()
            changed.view(-1).view(torch.uint8)[-1] ^= 1
            refused(tensors | {name: changed}, metadata)
        refused({k: v for k, v in tensors.items() if k != name}, metadata)
