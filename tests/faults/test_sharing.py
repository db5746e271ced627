"""Processes of huref at once, of one version and of two, with one cache and one registry."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from huref.registry.stores import open_store
from tests.support.zoo import ROOT, ZOO

pytestmark = pytest.mark.slow

MEASURED = "encode(extract.terms).numpy()"
OPEN = """import sys
from huref.api.open import open_record
print(open_record(sys.argv[1], cache=True).latent.tolist())"""


def _start(package: Path, home: Path, *words: object) -> subprocess.Popen[str]:
    environment = os.environ | {"HUREF_HOME": str(home), "PYTHONPATH": str(package),
                                "OMP_NUM_THREADS": "1"}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=environment, cwd=package, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def _finish(process: subprocess.Popen[str]) -> str:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a version of huref whose latents are the negatives of this one's."""
    folder = tmp_path_factory.mktemp("newer")
    shutil.copytree(ROOT / "huref", folder / "huref",
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    for name in ("checkpoints", "configs"):
        (folder / name).symlink_to(ROOT / name)
    version = folder / "huref" / "version.py"
    version.write_text(version.read_text("utf-8").replace('"0.', '"9.'), "utf-8")
    opening = folder / "huref" / "api" / "open.py"
    text = opening.read_text("utf-8")
    assert text.count(MEASURED) == 1
    opening.write_text(text.replace(MEASURED, f"{MEASURED} * np.float32(-1)")
                       .replace("import time\n", "import time\n\nimport numpy as np\n", 1),
                       "utf-8")  # fmt: skip
    return folder


def test_two_versions_at_once_on_one_cache_find_what_each_finds_alone(
    newer: Path, tmp_path: Path
) -> None:
    def latents(runs: int) -> list[list[list[float]]]:
        words = ("-c", OPEN, ZOO / "llama-a")
        started = [
            [_start(package, tmp_path / "home", *words) for _ in range(runs)]
            for package in (ROOT, newer)
        ]
        return [[json.loads(_finish(process)) for process in each] for each in started]

    both = latents(2)  # nothing is cached yet: all four measure and store
    again = latents(1)
    mine, theirs = np.array(both[0] + again[0]), np.array(both[1] + again[1])
    assert np.abs(mine).max() > 0
    assert (mine == mine[0]).all()
    assert (theirs == -mine[0]).all()
    assert len(list((tmp_path / "home" / "records").glob("*.safetensors"))) == 2
    assert not list((tmp_path / "home").rglob(".*"))  # no temporary file is left


def test_fleets_at_once_on_one_registry_measure_every_model_once(tmp_path: Path) -> None:
    lists = {"one": ("llama-a", "llama-b", "qwen-c"), "two": ("qwen-c", "llama-a", "mistral-d")}
    started = []
    for name, models in lists.items():
        path = tmp_path / f"{name}.txt"
        path.write_text("".join(f"{ZOO / model}\n" for model in models))
        started.append(
            _start(ROOT, tmp_path / "home", "-m", "huref", "fleet", path, "-o", tmp_path / "bases",
                   "--journal", tmp_path / f"{name}.journal", "--engine", "threads",
                   "--workers", 1, "--json")
        )  # fmt: skip
    for process in started:
        _finish(process)
    stored = sorted(entry.model for entry in open_store(str(tmp_path / "bases")).entries())
    assert stored == sorted({model for each in lists.values() for model in each})
    for name, listed in lists.items():
        lines = [json.loads(line) for line in (tmp_path / f"{name}.journal").open()]
        assert {line["model"] for line in lines} == set(listed)
        assert {line["status"] for line in lines} <= {"done", "known"}
