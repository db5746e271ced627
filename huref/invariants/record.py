"""Records: a model's terms, latent and unit measurements, in one safetensors file.

Terms leak weights, so a record is private. A picture carries the latent only.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from huref.bounded_json import loads
from huref.errors import EditedError, RecordError
from huref.files import replacing
from huref.invariants.anchors import Anchors
from huref.invariants.barcodes import Barcodes
from huref.invariants.function_use import TENSORS, FunctionUse, parse_function_use
from huref.invariants.relations import Relations
from huref.invariants.traits import Traits, parse_traits
from huref.invariants.unit_features import UnitFeatures
from huref.invariants.weight_samples import WeightSamples, parse_places
from huref.recipe import LATENT_SIZE, Recipe, parse_recipe

UNITS = tuple(f"units.{field.name}" for field in fields(UnitFeatures))
BARCODES = tuple(f"barcodes.{field.name}" for field in fields(Barcodes))
RELATIONS = tuple(f"relations.{field.name}" for field in fields(Relations))
FUNCTION = tuple(f"function.{name}" for name in TENSORS)
SAMPLES = "samples"  # metadata key; the tensor is samples.values
AGAIN = "make the record again"
DIGEST = "digest"  # metadata key
SALT = "salt"
DOMAIN = b"huref record 1\n"


@dataclass(frozen=True)
class Seal:
    """What the signature and the pixels of a picture say.

    Attributes:
        file: the picture, as the user named it.
        signer: key id of who signed it, or "" for an unsigned picture.
        signature_checked: False where the package that checks signatures is missing.
        pixels_checked: False where the decoder that drew it is not installed.
    """

    file: str = ""
    signer: str = ""
    signature_checked: bool = True
    pixels_checked: bool = True

    def __str__(self) -> str:
        signed = f"signed by {self.signer[:16]}" if self.signer else "unsigned"
        notes = []
        if self.signer and not self.signature_checked:
            notes.append("signature unchecked: pip install 'huref[evidence]'")
        if not self.pixels_checked:
            notes.append("pixels unchecked: its decoder is not installed")
        return signed + (f" ({'; '.join(notes)})" if notes else "")


@dataclass(frozen=True)
class Record:
    """All measurements of one model.

    A record that was read from a picture has model, recipe and latent only. One with the published
    terms has no latent.

    Attributes:
        model: the model as the user called it.
        revision: the commit, or None.
        recipe: the recipe that was used.
        layers: indices of the blocks whose terms these are.
        anchors: the anchors in row order.
        terms: (layers, 3, m, m) float32.
        latent: (512,) float32.
        units: features of the hidden units.
        barcodes: numbers that identify hidden units without tokens.
        traits: properties by which the direction of descent is judged.
        relations: cosines between the vectors of sampled hidden units.
        files: what was read: names, format, quantisation, an adapter's base (docs/json.md).
        function: what the blocks do on a text, and signs of disguise.
        samples: some of the weights as they stand; None of records made before there were any.
        salt: 64 random hex digits of an attested record, or "".
        digest: of a record read from a file, see `digest_of`; "" otherwise.
        seal: of a record read from a picture, or None.
    """

    model: str
    revision: str | None
    recipe: Recipe
    layers: tuple[int, ...] | None
    anchors: Anchors | None
    terms: Tensor | None
    latent: np.ndarray | None
    units: UnitFeatures | None = None
    barcodes: Barcodes | None = None
    traits: Traits | None = None
    relations: Relations | None = None
    files: dict[str, Any] | None = None
    function: FunctionUse | None = None
    samples: WeightSamples | None = None
    salt: str = ""
    digest: str = ""
    seal: Seal | None = None

    def contents(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors and the metadata strings of the record's file, its digest among them.

        Raises:
            RecordError: the record lacks anchors, terms or a latent.
        """
        if self.terms is None or self.anchors is None or self.latent is None:
            raise RecordError("only a model's weights give a record to save", model=self.model)
        metadata = {
            "recipe": self.recipe.to_json(),
            "model": self.model,
            "revision": self.revision or "",
            "layers": json.dumps(self.layers),
            "anchors": json.dumps(
                [[t.hex(), i] for t, i in zip(self.anchors.tokens, self.anchors.ids, strict=True)]
            ),
        }
        if self.files is not None:
            metadata["files"] = json.dumps(self.files)
        if self.traits is not None:
            metadata["traits"] = json.dumps(self.traits.to_json())
        if self.salt:
            metadata[SALT] = self.salt
        tensors = {"terms": self.terms.contiguous(), "latent": torch.from_numpy(self.latent)}
        parts = {"units": self.units, "barcodes": self.barcodes, "relations": self.relations}
        for name, part in parts.items():
            if part is not None:
                tensors |= {f"{name}.{f.name}": getattr(part, f.name) for f in fields(part)}
        if self.function is not None:
            metadata |= self.function.metadata()
            tensors |= {f"function.{n}": t for n, t in self.function.tensors().items()}
        if self.samples is not None:
            tensors[f"{SAMPLES}.values"] = self.samples.values
            metadata[SAMPLES] = json.dumps(self.samples.to_json())
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        return tensors, metadata | {DIGEST: digest_of(tensors, metadata)}

    def save(self, path: Path) -> None:
        """Write the record completely or not at all.

        Raises:
            RecordError: the record lacks anchors, terms or a latent.
        """
        tensors, metadata = self.contents()
        with replacing(path, private=True) as temporary:
            save_file(tensors, temporary, metadata)


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 (hex) of a record: all metadata but the digest, and every tensor.

    With a random salt in the metadata it is a commitment: it tells nothing of the terms, and no
    other record has it.
    """
    stated = {key: value for key, value in metadata.items() if key != DIGEST}
    total = hashlib.sha256(DOMAIN + json.dumps(stated, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"\n{json.dumps(name)} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def load_record(path: Path) -> Record:
    """Read a record that `Record.save` wrote.

    Raises:
        RecordError: the file is not a record, is damaged, or was edited.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            recipe = parse_recipe(loads(metadata["recipe"]), str(path))
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            optional = {*UNITS, *BARCODES, *RELATIONS, *FUNCTION, f"{SAMPLES}.values"}
            expected = {
                "terms": (len(recipe.layers), 3, recipe.m, recipe.m),
                "latent": (LATENT_SIZE,),
            }
            found = {n: shape for n, shape in shapes.items() if n not in optional}
            if found != expected:
                raise RecordError(
                    f"a record of its recipe has the tensors {expected}, this file {found}",
                    file=path,
                )
            tensors = {name: file.get_tensor(name) for name in shapes}
        _require_untouched(tensors, metadata, path)
        terms, latent = tensors["terms"].float(), tensors["latent"].float().numpy()
        units = barcodes = relations = None
        if set(UNITS) & set(shapes):
            units = UnitFeatures(*map(tensors.__getitem__, UNITS))
        if set(BARCODES) & set(shapes):
            barcodes = Barcodes(*map(tensors.__getitem__, BARCODES))
        if set(RELATIONS) & set(shapes):
            relations = Relations(*map(tensors.__getitem__, RELATIONS))
        function = None
        if set(FUNCTION) & set(shapes):
            parts = {name: tensors[f"function.{name}"] for name in TENSORS}
            function = parse_function_use(parts, metadata)
        samples = None
        if SAMPLES in metadata and f"{SAMPLES}.values" in tensors:
            places = parse_places(loads(metadata[SAMPLES]))
            samples = WeightSamples(tensors[f"{SAMPLES}.values"], places)
        rows = [(bytes.fromhex(text), int(number)) for text, number in loads(metadata["anchors"])]
        layers = tuple(int(layer) for layer in loads(metadata["layers"]))
        model, revision = metadata["model"], metadata["revision"] or None
        traits = parse_traits(loads(metadata["traits"])) if "traits" in metadata else None
        read = parse_files(loads(metadata["files"])) if "files" in metadata else None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise RecordError(
            "not a record that 'huref fingerprint --record' wrote, nor weights in a form that "
            f"huref reads ({type(error).__name__})",
            file=path,
            advice="give a model's folder, its file of weights, a picture or a record",
        ) from error
    if len(rows) != recipe.m or not (torch.isfinite(terms).all() and np.isfinite(latent).all()):
        raise RecordError("its anchors, terms or latent are damaged", file=path, advice=AGAIN)
    anchors = Anchors(tuple(text for text, _ in rows), tuple(number for _, number in rows))
    if not all(
        part is None or part.fits() for part in (units, barcodes, relations, function, samples)
    ):
        raise RecordError("its unit measurements are damaged", file=path, advice=AGAIN)
    return Record(
        model=model,
        revision=revision,
        recipe=recipe,
        layers=layers,
        anchors=anchors,
        terms=terms,
        latent=latent,
        units=units,
        barcodes=barcodes,
        traits=traits,
        relations=relations,
        function=function,
        samples=samples,
        files=read,
        salt=metadata.get(SALT, ""),
        digest=metadata[DIGEST],
    )


