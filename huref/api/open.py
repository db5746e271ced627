"""Opens any model that a user names as a record: weights, a saved record or a fingerprint PNG."""

import base64
import binascii
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from huref.api.cache import cache_path, keep, recall
from huref.api.picture import check_pixels
from huref.api.public import public_name
from huref.bounded_json import loads
from huref.decoder.picture import read_png
from huref.encoder.checkpoint import Encoder, load_encoder
from huref.errors import NetworkError, RecordError, locating
from huref.escape import terminal
from huref.evidence.seal import check_seal
from huref.files import as_path
from huref.invariants.extract import Depth, Extract, extract_terms
from huref.invariants.published import PUBLISHED
from huref.invariants.record import Record, load_record
from huref.lineage.signs import all_blocks_read
from huref.loader.checkpoint import WEIGHT_MAGICS, WEIGHTS, Checkpoint, open_checkpoint
from huref.loader.look_around import has_explanation
from huref.loader.model_name import require_name
from huref.loader.ollama import is_manifest
from huref.loader.typed_names import is_companion
from huref.progress import Bar
from huref.recipe import LATENT_SIZE, Recipe, load_recipe, parse_recipe

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
ALL_BLOCKS = 100_000  # larger than the number of blocks of any model
KIND, ENDPOINT = "huref:kind", "endpoint"  # of pictures that show no weights
RECORD_HEAD = 1024 * 1024  # bytes; longer than the metadata of a record


@dataclass
class Costs:
    """Bytes that were read, and seconds by stage.

    `renamed_to` is the model's name on the Hub where it is no longer the one that was given.
    """

    bytes_read: int = 0
    bytes_total: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    renamed_to: str | None = None


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
        is_picture = kind == "picture"
        opened = read_picture(path, recipe, decoder) if is_picture else load_record(path)
        return opened, Costs(size, size)
    loaded, encoder_path, _ = load_recipe(recipe, decoder)
    checkpoint = open_checkpoint(model, base)
    kept = cache_path(checkpoint, loaded, depth) if cache else None
    if kept is not None and (record := recall(kept, model, loaded.decoder)):
        costs = Costs(checkpoint.bytes_read, checkpoint.bytes_total)
        costs.renamed_to = _new_name(checkpoint)
        return record, costs
    record, costs = _measure_weights(checkpoint, loaded, encoder_path, depth)
    if kept is not None and cache_path(checkpoint, loaded, depth) == kept:  # else a file changed
        keep(kept, record)
    costs.renamed_to = _new_name(checkpoint)
    return record, costs


def read_on(
    record: Record,
    recipe: str = "default",
    cache: bool = False,
    *,
    model: str = "",
    anyway: bool = False,
) -> Record:
    """The record with all blocks read, where it shows a sign of disguise and lies on this machine.

    Args:
        record: of the model, at the default depth.
        recipe: name or file of a recipe.
        cache: as for `open_record`.
        model: as `open_record` takes it, if not the record's own name.
        anyway: read on without a sign as well.
    """
    model = model or record.model
    path = Path(model).expanduser()
    disguised = record.function is not None and bool(record.function.signs)
    if not (disguised or anyway) or not path.exists() or reads_every_block(record):
        return record
    if path.is_file() and kind_of_file(path) != "weights":
        return record
    return open_record(model, recipe, depth="full", cache=cache)


def reads_every_block(record: Record) -> bool:
    """Whether every block was read at full depth, with what it adds to the logits."""
    whole = all_blocks_read(record) and record.units is not None
    return whole and record.function is not None and len(record.function.effects) > 0


def _new_name(checkpoint: Checkpoint) -> str | None:
    """The repository's present name on the Hub if it was renamed; names differ not by case."""
    given = checkpoint.repository.model
    current = str(getattr(checkpoint.repository, "canonical", given))
    return None if current.lower() == given.lower() else current


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
    if b'"recipe"' in head and path.suffix == ".safetensors":
        return "record"
    is_weights = (
        path.suffix.lower() in WEIGHTS
        or head.startswith(WEIGHT_MAGICS)
        or is_companion(path.name)  # of the model beside it
        or has_explanation(path.name)
        or is_manifest(path)
        or (not path.suffix and head[8:9] == b"{")  # a blob of the Hub's cache
    )
    return "weights" if is_weights else "record"


def _measure_weights(
    checkpoint: Checkpoint, recipe: Recipe, encoder_path: Path, depth: Depth
) -> tuple[Record, Costs]:
    began = time.perf_counter()
    read_before = checkpoint.seconds_reading
    meter = checkpoint.repository.meter
    with Bar(terminal(checkpoint.model), unit="B", leave=False) as bar:
        meter.bar = bar
        blocks = ALL_BLOCKS if depth in ("full", "components") else len(recipe.layers)
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
        files=checkpoint.describe_files(),
        function=extract.function,
        samples=extract.samples,
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


def read_picture(path: Path, recipe_name: str = "default", decoder: str | None = None) -> Record:
    """The public part of a record, from a fingerprint PNG.

    The digest is held against texts and pixels, the signature against the digest, and the pixels
    against what the recipe draws from the latent, where its decoder is installed. Arguments but
    the first say where else to look for the decoder, as in `open_record`.

    Raises:
        RecordError: the PNG is not a fingerprint, its text is damaged, or it was edited.
    """
    text, pixels = read_png(path)
    if text.get(KIND) == ENDPOINT:
        raise RecordError(
            "it is the picture of an endpoint, which is not compared with weights",
            file=path,
            advice="compare its signature with 'huref probe match'",
        )
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
    with locating(file=path):
        seal = check_seal(text, pixels)
        checked = check_pixels(pixels, latent, recipe, recipe_name, decoder)
    seal = replace(seal, file=str(path), pixels_checked=checked)
    return Record(model, revision or None, recipe, None, None, None, latent, seal=seal)
