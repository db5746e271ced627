"""The list of merges: settings and truth for a set of models."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from scripts.evaluate.mixtures.making import Merge, fill, make_merge, read_family, read_merges
from scripts.evaluate.mixtures.measuring import Estimate
from scripts.evaluate.mixtures.run import rows
from tests.support.zoo import ZOO


@pytest.fixture
def merges(tmp_path: Path) -> dict[str, Merge]:
    return {merge.name: merge for merge in read_merges(read_family("zoo", ZOO), tmp_path)}


def test_shares_of_every_merge_add_up_to_one(merges: dict[str, Merge]) -> None:
    assert len(merges) > 20
    for merge in merges.values():
        assert sum(merge.parts.values()) == pytest.approx(1)
        assert "$" not in yaml.safe_dump(dict(merge.settings))


def test_blocks_are_counted_where_blocks_are_stacked(merges: dict[str, Merge]) -> None:
    assert merges["passthrough"].parts == pytest.approx({"A": 2 / 5, "C": 3 / 5})
    assert merges["stacked"].parts == pytest.approx({"A": 4 / 7, "B": 3 / 7})


def test_shares_over_depth_are_interpolated(merges: dict[str, Merge]) -> None:
    second = merges["slerp over depth"].second
    assert second is not None
    assert np.allclose(second["ffn"], [0.2, 0.35, 0.5, 0.65, 0.8])
    apart = merges["slerp, attention and MLP apart"].second
    assert apart is not None
    assert np.allclose(apart["attention"], [0, 0.5, 0.3, 0.7, 1])


def test_numbers_stay_numbers() -> None:
    assert fill({"range": [0, "$all"], "model": "$A"}, {"all": 5, "A": "a/b"}) == {
        "range": [0, 5],
        "model": "a/b",
    }
    with pytest.raises(KeyError):
        fill("$nothing", {})


def test_a_parent_that_was_not_named_counts_as_an_error(merges: dict[str, Merge]) -> None:
    merge = merges["linear of three"]  # A .5, B .2, C .3
    estimate = Estimate({"A": 0.6, "C": 0.4}, 0.01, None, "linear")
    assert estimate.farthest(merge.parts) == pytest.approx(0.2)
    assert Estimate(None, None, None, "why").farthest(merge.parts) is None
    table = list(rows({merge.name: (merge, estimate, None)}))
    assert "| A 0.600, C 0.400 | 0.200 | 0.010 | linear | - | - |" in table[2]


def test_a_merge_that_fails_is_one_line(
    merges: dict[str, Merge], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "mergekit" / "scripts"
    package.mkdir(parents=True)
    (package / "run_yaml.py").write_text("raise SystemExit('no such method')")
    with pytest.raises(SystemExit, match="linear: mergekit: no such method"):
        make_merge(merges["linear"], tmp_path / "work", tmp_path / "site")


def test_a_merge_is_made_once(merges: dict[str, Merge], tmp_path: Path) -> None:
    package = tmp_path / "site" / "mergekit" / "scripts"
    package.mkdir(parents=True)
    # Stands for mergekit: it notes its arguments where the merge would be.
    (package / "run_yaml.py").write_text(
        "import json, pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[2]); folder.mkdir()\n"
        "(folder / 'model.safetensors').write_text(json.dumps(sys.argv[1:]))\n"
    )
    work = tmp_path / "work"
    folder = make_merge(merges["slerp"], work, tmp_path / "site")
    config, out, *_ = json.loads((folder / "model.safetensors").read_text())
    assert out == str(folder)
    settings = yaml.safe_load(Path(config).read_text())
    assert settings["base_model"] == str(ZOO / "llama-a-finetune")
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert make_merge(merges["slerp"], work, tmp_path / "site") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
