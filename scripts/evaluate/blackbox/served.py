"""Models of known weights behind an endpoint, for measuring `huref probe`."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from huref.blackbox.client import Client, Limits
from huref.blackbox.collect import Settings
from huref.blackbox.endpoint import Endpoint
from huref.blackbox.local_model import LocalModel
from huref.blackbox.prompts import make_prompts
from tests.support.endpoint_server import Stub, Switches

WAYS: dict[str, dict[str, Any]] = {
    "full": {"top": None, "ids": "token_id"},
    "chosen": {"chosen": True, "ids": "token_id", "bias": "invisible"},
    "top 5": {"top": 5},
}


class Served:
    """A model whose outputs are computed in batches and cached."""

    def __init__(self, folder: Path):
        folder = folder.resolve()
        with working_directory(folder):  # an adapter's base is relative to its folder
            self.source = LocalModel(str(folder))
        self._rows: dict[str, np.ndarray] = {}
        for which in ("a", "b"):
            self.prepare(make_prompts(260, which))

    def prepare(self, prompts: list[str]) -> None:
        """Compute the logits of prompts in one batch."""
        ids = np.arange(self.source.vocabulary)
        self._rows |= dict(zip(prompts, self.source.outputs(prompts, ids), strict=True))

    def logits(self, prompt: str) -> np.ndarray:
        """Logits (v,) of one prompt."""
        if prompt not in self._rows:
            self.prepare([prompt])
        return self._rows[prompt]

    def endpoint(self, settings: Settings | None = None, **switches: Any) -> Endpoint:
        """The model behind a stub endpoint with the given switches."""
        stub = Stub(self.logits, Switches(**switches))
        client = Client(
            "http://127.0.0.1:1/v1", limits=Limits(10_000_000), transport=stub.transport()
        )
        return Endpoint(client, None, settings)


class working_directory:  # noqa: N801, named like those of contextlib
    """A context manager that changes the working directory."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __enter__(self) -> None:
        self._before = Path.cwd()
        os.chdir(self._folder)

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)
