"""Opens any model that a user names as a record: weights, a saved record or a fingerprint PNG."""

import base64
import binascii
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import Literal

import numpy as np
from tqdm.auto import tqdm

from huref.api.cache import cache_path, keep, recall
from huref.bounded_json import loads
from huref.decoder.picture import read_png_text
from huref.encoder.checkpoint import Encoder, load_encoder
from huref.errors import NetworkError, RecordError
from huref.escape import terminal
from huref.files import as_path
from huref.invariants.extract import Depth, Extract, extract_terms
from huref.invariants.published import PUBLISHED
from huref.invariants.record import Record, load_record
from huref.loader.checkpoint import WEIGHTS, Checkpoint, open_checkpoint
from huref.loader.model_name import require_name
from huref.recipe import LATENT_SIZE, Recipe, load_recipe, parse_recipe
from huref.threads import fixed_threads

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
ALL_BLOCKS = 100_000  # larger than the number of blocks of any model
RECORD_HEAD = 1024 * 1024  # bytes; longer than the metadata of a record


@dataclass
class Costs:
    """Bytes that were read, and seconds by stage."""

    bytes_read: int = 0
    bytes_total: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


@lru_cache(maxsize=2)
def cached_encoder(path: Path) -> Encoder:
    """The encoder of a checkpoint, loaded once."""
    return load_encoder(path)


def open_record(
    model: str,
    recipe: str = "default",
    decoder: str | None = None,
    base: str = "",
    depth: Depth = "recipe",
    cache: bool = False,
) -> Record:
    """The record of a model; weights are read unless it is a saved record or a picture.

    Args:
        model: a folder, file, Hub id, adapter, record or fingerprint PNG.
        recipe: name or file of a recipe.
        decoder: name or file of a decoder instead of the recipe's.
        base: for a LoRA adapter, the model to apply it to instead of the one that it names.
        depth: "full" reads the hidden units of every block.
        cache: whether the record is taken from huref's cache, and stored there if it is not in it.

    Raises:
        HurefError: the model cannot be read; the subclass and the message say why.
    """
    return measure(model, recipe, decoder, base, depth, cache)[0]


def measure(
    model: str,
    recipe: str = "default",
    decoder: str | None = None,
    base: str = "",
    depth: Depth = "recipe",
    cache: bool = False,
) -> tuple[Record, Costs]:
    """Like `open_record`, and what it cost.

    If a file on the Hub changes while it is read, the model is read once more from the start.
    """
    try:
        return _measure(model, recipe, decoder, base, depth, cache)
    except NetworkError as error:
        if type(error).__name__ != "ChangedFileError":  # not imported: it needs the Hub's client
            raise
        return _measure(model, recipe, decoder, base, depth, cache)


def _measure(
    model: str, recipe: str, decoder: str | None, base: str, depth: Depth, cache: bool
) -> tuple[Record, Costs]:
    require_name(model)
    path = as_path(model)
    if path.is_file() and (kind := kind_of_file(path)) != "weights":
        size = path.stat().st_size
        return (read_picture(path) if kind == "picture" else load_record(path)), Costs(size, size)
    loaded, encoder_path, _ = load_recipe(recipe, decoder)
    checkpoint = open_checkpoint(model, base)
    kept = cache_path(checkpoint, loaded, depth) if cache else None
    if kept is not None and (record := recall(kept, model, loaded.decoder)):
        return record, Costs(checkpoint.bytes_read, checkpoint.bytes_total)
    with fixed_threads():
        record, costs = _measure_weights(checkpoint, loaded, encoder_path, depth)
    if kept is not None:
        keep(kept, record)
    return record, costs


