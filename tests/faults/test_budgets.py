"""Every input of N bytes costs at most 64 MB + 32 N of memory and max(2 s, N / 1 MB/s) of CPU."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import (  # noqa: F401
    hostile_binaries,
    hostile_lists,
    hostile_models,
    hostile_texts,
)
from tests.support.hostile_files import FILES
from tests.support.read_within_limits import allowed

pytestmark = pytest.mark.slow

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each hostile file cost, all measured in one process that forks for each."""
    paths = {}
    for number, (name, write) in enumerate(FILES.items()):
        folder = tmp_path_factory.mktemp(f"file{number}")
        paths[str(write(folder))] = name
    command = [sys.executable, "-m", "tests.support.read_within_limits", *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {paths[line["path"]]: line for line in lines}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_costs_what_its_size_justifies(name: str, results: Results) -> None:
    result = results[name]
    memory, seconds = allowed(result["size"])
    assert result["outcome"] in ("read", "refused"), result
    assert result["memory"] <= memory, result
    assert result["cpu"] <= seconds, result
    assert "\n" not in result["message"]


# Kinds of files that other kinds cover, and of which one input is a whole model.
WHOLE_MODELS = {
    "vocabulary.gguf", "model.gguf", "consolidated.safetensors", "adapter_model.safetensors",
    "adapters.safetensors",
}  # fmt: skip


def test_there_are_three_inputs_of_each_kind() -> None:
    kinds: dict[str, int] = {}
    for name in FILES:
        kind = Path(name).name
        kinds[kind] = kinds.get(kind, 0) + 1
    assert len(kinds) >= 12
    few = {kind for kind, number in kinds.items() if number < 3}
    assert few <= WHOLE_MODELS, kinds
