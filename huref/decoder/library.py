"""The decoders that a user has imported, in huref's home folder, beside the one that ships."""

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from huref.assets import imported_decoder, locate, read_metadata
from huref.decoder.dialects import convert
from huref.decoder.dialects.converted import Converted, State
from huref.decoder.files import open_source
from huref.decoder.render import (
    ARCHITECTURES,
    FORMAT,
    Decoder,
    load_decoder,
    parse_metadata,
    save_decoder,
)
from huref.decoder.stylegan2 import Generator
from huref.errors import CheckpointDigestError, CheckpointError
from huref.recipe import LATENT_SIZE

SHIPPED = "checkpoints/decoder.safetensors"
AFHQ = (0.5, 8)  # truncation as in HuRef's paper: psi, and how many layers it reaches
MEAN_OF = 10_000  # latents, where a file has no mean w
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"


@dataclass(frozen=True)
class Entry:
    """What there is to know of a decoder without loading it.

    Attributes:
        name: what --decoder calls it; the shipped one needs no name.
        digest: the first twelve digits, as recipes have it.
    """

    name: str
    architecture: str
    resolution: int
    psi: float
    cutoff: int | None
    licence: str
    digest: str
    path: str
    shipped: bool

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def import_decoder(
    path: Path,
    name: str | None = None,
    *,
    psi: float | None = None,
    cutoff: int | None = None,
    licence: str | None = None,
    replace: bool = False,
) -> tuple[Decoder, Entry]:
    """Convert a StyleGAN2 checkpoint and keep it under a name in huref's home folder.

    Args:
        path: NVIDIA's .pkl, rosinality's or lucidrains' .pt, or a .safetensors of any of them.
        name: what to call it; the file's name otherwise.
        psi: truncation; 0.5 for AFHQ as in HuRef's paper, else the shipped decoder's.
        cutoff: how many layers truncation reaches; 8 for AFHQ, else the shipped decoder's.
        licence: under which terms the network may be used, where the user knows it.
        replace: whether another decoder of that name may be overwritten.

    Raises:
        CheckpointError: the file cannot be read or converted.
        CheckpointDigestError: its tensors do not make up a generator, or the name is taken.
    """
    name = name if name is not None else _name_from(path)
    if not re.fullmatch(NAME, name):
        raise CheckpointError(
            f"'{name}' is no name for a decoder; take up to 64 lower-case letters, digits, '.', "
            "'_' and '-'"
        )
    target = imported_decoder(name)
    if path.suffix == ".safetensors" and _is_ours(path):
        decoder = load_decoder(path)
        state, metadata = decoder.generator.state_dict(), dict(decoder.metadata)
        metadata.pop("digest")
        stored = _stored_dtype(path)
    else:
        converted = convert(open_source(path))
        state, stored = converted.state, torch.float32
        metadata = _metadata_of(converted, path, name)
        try:
            _complete(converted, metadata)
        except CheckpointDigestError as error:
            raise CheckpointError(f"{path.name}: {error}") from error
    metadata["name"] = name
    chosen = {"psi": psi, "cutoff": cutoff, "licence": licence}
    metadata |= {key: value for key, value in chosen.items() if value is not None}
    _require_usable(state, metadata, path)
    if target.is_file() and not replace:
        raise CheckpointDigestError(
            f"there is a decoder '{name}' already ({target}); give another --name, or --replace"
        )
    decoder = save_decoder(target, state, metadata, stored)
    return decoder, describe(target)


def list_decoders() -> list[Entry]:
    """The decoder that ships, then the imported ones by name."""
    shipped = locate(SHIPPED)
    imported = sorted(imported_decoder("x").parent.glob("*.safetensors"))
    return [describe(shipped, shipped=True), *map(describe, imported)]


def describe(path: Path, shipped: bool = False) -> Entry:
    """What a decoder file says of itself; its tensors are not read.

    Raises:
        CheckpointDigestError: it is not a decoder of huref.
    """
    strings = read_metadata(path)
    metadata = parse_metadata(strings, path)
    try:
        return Entry(
            name="default" if shipped else path.stem,
            architecture=str(metadata.get("architecture", "stylegan2")),
            resolution=_resolution_of(path),
            psi=float(metadata["psi"]),
            cutoff=metadata.get("cutoff"),
            licence=str(metadata.get("licence")),
            digest=strings["digest"][:12],
            path=str(path),
            shipped=shipped,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointDigestError(f"{path}: its metadata is incomplete ({error})") from error


def _name_from(path: Path) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")[:64] or "decoder"


def _is_ours(path: Path) -> bool:
    return path.is_file() and read_metadata(path).get("format") == FORMAT


def _stored_dtype(path: Path) -> torch.dtype:
    return open_source(path).entries["mapping.fc0.weight"].dtype


def _resolution_of(path: Path) -> int:
    blocks = (re.match(r"synthesis\.b(\d+)\.", name) for name in open_source(path).entries)
    return max((int(block[1]) for block in blocks if block), default=0)


def _metadata_of(converted: Converted, path: Path, name: str) -> dict[str, Any]:
    if "afhq" in f"{name} {path.stem}".lower():
        psi, cutoff = AFHQ
    else:
        shipped = parse_metadata(read_metadata(locate(SHIPPED)), locate(SHIPPED))
        psi, cutoff = shipped["psi"], shipped["cutoff"]
    return {
        "architecture": converted.architecture,
        "licence": converted.licence or "not stated in the file; see where it came from",
        "psi": psi,
        "cutoff": cutoff,
        "made_from": path.name,
        "notes": converted.notes,
        **converted.settings,
    }


def _generator(state: State, metadata: dict[str, Any]) -> Generator:
    kind = ARCHITECTURES[metadata.get("architecture", "stylegan2")]
    return kind.from_state(state, lr_mul=metadata["lr_mul"], clamp=metadata["clamp"])


@torch.inference_mode()
def _complete(converted: Converted, metadata: dict[str, Any]) -> None:
    """Add the mean w where the file has none, from latents of a fixed seed."""
    state = converted.state
    if "mapping.w_avg" in state:
        return
    bias = state.get("mapping.fc0.bias", torch.empty(0))
    state["mapping.w_avg"] = torch.zeros(bias.numel())
    mapping = _generator(state, metadata).mapping
    inputs = state["mapping.fc0.weight"].shape[1]
    z = torch.randn(MEAN_OF, inputs, generator=torch.Generator().manual_seed(0))
    state["mapping.w_avg"] = mapping(z).mean(0)
    metadata["notes"].append(f"mean w of {MEAN_OF} latents of seed 0: the file has none")


def _require_usable(state: State, metadata: dict[str, Any], path: Path) -> None:
    try:
        generator = _generator(state, metadata)
    except CheckpointDigestError as error:
        raise CheckpointError(f"{path.name}: {error}") from error
    if generator.z_dim != LATENT_SIZE:
        raise CheckpointError(
            f"{path.name}: its latents have {generator.z_dim} dimensions, "
            f"fingerprints {LATENT_SIZE}"
        )
    psi, cutoff = metadata["psi"], metadata["cutoff"]
    if not 0 < psi <= 1 or not (cutoff is None or cutoff > 0) or not math.isfinite(psi):
        raise CheckpointError(f"psi {psi} has to be in (0, 1], and cutoff {cutoff} at least 1")
    if not all(bool(value.isfinite().all()) for value in state.values()):
        raise CheckpointError(f"{path.name}: NaN or infinite weights; no picture can be made")
