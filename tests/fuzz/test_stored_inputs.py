"""Seeds and inputs that once failed: each is read or refused, and the reference reader agrees."""

import pytest

from scripts.fuzz.inputs import inputs_of
from scripts.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_stored_inputs_are_read_or_refused(name: str) -> None:
    paths = list(inputs_of(name))
    assert paths, f"python -m scripts.fuzz seeds; there are none for {name}"
    for path in paths:
        try:
            TARGETS[name](path.read_bytes())
        except Exception as error:
            pytest.fail(f"{path}: {type(error).__name__}: {error}")