def kind_of_file(path: Path) -> Literal["picture", "record", "weights"]:
    """The kind of a file, by its first bytes; a file of unknown form is treated as a record.

    Raises:
        RecordError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(RECORD_HEAD)
    except OSError as error:
        raise RecordError(f"it cannot be read ({error.strerror})", file=path) from error
    if head[: len(PNG_MAGIC)] == PNG_MAGIC:
        return "picture"
    # A safetensors header begins with the metadata, and that of a record has a recipe.
    is_record = path.suffix == ".safetensors" and b'"recipe"' in head
    return "weights" if path.suffix in WEIGHTS and not is_record else "record"


def _measure_weights(
    checkpoint: Checkpoint, recipe: Recipe, encoder_path: Path, depth: Depth
) -> tuple[Record, Costs]:
    began = time.perf_counter()
    read_before = checkpoint.seconds_reading
    meter = checkpoint.repository.meter
    with tqdm(
        desc=terminal(checkpoint.model),
        unit="B",
        unit_scale=True,
        leave=False,
        delay=2,
        disable=None,
    ) as bar:
        meter.bar = bar
        blocks = ALL_BLOCKS if depth == "full" else len(recipe.layers)
        bar.total = checkpoint.estimate_bytes(blocks)
        extract = extract_terms(checkpoint, recipe, depth)
        meter.bar = None
    extracted = time.perf_counter()
    record = make_record(checkpoint, extract, encoder_path)
    seconds = {
        "read": checkpoint.seconds_reading,
        "terms": extracted - began - (checkpoint.seconds_reading - read_before),
        "encode": time.perf_counter() - extracted,
    }
    return record, Costs(checkpoint.bytes_read, checkpoint.bytes_total, seconds)


def make_record(checkpoint: Checkpoint, extract: Extract, encoder_path: Path) -> Record:
    """A record of the extracted terms and units, with the latent."""
    latent = None  # the encoder is not trained on the published terms
    if extract.recipe.terms != PUBLISHED:
        latent = cached_encoder(encoder_path).encode(extract.terms).numpy()
    return Record(
        model=checkpoint.model,
        revision=checkpoint.revision,
        recipe=extract.recipe,
        layers=extract.layers,
        anchors=extract.anchors,
        terms=extract.terms,
        latent=latent,
        units=extract.units,
        barcodes=extract.barcodes,
        traits=extract.traits,
        relations=extract.relations,
    )


def picture_text(record: Record) -> dict[str, str]:
    """The text chunks of a fingerprint PNG.

    For a local folder or file only its own name is stored, not its path.

    Raises:
        RecordError: the record has no latent.
    """
    if record.latent is None:
        raise RecordError("the record has no latent", model=record.model)
    latent = np.ascontiguousarray(record.latent, dtype="<f4").tobytes()
    return {
        "huref:model": public_name(record),
        "huref:revision": record.revision or "",
        "huref:recipe": record.recipe.picture_digest,
        "huref:recipe.json": record.recipe.to_json(),
        "huref:latent": base64.b64encode(latent).decode("ascii"),
    }


def public_name(record: Record) -> str:
    """A Hub id unchanged; for a path of this or another machine, the last part of it."""
    place = Path(record.model)
    if place.exists() and not record.revision:
        return place.resolve().name
    windows = PureWindowsPath(record.model)
    is_path = place.is_absolute() or bool(windows.drive) or record.model[:1] in ("~", ".")
    return windows.name if is_path else record.model


def read_picture(path: Path) -> Record:
    """The public part of a record, from a fingerprint PNG.

    Raises:
        RecordError: the PNG is not a fingerprint, or its text is damaged.
    """
    text = read_png_text(path)
    try:
        recipe = parse_recipe(loads(text["huref:recipe.json"]), str(path))
        raw = base64.b64decode(text["huref:latent"], validate=True)
        latent = np.frombuffer(raw, dtype="<f4").astype(np.float32)
        model, revision, digest = (text[f"huref:{k}"] for k in ("model", "revision", "recipe"))
    except (KeyError, ValueError, binascii.Error) as error:
        raise RecordError(
            "not a fingerprint picture (its huref text is missing or damaged)", file=path
        ) from error
    fits = latent.shape == (LATENT_SIZE,) and digest == recipe.picture_digest
    if not fits or not np.isfinite(latent).all():
        raise RecordError(
            "the picture's latent or recipe is damaged", file=path, advice="make it again"
        )
    return Record(model, revision or None, recipe, None, None, None, latent)
