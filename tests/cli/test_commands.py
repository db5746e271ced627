"""The command line as a user meets it, in a process of its own where that matters."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import huref
from huref.cli import main
from huref.errors import HurefError
from huref.files import replacing
from huref.recipe import load_recipe
from tests.support.hub_server import LoopbackHub

MakeModel = Callable[..., Path]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_help_answers_without_the_heavy_imports() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from huref.cli import main;"
        "r = CliRunner().invoke(main, ['--help']); assert 'fingerprint' in r.output, r.output;"
        "heavy = {'torch', 'numpy', 'huggingface_hub', 'PIL'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_command_has_help() -> None:
    for name, command in main.commands.items():
        assert command.help, name
        assert run(name, "--help").exit_code == 0


def test_fingerprint_writes_a_picture_that_carries_its_record(
    make_llama: MakeModel, tmp_path: Path
) -> None:
    folder, out, record = make_llama("model"), tmp_path / "dog.png", tmp_path / "r.safetensors"
    result = run("fingerprint", folder, "-o", out, "--record", record, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert set(data) == {
        "huref", "schema", "model", "revision", "recipe", "picture_recipe", "image", "latent",
        "code", "anchors", "files", "bytes_read", "bytes_total", "seconds",
    }  # fmt: skip
    assert set(data["seconds"]) == {"read", "terms", "encode", "render"}
    assert data["image"] == str(out)
    assert len(data["latent"]) == 512
    assert data["bytes_read"] < data["bytes_total"]
    with Image.open(out) as image:
        assert image.info["huref:model"] == folder.name
        assert image.info["huref:recipe"] == load_recipe()[0].picture_digest
        assert min(image.size) >= 64
    again = run("fingerprint", folder, "-o", tmp_path / "again.png", "--json")
    assert json.loads(again.stdout)["latent"] == data["latent"]
    assert (tmp_path / "again.png").read_bytes() == out.read_bytes()
    from_record = run("fingerprint", record, "-o", tmp_path / "third.png", "--json")
    assert json.loads(from_record.stdout)["latent"] == pytest.approx(data["latent"])
    assert not list(tmp_path.glob(".*"))


def test_compare_takes_folders_records_and_pictures(make_llama: MakeModel, tmp_path: Path) -> None:
    a, b = make_llama("a", seed=1), make_llama("b", seed=2)
    png, record = tmp_path / "a.png", tmp_path / "a.safetensors"
    assert run("fingerprint", a, "-o", png, "--record", record).exit_code == 0
    result = run("compare", a, b, record, png, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["models"] == [str(a), str(b), str(a), a.name]  # a PNG tells no path
    pairs = data["pairs"]
    assert len(pairs) == 6
    same, stranger, pictured = pairs[1], pairs[0], pairs[2]
    assert same["ics"] == pytest.approx(1.0)
    assert set(same["terms"]) == {"qk", "vo", "ffn"}
    assert abs(stranger["ics"]) < 0.05
    assert stranger["shared_anchors"] > 300
    assert pictured["ics"] is None
    assert "only the latent" in pictured["why"]
    assert pictured["latent_cosine"] == pytest.approx(1.0, abs=1e-5)
    assert abs(stranger["latent_cosine"]) < 0.25
    for form in ("--csv", "--md"):
        text = run("compare", a, b, form).stdout
        assert str(a) in text
        assert len(text.strip().splitlines()) == (2 if form == "--csv" else 3)
    sheet = tmp_path / "sheet.png"
    shown = run("compare", png, a, b, "-o", sheet)
    assert "only the latent" in shown.stdout
    assert Image.open(sheet).width > Image.open(png).width


def test_a_hub_model_works_end_to_end(
    hub: LoopbackHub, make_llama: MakeModel, tmp_path: Path
) -> None:
    folder = make_llama("model")
    hub.add("org/tiny", folder)
    local, remote = tmp_path / "local.png", tmp_path / "remote.png"
    data = json.loads(run("fingerprint", "org/tiny", "-o", remote, "--json").stdout)
    assert data["revision"] == hub.repositories["org/tiny"].commit
    assert run("fingerprint", folder, "-o", local).exit_code == 0
    assert np.array_equal(np.asarray(Image.open(local)), np.asarray(Image.open(remote)))


def test_recipes_that_differ_are_not_compared(make_llama: MakeModel, tmp_path: Path) -> None:
    folder = make_llama("model")
    text = (Path(huref.__file__).parent.parent / "configs/recipes/default.yaml").read_text()
    other = tmp_path / "other.yaml"
    other.write_text(text.replace("layers: [1, 2]", "layers: [0, 1]"))
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    assert run("fingerprint", folder, "-o", a).exit_code == 0
    assert run("fingerprint", folder, "-o", b, "--recipe", other).exit_code == 0
    result = run("compare", a, b)
    assert result.exit_code == 1
    assert "different recipes" in result.stderr
    assert "layers differ" in result.stderr


def test_a_model_of_two_blocks_gets_a_recipe_of_its_own(
    make_llama: MakeModel, tmp_path: Path
) -> None:
    shallow, deep = make_llama("s", num_hidden_layers=2), make_llama("d")
    result = run("compare", shallow, deep, "--json")
    assert result.exit_code == 0, result.output
    pair = json.loads(result.stdout)["pairs"][0]
    assert pair["ics"] is None
    assert "function-1+shallow" in pair["why"]


def broken_models(make: MakeModel, tmp_path: Path) -> dict[str, tuple[Path, str]]:
    from safetensors.torch import load_file, save_file

    def edited(name: str, edit: Callable[[dict[str, torch.Tensor]], object]) -> Path:
        folder = make(name)
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")
        return folder

    def without(name: str, file: str) -> Path:
        folder = make(name)
        (folder / file).unlink()
        return folder

    key = "model.layers.1.mlp.up_proj.weight"
    truncated = make("truncated")
    data = (truncated / "model.safetensors").read_bytes()
    (truncated / "model.safetensors").write_bytes(data[: len(data) // 2])
    lying = make("lying")
    (lying / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + data[8:])
    alien = make("alien")
    config = json.loads((alien / "config.json").read_text()) | {"model_type": "mamba"}
    (alien / "config.json").write_text(json.dumps(config))
    return {
        "no weights": (without("a", "model.safetensors"), "no weights"),
        "no tokenizer": (without("b", "tokenizer.json"), "tokenizer"),
        "no config": (without("c", "config.json"), "config.json"),
        "NaN": (edited("d", lambda t: t[key].view(-1)[:1].fill_(float("nan"))), key),
        "infinite": (edited("e", lambda t: t[key].view(-1)[:1].fill_(float("inf"))), key),
        "all zero": (edited("f", lambda t: [x.zero_() for x in t.values()]), "zero"),
        "one embedding": (
            edited("g", lambda t: t["model.embed_tokens.weight"].fill_(1.0)),
            "embeddings are all equal",
        ),
        "overflow": (edited("h", lambda t: [x.mul_(1e30) for x in t.values()]), "overflow"),
        "truncated": (truncated, "model.safetensors"),
        "lying header": (lying, "model.safetensors"),
        "unsupported": (alien, "mamba"),
        "missing folder": (
            tmp_path / "nowhere",
            f"{tmp_path / 'nowhere'}: it is neither a folder, nor a file, nor a Hub id",
        ),
    }


def test_bad_input_is_one_line_and_leaves_nothing(make_llama: MakeModel, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for what, (model, words) in broken_models(make_llama, tmp_path).items():
        result = run("fingerprint", model, "-o", out / "dog.png", "--record", out / "r.st")
        assert result.exit_code == 1, what
        assert result.stdout == "", what
        assert len(result.stderr.strip().splitlines()) == 1, (what, result.stderr)
        assert words in result.stderr, (what, result.stderr)
        assert "Traceback" not in result.stderr
        assert not list(out.iterdir()), what


@pytest.mark.slow
def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    code = "from huref.cli import main; main()"
    command = [sys.executable, "-c", code, "fingerprint", str(tmp_path / "nowhere")]
    plain = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (plain.returncode, plain.stdout) == (1, "")
    assert "Traceback" not in plain.stderr
    environment = os.environ | {"HUREF_DEBUG": "1"}
    debug = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert "Traceback" in debug.stderr
    assert debug.returncode != 0


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"hello", b"\x00" * 100])
def test_files_that_are_neither_record_nor_picture(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "thing"
    file.write_bytes(content)
    result = run("compare", file, file)
    assert result.exit_code == 1
    assert "thing" in result.stderr


def test_an_output_folder_that_is_missing_is_said_first(tmp_path: Path) -> None:
    result = run("fingerprint", "org/name", "-o", tmp_path / "none" / "dog.png")
    assert result.exit_code == 1
    assert "no folder" in result.stderr


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    out = tmp_path / "file" / "dog.png"
    with pytest.raises(HurefError, match=r"dog\.png: it cannot be written"), replacing(out):
        raise AssertionError("not reached")


def test_no_name_is_not_the_current_folder(
    make_llama: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_llama("model"))
    result = run("fingerprint", "", "-o", tmp_path / "dog.png")
    assert result.exit_code == 1
    assert "the model's name is empty ('')" in result.stderr
    assert run("fingerprint", ".", "-o", tmp_path / "dog.png").exit_code == 0


def test_usage_errors_exit_with_two() -> None:
    assert run("compare", "one").exit_code == 2
    assert run("fingerprint").exit_code == 2
    assert run("train-encoder").exit_code == 2
    assert run("train-encoder", "--config", "configs/encoder.yaml", "--steps", -1).exit_code == 2
    assert run("fingerprint", "org/name", "-o", "dog.jpg").exit_code == 2
    assert run("identify", "org/name", "--registry", ".", "-o", "dogs.jpg").exit_code == 2


def test_the_api_is_the_commands(make_llama: MakeModel, tmp_path: Path) -> None:
    folder = make_llama("model")
    dog = huref.fingerprint(folder, tmp_path / "dog.png")
    assert dog.image.dtype == np.uint8
    assert dog.latent.shape == (512,)
    table = huref.compare([folder, tmp_path / "dog.png"])
    assert table.pairs[0].similarity.latent_cosine == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(huref.HurefError):
        huref.fingerprint(tmp_path / "nowhere")
