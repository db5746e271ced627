"""Ollama's store: manifests by name, and blobs named after their SHA-256 digest.

A manifest lies at manifests/HOST/NAMESPACE/MODEL/TAG and lists layers; the one of type
application/vnd.ollama.image.model is a GGUF file.
"""

import os
import re
from pathlib import Path
from typing import Any

from huref.bounded_json import loads
from huref.errors import CheckpointError, ModelNotFoundError, UnsupportedModelError

HOST, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
MODEL = "application/vnd.ollama.image.model"
ADAPTER = "application/vnd.ollama.image.adapter"
TENSOR = "application/vnd.ollama.image.tensor"
MAX_MANIFEST = 1024 * 1024  # bytes; a manifest has a few layers
MOST_MANIFESTS = 2000
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+){0,3}(?::[\w.-]+)?")


def store_of_user() -> Path:
    """The folder of the user's store: OLLAMA_MODELS, or Ollama's default."""
    if named := os.environ.get("OLLAMA_MODELS"):
        return Path(named).expanduser()
    own = Path("~/.ollama/models").expanduser()
    system = Path("/usr/share/ollama/.ollama/models")
    return own if own.is_dir() or not system.is_dir() else system


def is_store(folder: Path) -> bool:
    """Whether a folder is a store."""
    return (folder / "manifests").is_dir() and (folder / "blobs").is_dir()


def is_manifest(file: Path) -> bool:
    """Whether a file is a manifest."""
    if file.suffix in (".safetensors", ".gguf", ".png") or file.stat().st_size > MAX_MANIFEST:
        return False
    try:
        data = loads(file.read_bytes())
    except (ValueError, OSError, RecursionError):
        return False
    return isinstance(data, dict) and isinstance(data.get("layers"), list)


def find_manifest(store: Path, name: str, model: str) -> Path:
    """The manifest of a name as Ollama writes it: [HOST/][NAMESPACE/]MODEL[:TAG].

    Raises:
        ModelNotFoundError: the store has no such model, or there is no store.
    """
    name = name.removeprefix("//").rstrip("/")
    if not _NAME.fullmatch(name) or ".." in name:
        raise ModelNotFoundError(
            "it is not a name of a model in Ollama", model=model, advice="give ollama:MODEL[:TAG]"
        )
    path, _, tag = name.partition(":")
    parts = path.split("/")
    if len(parts) == 1:
        parts = [HOST, NAMESPACE, *parts]
    elif len(parts) == 2:
        parts = [HOST, *parts]
    manifest = (store / "manifests").joinpath(*parts, tag or TAG)
    if manifest.is_file():
        return manifest
    for found in _manifests(store):  # names differ in no more than upper and lower case
        if str(found).lower() == str(manifest).lower():
            return found
    names = [_name_of(store, found) for found in _manifests(store)]
    held = f"it holds {', '.join(names[:8])}" if names else "there are no models in it"
    raise ModelNotFoundError(
        f"Ollama's store {store} has no such model; {held}",
        model=model,
        advice=f"run 'ollama pull {name}', or set OLLAMA_MODELS to the store's folder",
    )


def only_manifest(store: Path, model: str) -> Path:
    """The manifest of a store with one model. Raises ModelNotFoundError for any other number."""
    found = _manifests(store)
    if len(found) == 1:
        return found[0]
    names = [_name_of(store, manifest) for manifest in found]
    raise ModelNotFoundError(
        f"it is an Ollama store with {len(found) or 'no'} models"
        + (f" ({', '.join(names[:8])})" if names else ""),
        model=model,
        advice=f"give one of its manifests, such as {found[0]}" if found else "pull a model first",
    )


def _manifests(store: Path) -> list[Path]:
    folder = store / "manifests"
    if not folder.is_dir():
        return []
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            found.append(path)
        if len(found) >= MOST_MANIFESTS:
            break
    return sorted(found)


def _name_of(store: Path, manifest: Path) -> str:
    *parts, tag = manifest.relative_to(store / "manifests").parts
    if parts[:1] == [HOST]:
        del parts[0]
    if parts[:1] == [NAMESPACE]:
        del parts[0]
    return f"{'/'.join(parts)}:{tag}"


def model_of_manifest(manifest: Path, model: str) -> Path:
    """The GGUF file of a manifest.

    Raises:
        CheckpointError: the manifest is damaged, or its file is missing.
        UnsupportedModelError: the model is not a single GGUF file.
    """
    layers = _layers(manifest, model)
    kinds = {str(layer.get("mediaType")) for layer in layers}
    if ADAPTER in kinds:
        raise UnsupportedModelError(
            "the Ollama model is a base with an adapter that is applied when it is loaded",
            model=model,
            advice="give the base, or the merged model",
        )
    digests = [layer.get("digest") for layer in layers if layer.get("mediaType") == MODEL]
    match = _DIGEST.fullmatch(str(digests[0])) if len(digests) == 1 else None
    if match is None:
        what = "of several files" if digests or TENSOR in kinds else "without a model's layer"
        raise UnsupportedModelError(
            f"it is an Ollama manifest {what}", model=model, advice="give the GGUF file"
        )
    for folder in manifest.resolve().parents:
        blob = folder / "blobs" / f"sha256-{match[1]}"
        if folder.name != "manifests" and blob.is_file():
            return blob
    raise CheckpointError(
        f"its manifest names the blob sha256-{match[1][:12]}..., which is missing",
        model=model,
        advice="run 'ollama pull' again",
    )


def _layers(manifest: Path, model: str) -> list[dict[str, Any]]:
    try:
        if manifest.stat().st_size > MAX_MANIFEST:
            raise ValueError("it is too large")
        data = loads(manifest.read_bytes())
        layers = data["layers"]
        return [layer for layer in layers if isinstance(layer, dict)]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError("it is not an Ollama manifest", model=model) from error
