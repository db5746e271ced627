"""Recipes: everything that determines a fingerprint, and their digests.

Terms, latent and sketch do not depend on the decoder. Records and registries are therefore compared
by a digest without the decoder, and stay valid when a new decoder draws other pictures.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from huref.assets import imported_decoder, locate, read_metadata
from huref.bounded_json import loads
from huref.bounded_yaml import YamlError
from huref.bounded_yaml import loads as loads_yaml
from huref.errors import CheckpointDigestError, RecipeError

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LASTING = re.compile(r"[a-z]+-[0-9]+")  # names of recipes that stay available, as "function-1"
LARGEST_M = 8192
LARGEST_FILE = 1 << 20  # bytes; a recipe has a few hundred
MOST_LAYERS = 256
DIGEST_LENGTH = 12  # hex digits
LATENT_SIZE = 512  # numbers of a latent, whichever encoder and decoder a recipe names


@dataclass(frozen=True)
class Recipe:
    """How a fingerprint is made.

    Attributes:
        name: as users call it; "+variant" is appended where a model's shape forced a variant.
        anchors: rule for eligible tokens, see `huref.invariants.anchors`.
        m: number of anchor buckets.
        layers: positions among the blocks that are not no-ops.
        terms: version of the terms' formulas.
        damping: see `huref.invariants.terms.whiten`.
        encoder: digest of the encoder checkpoint.
        decoder: digest of the decoder checkpoint, which includes psi and noise.
    """

    name: str
    anchors: str
    m: int
    layers: tuple[int, ...]
    terms: str
    damping: float
    encoder: str
    decoder: str

    @property
    def digest(self) -> str:
        """Short digest of all fields but the decoder.

        Records of equal digest can be compared.
        """
        return _short_digest({k: v for k, v in asdict(self).items() if k != "decoder"})

    @property
    def picture_digest(self) -> str:
        """Short digest of all fields: equal latents of equal digest give equal pictures."""
        return _short_digest(asdict(self))

    def to_json(self) -> str:
        """JSON of all fields."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def family(self) -> str:
        """The name without "+variant"."""
        return self.name.partition("+")[0]

    def differences(self, other: "Recipe") -> list[str]:
        """Names of the fields, but for the decoder, in which two recipes differ."""
        mine, theirs = asdict(self), asdict(other)
        return [key for key in mine if mine[key] != theirs[key] and key != "decoder"]


def _short_digest(values: dict[str, Any]) -> str:
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:DIGEST_LENGTH]


