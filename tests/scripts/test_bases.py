"""`python -m scripts.bases build` and its list of models."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from huref.loader.model_name import _HUB_ID
from huref.registry.fleet.model_list import read_list
from huref.registry.stores import open_store
from scripts.bases.build import LIST, read_families
from tests.support.fleet_hub import FleetHub, write_small_llama
from tests.support.zoo import ROOT

pytestmark = pytest.mark.slow

BUILD = [sys.executable, "-m", "scripts.bases", "build"]


def test_the_list_names_many_bases_once_each() -> None:
    models = read_list(LIST)
    assert len(models.models) > 120
    assert models.duplicates == 0
    families = read_families(LIST)
    assert sum(map(len, families.values())) == len(models.models)
    assert {"Llama", "Qwen", "Gemma", "OLMo", "GPT-2"} <= families.keys()
    for model in models.models:
        assert _HUB_ID.fullmatch(model.name)
        assert model.name.count("/") == 1


def test_many_bases_from_a_hub_that_refuses_some(tmp_path: Path) -> None:
    lines = [line for name in ("Pythia", "OPT", "BLOOM") for line in families_like(name)]
    names = [line.split()[0] for line in lines]
    served, gated = names[:8], names[8:11]  # the other models do not exist
    folders = [write_small_llama(tmp_path / f"model-{seed}", seed) for seed in range(4)]
    faults = {"429": 0.02, "503": 0.02, "cut": 0.04}
    with FleetHub(faults=faults) as hub:
        for number, name in enumerate(served + gated):
            hub.add(name, folders[number % len(folders)], gated=name in gated)
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
            environment.pop(name, None)
        listed = tmp_path / "bases.txt"
        listed.write_text("# Some (and more)\n" + "\n".join([*lines, *lines[:3]]) + "\n")
        command = [*BUILD, "--out", str(tmp_path / "bases")]
        command += ["--list", str(listed), "--workers", "4"]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        assert sum(hub.seen.values()) > 0
        requests = len(hub.requests)
        again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert len(hub.requests) == requests  # permanent failures are not retried
    found = [entry.model for entry in open_store(str(tmp_path / "bases")).entries()]
    assert sorted(found) == sorted(served)
    assert "measured   8 models" in result.stdout
    assert f"failed     {len(names) - 8}" in result.stdout
    assert "repeated   3" in result.stdout
    assert result.stdout.count("the repository is gated; ask for access") == len(gated)
    assert "known      8 in the registry already" in again.stdout


def families_like(part: str) -> list[str]:
    """The lines of the list that name a family's models."""
    families = read_families(LIST).values()
    return [line for lines in families for line in lines if part.lower() in line.lower()]


def test_a_registry_is_built_from_a_hub(tmp_path: Path) -> None:
    out = tmp_path / "bases"
    with FleetHub() as hub:
        for seed, line in enumerate(read_families(LIST)["GPT-2"][:2]):
            hub.add(line.split()[0], write_small_llama(tmp_path / str(seed), seed))
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        environment.pop("HF_HUB_OFFLINE", None)  # set by scripts that other tests import
        command = [*BUILD, "--out", str(out), "--family", "GPT-2"]
        result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = {entry.model for entry in open_store(str(out)).entries()}
    assert found == {"openai-community/gpt2", "openai-community/gpt2-medium"}
    assert "failed     2" in result.stdout
    assert (tmp_path / "bases.png").is_file()
    command[-1] = "No such family"
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "no family No such family; known: Llama," in result.stderr
