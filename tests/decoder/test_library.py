"""Imported decoders: names, the command line, and fingerprints that use them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.torch import save_file

from huref.api.fingerprint import fingerprint
from huref.assets import locate
from huref.cli import main
from huref.decoder.library import import_decoder
from huref.errors import RecordError
from huref.recipe import load_recipe
from tests.support.nvidia_generator import (
    nvidia_network,
    nvidia_state,
    write_nvidia,
)
from tests.support.zoo import ROOT

pytestmark = pytest.mark.usefixtures("nvidia_modules", "home")


def test_a_fingerprint_of_an_imported_decoder_finds_it_again(tmp_path: Path, home: Path) -> None:
    path, recipe = tmp_path / "x.safetensors", tmp_path / "own.yaml"
    save_file(nvidia_state(), path)
    import_decoder(path, "dog")
    zoo = ROOT / "checkpoints" / "zoo" / "llama-a"
    dog = fingerprint(zoo, tmp_path / "dog.png", decoder="dog")
    assert not np.array_equal(dog.image, fingerprint(zoo).image)
    assert np.array_equal(fingerprint(tmp_path / "dog.png").image, dog.image)
    shipped = locate("configs/recipes/default.yaml")
    text = shipped.read_text("utf-8").replace("checkpoints/decoder.safetensors", "dog")
    recipe.write_text(text.replace("checkpoints/", f"{shipped.parents[2]}/checkpoints/"))
    assert np.array_equal(fingerprint(zoo, recipe=str(recipe)).image, dog.image)
    for file in home.glob("decoders/*"):
        file.unlink()
    with pytest.raises(RecordError, match="--decoder"):
        fingerprint(tmp_path / "dog.png")


def test_names_and_the_command_line(tmp_path: Path, home: Path) -> None:
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(main, ["decoder", *map(str, arguments)])

    path = tmp_path / "AFHQ Dog (1).pkl"
    write_nvidia(path, nvidia_network(nvidia_state(), 256.0, 0.01))
    made = run("import", path, "--json")
    assert made.exit_code == 0, made.output
    entry = json.loads(made.stdout)
    assert entry["name"] == "afhq-dog-1"
    assert Path(entry["path"]) == home / "decoders" / "afhq-dog-1.safetensors"
    taken = run("import", path)
    assert (taken.exit_code, taken.stdout) == (1, "")
    assert "--replace" in taken.stderr
    again = run("import", path, "--replace", "--psi", "0.9", "--cutoff", "3")
    assert "psi 0.9 on the first 3 layers" in again.stdout
    assert "non-commercial" in again.stdout
    for name in ("../escape", "Upper", "", "a/b", ".hidden"):
        refused = run("import", path, "--name", name)
        assert refused.exit_code == 1
        assert "cannot be the name of a decoder" in refused.stderr
    assert run("import", path, "--name", "x", "--psi", "1.5").exit_code == 1
    assert run("import", tmp_path / "none.pkl").exit_code == 1
    listed = json.loads(run("list", "--json").stdout)["decoders"]
    assert [(e["name"], e["shipped"]) for e in listed] == [
        ("default", True),
        ("afhq-dog-1", False),
    ]
    text = run("list").stdout.splitlines()
    assert text[0].split() == ["name", "px", "psi", "cutoff", "digest", "licence"]
    assert "non-commercial" in text[2]
    recipe, _, decoder_path = load_recipe("default", "afhq-dog-1")
    assert decoder_path == Path(entry["path"])
    assert recipe.decoder == listed[1]["digest"]
    from_elsewhere = CliRunner().invoke(
        main, ["fingerprint", str(tmp_path), "--decoder", "nobody", "-o", str(tmp_path / "x.png")]
    )
    assert from_elsewhere.exit_code == 1
    assert "afhq-dog-1" in from_elsewhere.stderr