def parse_recipe(data: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from a mapping of all its fields. `where` is for messages.

    Raises:
        RecipeError: a field is missing, unknown or of the wrong type.
    """
    expected = {field.name for field in fields(Recipe)}
    if not isinstance(data, Mapping) or set(data) != expected:
        keys = sorted(set(data) ^ expected) if isinstance(data, Mapping) else data
        raise RecipeError(f"recipe fields missing or unknown: {keys}", file=where)
    try:
        _require_usual(data)
        return Recipe(
            name=str(data["name"]),
            anchors=str(data["anchors"]),
            m=int(data["m"]),
            layers=tuple(int(layer) for layer in data["layers"]),
            terms=str(data["terms"]),
            damping=float(data["damping"]),
            encoder=str(data["encoder"]),
            decoder=str(data["decoder"]),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise RecipeError(f"a recipe field has the wrong type ({error})", file=where) from error


def _require_usual(data: Mapping[str, Any]) -> None:
    """Raise ValueError for numbers with which memory or time would have no bound."""
    if not 0 < int(data["m"]) <= LARGEST_M:
        raise ValueError(f"m is not within 1 to {LARGEST_M}")
    if not 0 < len(data["layers"]) <= MOST_LAYERS:
        raise ValueError(f"layers are not 1 to {MOST_LAYERS} numbers")
    if not math.isfinite(float(data["damping"])):
        raise ValueError("damping is not finite")
    if any(len(str(data[field])) > 4096 for field in ("name", "anchors", "terms", "encoder")):
        raise ValueError("a text is longer than any")


def load_recipe(name: str = "default", decoder: str | None = None) -> tuple[Recipe, Path, Path]:
    """A recipe by name or YAML file, with the paths of its encoder and decoder checkpoints.

    "default" is the newest recipe; its own name, as "function-1", finds it as well and goes on
    finding it when "default" is a newer one.
    The file names the checkpoints, which are beside it or ship with huref; the recipe has their
    digests in place of the names. `decoder` names an imported decoder or a file.

    Raises:
        RecipeError: there is no such recipe, or the file is not a recipe.
    """
    shipped = locate("configs/recipes/default.yaml")
    known = {path.stem: path for path in sorted(shipped.parent.glob("*.yaml"))}
    path = known.get(name, Path(name))
    if not path.is_file() and _LASTING.fullmatch(name) and _is_called(shipped, name):
        path = shipped
    if not path.is_file():
        raise RecipeError(
            f"there is no recipe '{name}'", advice=f"give one of {', '.join(known)}, or a file"
        )
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise RecipeError("too large for a recipe", file=path)
        data = _parse_text(path.read_text("utf-8"))
        data = dict(data) if isinstance(data, dict) else data  # the cached one is not changed
    except (YamlError, UnicodeDecodeError) as error:
        raise RecipeError(f"not a YAML file ({error})", file=path) from error
    expected = _expected(data, path)
    recipe = parse_recipe(data, str(path))
    if decoder is not None and Path(decoder).is_file():
        drawn_by = Path(decoder)
    else:
        drawn_by = _find_decoder(decoder or recipe.decoder, path)
    paths = [_find(recipe.encoder, path), drawn_by]
    stated = [_digest_of(asset) for asset in paths]
    digests = [digest[:DIGEST_LENGTH] for digest in stated]
    _require_expected("encoder", stated[0], expected, paths[0])
    if decoder is None and recipe.decoder.startswith("checkpoints/"):
        _require_expected("decoder", stated[1], expected, paths[1])
    resolved = parse_recipe({**data, "encoder": digests[0], "decoder": digests[1]}, str(path))
    return resolved, paths[0], paths[1]


@lru_cache(maxsize=8)  # a queue of models asks for one recipe again and again
def _parse_text(text: str) -> Any:
    return loads_yaml(text)


def _is_called(path: Path, name: str) -> bool:
    """Whether a recipe that ships has this name of its own, beside its file's."""
    return f"\nname: {name}\n" in path.read_text("utf-8")


def _expected(data: Any, path: Path) -> dict[str, str]:
    """The digests of networks that a recipe file expects, which are taken out of `data`."""
    expected = data.pop("expected", None) if isinstance(data, dict) else None
    if expected is None:
        return {}
    if not isinstance(expected, dict) or not all(
        key in ("encoder", "decoder") and isinstance(text, str) and _SHA256.fullmatch(text)
        for key, text in expected.items()
    ):
        raise RecipeError("its 'expected' is not a mapping of networks to sha256", file=path)
    return expected


def _require_expected(network: str, digest: str, expected: dict[str, str], path: Path) -> None:
    """Raise CheckpointDigestError for another network than the one that a recipe expects."""
    if network in expected and expected[network] != digest:
        raise CheckpointDigestError(
            f"its digest is {digest[:DIGEST_LENGTH]}, but the recipe expects the {network} "
            f"{expected[network][:DIGEST_LENGTH]}",
            file=path,
            advice="restore the file from the release, or use a recipe of your own without "
            "'expected'",
        )


def _find(asset: str, recipe_file: Path) -> Path:
    # The current folder is not searched: it may have a checkpoints folder of another project.
    beside = recipe_file.parent / asset
    return beside if beside.is_file() else locate(asset)


def _find_decoder(name: str, recipe_file: Path) -> Path:
    """The file of a decoder, by the name of an imported one or by path."""
    imported = imported_decoder(name)
    if "/" not in name and imported.is_file():
        return imported
    try:
        return _find(name, recipe_file)
    except CheckpointDigestError as error:
        if name.startswith("checkpoints/"):  # it ships with huref: the installation is broken
            raise
        known = sorted(path.stem for path in imported.parent.glob("*.safetensors"))
        raise RecipeError(
            f"there is no decoder '{name}'; imported: {', '.join(known) or 'none'}",
            advice="give a file, or see 'huref decoder import --help'",
        ) from error


def imported_with(digest: str) -> Path | None:
    """The file of the imported decoder with this digest, or None."""
    for path in sorted(imported_decoder("x").parent.glob("*.safetensors")):
        if read_metadata(path).get("digest", "")[:DIGEST_LENGTH] == digest:
            return path
    return None


def _digest_of(path: Path) -> str:
    state = path.stat()
    times = (state.st_mtime_ns, state.st_ctime_ns)
    return _stated_digest(path, *times, state.st_size, state.st_ino)


@lru_cache(maxsize=32)
def _stated_digest(path: Path, *_: int) -> str:
    """The digest that a checkpoint states of itself; the other arguments tell a changed file."""
    metadata = read_metadata(path)
    try:
        # An encoder has its metadata in one JSON string, a decoder in several strings.
        stated = loads(metadata["encoder"], constants=True) if "encoder" in metadata else metadata
        return str(stated["digest"])
    except (KeyError, ValueError, TypeError) as error:
        raise RecipeError(
            "the checkpoint has no digest; it was not made by huref", file=path
        ) from error
