"""Import of StyleGAN2 checkpoints into huref's home folder, and the list of decoders."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from huref.assets import imported_decoder, locate, read_metadata
from huref.decoder.dialects import convert
from huref.decoder.dialects.converted import Converted, State
from huref.decoder.network_files import open_network
from huref.decoder.render import (
    ARCHITECTURES,
    FORMAT,
    Decoder,
    load_decoder,
    parse_metadata,
    save_decoder,
)
from huref.decoder.stylegan2 import Generator
from huref.errors import CheckpointDigestError, CheckpointError, locating
from huref.recipe import LATENT_SIZE

SHIPPED = "checkpoints/decoder.safetensors"
AFHQ = (0.5, 8)  # truncation in HuRef's paper: psi, and the number of layers it applies to
MEAN_OF = 10_000  # latents from which the mean w is computed if a file has none
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"


@dataclass(frozen=True)
class DecoderInfo:
    """The description of a decoder file, from its metadata.

    Attributes:
        name: the name for --decoder; "default" for the shipped decoder.
        resolution: height and width of the pictures, in pixels.
        psi, cutoff: truncation, and the number of layers it applies to (None: all).
        digest: the first twelve hex digits, as in recipes.
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
        """All fields, as a JSON object."""
        return asdict(self)


def import_decoder(
    path: Path,
    name: str | None = None,
    *,
    psi: float | None = None,
    cutoff: int | None = None,
    licence: str | None = None,
    replace: bool = False,
) -> tuple[Decoder, DecoderInfo]:
    """Convert a StyleGAN2 checkpoint and save it under a name in huref's home folder.

    Args:
        path: NVIDIA's .pkl, rosinality's or lucidrains' .pt, or a .safetensors of any of them.
        name: the decoder's name; by default made from the file's name.
        psi: truncation; by default 0.5 for AFHQ as in HuRef's paper, else as shipped.
        cutoff: number of layers that are truncated; by default 8 for AFHQ, else as shipped.
        licence: the licence of the network, if the user knows it.
        replace: whether an existing decoder of that name may be overwritten.

    Raises:
        CheckpointError: the file cannot be read or converted.
        CheckpointDigestError: its tensors do not make up a generator, or the name is in use.
    """
    name = name if name is not None else _name_from(path)
    if not re.fullmatch(NAME, name):
        raise CheckpointError(
            f"'{name}' cannot be the name of a decoder",
            advice="take up to 64 lower-case letters, digits, '.', '_' and '-'",
        )
    state, metadata, dtype = _read_decoder(path) if _is_decoder(path) else _convert(path, name)
    metadata["name"] = name
    options = {"psi": psi, "cutoff": cutoff, "licence": licence}
    metadata |= {key: value for key, value in options.items() if value is not None}
    with _reading(path):
        _require_usable(state, metadata)
    _require_truncation(metadata["psi"], metadata["cutoff"])
    target = imported_decoder(name)
    if target.is_file() and not replace:
        raise CheckpointDigestError(
            f"there already is a decoder '{name}' ({target})",
            advice="give another --name, or --replace",
        )
    decoder = save_decoder(target, state, metadata, dtype)
    return decoder, describe(target)


def list_decoders() -> list[DecoderInfo]:
    """The shipped decoder, then the imported ones in alphabetical order."""
    shipped = locate(SHIPPED)
    imported = sorted(imported_decoder("x").parent.glob("*.safetensors"))
    return [describe(shipped, shipped=True), *map(describe, imported)]


def describe(path: Path, shipped: bool = False) -> DecoderInfo:
    """Describe a decoder file by its metadata and tensor names; tensors are not read.

    Raises:
        CheckpointDigestError: it is not a decoder of huref.
    """
    strings = read_metadata(path)
    metadata = parse_metadata(strings, path)
    try:
        return DecoderInfo(
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
        raise CheckpointDigestError(f"its metadata is incomplete ({error})", file=path) from error


def _name_from(path: Path) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("-._")[:64] or "decoder"


def _is_decoder(path: Path) -> bool:
    """Whether a file is a decoder of huref already."""
    is_safetensors = path.suffix == ".safetensors" and path.is_file()
    return is_safetensors and read_metadata(path).get("format") == FORMAT


def _read_decoder(path: Path) -> tuple[State, dict[str, Any], torch.dtype]:
    """Tensors, metadata and stored dtype of a decoder of huref."""
    decoder = load_decoder(path)
    metadata = {key: value for key, value in decoder.metadata.items() if key != "digest"}
    dtype = open_network(path).entries["mapping.fc0.weight"].dtype
    return decoder.generator.state_dict(), metadata, dtype


def _convert(path: Path, name: str) -> tuple[State, dict[str, Any], torch.dtype]:
    """Tensors, metadata and dtype of a decoder that is converted from another code base."""
    converted = convert(open_network(path))
    metadata = _metadata_of(converted, path, name)
    with _reading(path):
        _add_mean_w(converted, metadata)
    return converted.state, metadata, torch.float32


def _resolution_of(path: Path) -> int:
    blocks = (re.match(r"synthesis\.b(\d+)\.", name) for name in open_network(path).entries)
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


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name the user's file in errors, and raise those about its tensors as CheckpointError."""
    with locating(file=path.name):
        try:
            yield
        except CheckpointDigestError as error:
            raise CheckpointError(error.what, tensor=error.tensor, advice=error.advice) from error


@torch.inference_mode()
def _add_mean_w(converted: Converted, metadata: dict[str, Any]) -> None:
    """Compute the mean w from latents of a fixed seed, if the file has none."""
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


def _require_usable(state: State, metadata: dict[str, Any]) -> None:
    """Check that fingerprints can be drawn with a generator and its settings."""
    generator = _generator(state, metadata)
    if generator.z_dim != LATENT_SIZE:
        raise CheckpointError(
            f"its latents have {generator.z_dim} dimensions, those of fingerprints {LATENT_SIZE}"
        )
    for name, value in state.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError("it holds NaN or infinite values", tensor=name)


def _require_truncation(psi: float, cutoff: int | None) -> None:
    if not 0 < psi <= 1 or not (cutoff is None or cutoff > 0) or not math.isfinite(psi):
        raise CheckpointError(
            f"psi is {psi} and cutoff {cutoff}; allowed are 0 < psi <= 1, cutoff >= 1"
        )
