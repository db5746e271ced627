"""A fuzz target for what a user may type or paste as a model's name, a name a line.

The names are looked up from a folder that holds a model, a model of several files, a store of
Ollama and a folder of the Hub's cache. Nothing outside it is opened, and the Hub is offline.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from unittest import mock

from huref.errors import HurefError
from scripts.fuzz.folders import write_folder

MOST_NAMES = 6
COMMIT = "0123456789abcdef0123456789abcdef01234567"
GGUF = b'general.architecture="llama"\noutput.weight 0 2,32\n'
MODEL = '{"model_type": "llama"}'
WEIGHTS = "model.norm.weight F32 8"


def make_place(folder: Path) -> None:
    """Write what the names may lead to."""
    blob = folder / "store" / "blobs" / "x.gguf"
    cached = f"models--org--tiny/snapshots/{COMMIT}"
    files = {
        "plain/config.json": MODEL, "plain/model.safetensors": WEIGHTS,
        "many/a-Q4_K_M.gguf": GGUF.decode(), "many/a-Q8_0.gguf": GGUF.decode(),
        "many/mmproj-a.gguf": GGUF.decode(), "store/blobs/x.gguf": GGUF.decode(),
        f"{cached}/config.json": MODEL, f"{cached}/model.safetensors": WEIGHTS,
        "models--org--tiny/blobs/none": "", "models--org--tiny/refs/main": COMMIT,
    }  # fmt: skip
    text = "".join(f"=== {name}\n{content}\n" for name, content in files.items())
    write_folder(text.encode(), folder)
    (folder / "models--org--tiny" / "refs" / "main").write_text(COMMIT)
    digest = hashlib.sha256(blob.read_bytes()).hexdigest()
    blob.rename(blob.with_name(f"sha256-{digest}"))
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    for name in ("registry.ollama.ai/library/tiny/latest", "hf.co/org/tiny/Q4_K_M"):
        manifest = folder / "store" / "manifests" / name
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))


def look_up(data: bytes, folder: Path) -> None:
    """Open the repository of each name.

    Raises:
        AssertionError: a file outside the folder would be read.
    """
    from huggingface_hub import constants

    from huref.loader.model_name import open_repository
    from huref.loader.repository import LocalFolder

    if not folder.is_dir():
        make_place(folder)
    names = [line.decode("utf-8", "surrogateescape") for line in data.split(b"\n")]
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, {"OLLAMA_MODELS": str(folder / "store"), "HOME": str(folder)}),
        mock.patch.object(constants, "HF_HUB_OFFLINE", True),
        mock.patch.object(constants, "HF_HUB_CACHE", str(folder)),
    ):
        for name in names[:MOST_NAMES]:
            if ".." in name or "/" in name.strip("\"'`<> \t").removeprefix("file://")[:1]:
                continue  # another folder of this machine, which a user may name
            try:
                repository = open_repository(name)
            except HurefError:
                continue
            if isinstance(repository, LocalFolder):
                place = repository.path.resolve()
                if not place.is_relative_to(folder.resolve()):
                    raise AssertionError(f"{name!r} leads to {place}")
