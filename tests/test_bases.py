"""scripts/build_bases.py and its list of models."""

import os
import subprocess
import sys
from pathlib import Path

from build_bases import LIST, read_families
from fleet_hub import FleetHub, write_small_llama

from huref.loader.repository import _HUB_ID
from huref.registry.model_list import read_list
from huref.registry.store import open_store

SCRIPT = Path(__file__).parent.parent / "scripts" / "build_bases.py"


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


def test_a_registry_is_built_from_a_hub(tmp_path: Path) -> None:
    out = tmp_path / "bases"
    with FleetHub() as hub:
        for seed, line in enumerate(read_families(LIST)["GPT-2"][:2]):
            hub.add(line.split()[0], write_small_llama(tmp_path / str(seed), seed))
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        environment.pop("HF_HUB_OFFLINE", None)  # which scripts that other tests import have set
        command = [sys.executable, str(SCRIPT), "--out", str(out), "--family", "GPT-2"]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = {entry.model for entry in open_store(str(out)).entries()}
    assert found == {"openai-community/gpt2", "openai-community/gpt2-medium"}
    assert "failed     2" in result.stdout
    assert (tmp_path / "bases.png").is_file()
    command[-1] = "No such family"
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "no family No such family; known: Llama," in result.stderr
