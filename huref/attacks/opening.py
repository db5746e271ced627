"""Reads the model to attack from a folder, a file beside its config, or a whole Hub repository."""

from pathlib import Path
from typing import Any

from huref.architecture.reader import ModelReader
from huref.attacks.blocks import bias_of, take_block
from huref.attacks.editable import ENDS, Editable
from huref.errors import AttackError
from huref.files import as_path
from huref.loader.checkpoint import WEIGHTS, Checkpoint, open_checkpoint
from huref.loader.model_name import open_repository
from huref.loader.repository import (
    LocalFolder,
    Repository,
    read_json,
    read_text,
)

COPIED = (".json", ".model", ".txt", ".jinja")
# Settings of how the original's tensors are stored; the copy's are stored plainly.
STORAGE_SETTINGS = ("quantization_config",)


def locate(model: str) -> Path:
    """The folder or file of a model; a Hub repository is downloaded whole into the user's cache.

    Raises:
        HurefError: there is no such model, or it cannot be downloaded.
    """
    path = as_path(model)
    repository = open_repository(model)  # raises for a name without a model
    if path.exists():
        return path
    revision = model.partition("@")[2] or None
    return _download(repository, revision) / (repository.chosen or "")


def _download(repository: Repository, revision: str | None) -> Path:
    """The folder of a Hub repository in the user's cache; missing files are downloaded.

    The revision is the one that the user named, so that the same name finds the folder offline.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    from huref.loader.hub.errors import explain
    from huref.loader.hub.rate import limited_session

    if isinstance(repository, LocalFolder):  # offline, from the cache
        return repository.path
    weights = [n for n in repository.files if n.endswith(WEIGHTS)]
    safe = [name for name in weights if name.endswith(".safetensors")]
    wanted = [repository.chosen] if repository.chosen else safe or weights
    small = [name for name in repository.files if name.endswith(COPIED)]
    limited_session()  # the download waits for the Hub's windows, and no redirect leads inside
    try:
        folder = snapshot_download(
            repository.model, revision=revision, allow_patterns=[*small, *wanted]
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        raise explain(error, repository.model) from error
    return Path(folder)


def _small_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    repository = checkpoint.repository
    return {
        name: read_text(repository, name)
        for name in repository.files
        if "/" not in name and name.endswith(COPIED) and not name.endswith(".index.json")
    }


def open_editable(model: str) -> Editable:
    """Read a whole model.

    Raises:
        AttackError: its layout has no entry in `ENDS`, it is not a plain language model with a
            tokenizer.json, or it holds a tensor that no attack supports.
    """
    checkpoint = open_checkpoint(str(locate(model)))
    files = _small_files(checkpoint)
    if "config.json" not in files or "tokenizer.json" not in files:
        raise AttackError(
            "an attack needs a config.json and a tokenizer.json beside the weights",
            model=model,
            advice="merge an adapter into its base, or convert the model, first",
        )
    reader = ModelReader(checkpoint)
    layout, prefix = reader.layout, reader.prefix
    config = read_json(checkpoint.repository, "config.json")
    if config.get("model_type") != reader.config.get("model_type"):
        raise AttackError("it holds more than a language model", model=model)
    if layout.name not in ENDS:
        raise AttackError(
            f"attacks support the layouts {', '.join(ENDS)}; this model has '{layout.name}'",
            model=model,
        )
    ends = ENDS[layout.name]
    raw = checkpoint.read(checkpoint.names)
    dtype = raw[prefix + layout.embedding.weight[0]].dtype
    tensors = {name: tensor.double() for name, tensor in raw.items()}
    embedding = tensors.pop(prefix + layout.embedding.weight[0])
    norm = prefix + ends.norm
    head = tensors.pop(ends.head, None)
    blocks = [take_block(reader, i, tensors) for i in range(reader.block_count)]
    attention = reader.resolve(0).attention
    assert attention is not None
    tokenizer: dict[str, Any] = read_json(checkpoint.repository, "tokenizer.json")
    editable = Editable(
        model=model,
        config={key: value for key, value in config.items() if key not in STORAGE_SETTINGS},
        layout=layout,
        prefix=prefix,
        ends=ends,
        dtype=dtype,
        heads=attention.heads,
        blocks=blocks,
        embedding=embedding,
        positions=tensors.pop(prefix + ends.positions, None) if ends.positions else None,
        gain=tensors.pop(norm) + layout.norms.offset,
        norm_bias=tensors.pop(bias_of(norm), None),
        head=embedding.clone() if head is None else head,
        tied=head is None,
        tokenizer=tokenizer,
        files=files,
        others=tensors,
    )
    if unknown := [name for name in tensors if not name.endswith("inv_freq")]:
        raise AttackError("no attack supports it", model=model, tensor=unknown[0])
    return editable