LONGEST_CHAIN = 10  # of bases of adapters


def parse_files(value: Any, depth: int = 0) -> dict[str, Any]:
    """The description of a model's files in a record's metadata, checked.

    Raises:
        ValueError: it has another form.
    """
    if depth > LONGEST_CHAIN or not isinstance(value, dict):
        raise ValueError("the description of the files has another form")
    lists = [value[key] for key in ("names", "unused")]
    texts = [value["format"], value["quantisation"] or "", value.get("model", "")]
    texts += [name for found in lists for name in found]
    if not all(isinstance(text, str) for text in texts) or type(value["count"]) is not int:
        raise ValueError("the description of the files has another form")
    base = value["base"]
    parsed: dict[str, Any] = {"model": value["model"]} if "model" in value else {}
    return parsed | {
        "names": [*lists[0]],
        "count": value["count"],
        "format": value["format"],
        "quantisation": value["quantisation"],
        "unused": [*lists[1]],
        "base": None if base is None else parse_files(base, depth + 1),
    }


def _require_untouched(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path
) -> None:
    stated = metadata.get(DIGEST)
    if stated is None:
        raise EditedError(
            "it has no digest: it was edited, or made before records had one",
            file=path,
            advice=AGAIN,
        )
    if stated != digest_of(tensors, metadata):
        raise EditedError(
            "the record was edited or damaged: its digest does not fit what it holds",
            file=path,
            advice=AGAIN,
        )
