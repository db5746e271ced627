"""`huref.compare` names the model that cannot be read."""

from collections.abc import Callable
from pathlib import Path

import pytest

import huref
from huref.errors import CheckpointError, ModelNotFoundError


def test_an_error_in_a_file_names_its_model(
    make_llama: Callable[..., Path], tmp_path: Path
) -> None:
    whole, broken = make_llama("whole"), make_llama("broken")
    (broken / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"broken: model\.safetensors: it has 5 bytes"):
        huref.compare([whole, broken])


def test_a_model_that_is_named_already_is_not_named_twice(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(ModelNotFoundError) as caught:
        huref.compare([missing, missing])
    assert str(caught.value).count(str(missing)) == 1
