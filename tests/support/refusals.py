"""Assertions that a hostile file is refused, quickly and in one line."""

import time
from pathlib import Path

import pytest

from huref.decoder.network_files import open_network
from huref.errors import CheckpointError


def refuses_to_open(path: Path, match: str | None = None) -> None:
    """Assert that opening a generator's file raises a CheckpointError that names the file."""
    began = time.process_time()
    with pytest.raises(CheckpointError, match=match) as caught:
        open_network(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.process_time() - began < 10
