"""`huref.bom`: a model's bill of materials, with its ancestors as they were measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from huref.api.attest import file_of_base, measure_subjects, open_weights, stated_pair
from huref.api.check import check
from huref.api.open import open_record
from huref.api.public import public_name, public_path
from huref.errors import HurefError, one_line
from huref.evidence.cyclonedx import make_bom
from huref.evidence.model_files import read_oms
from huref.invariants.record import Record
from huref.loader.declarations import read_card
from huref.recipe import Recipe


def bom(
    model: str | Path,
    bases: Sequence[str | Path] = (),
    *,
    recipe: str = "default",
    cache: bool = True,
    read_all: bool = False,
) -> dict[str, Any]:
    """A CycloneDX 1.7 bill of materials of a model, as a JSON object.

    Args:
        model: a folder, file of weights, Hub id or adapter.
        bases: models whose descent is measured; those that the model declares when empty.
        recipe: name or file of a recipe.
        cache: whether stored records are used, and new ones stored.
        read_all: as for `huref.attest`.

    Raises:
        HurefError: the model cannot be read. A base that cannot be is noted in the pedigree.
    """
    name = str(model)
    checkpoint = open_weights(name)
    record = open_record(name, recipe, cache=cache)
    subjects = measure_subjects(checkpoint, read_all=read_all)
    measured = check(name, bases, recipe=recipe, cache=cache)
    pairs, unmeasured = [], [*measured.notes]
    for finding in measured.findings:
        base = finding.declaration
        if finding.pair is None:
            unmeasured.append(f"{public_path(base.base)}: not measured: {one_line(finding.why)}")
            continue
        opened = open_record(base.model or base.base, recipe, cache=cache)
        files: list[dict[str, str]] = []
        try:
            found = measure_subjects(open_weights(base.model or base.base), read_all=read_all)
            files = [file_of_base(one) for one in found]
        except HurefError as error:  # a record: it has no files
            unmeasured.append(f"{public_name(opened)}: {one_line(error.what)}")
        stated = stated_pair(finding.pair, public_name(record), public_name(opened))
        pairs.append(stated | {"revision": opened.revision, "files": files})
    config = checkpoint.config
    classes = config.get("architectures")
    oms = read_oms(checkpoint.repository, subjects)
    return make_bom(
        public_name(record),
        record.revision,
        subjects,
        card=read_card(checkpoint.repository),
        architecture=(
            _text(config.get("model_type")),
            _text(classes[0]) if isinstance(classes, list) and classes else None,
        ),
        pairs=pairs,
        unmeasured=[_without(note, name, public_name(record)) for note in unmeasured],
        facts=_facts(record, record.recipe) | ({"huref:oms.sha256": oms["sha256"]} if oms else {}),
    )


def _facts(record: Record, recipe: Recipe) -> dict[str, str]:
    from base64 import b64encode

    assert record.latent is not None
    latent = np.ascontiguousarray(record.latent, "<f4").tobytes()
    read = {"huref:format": "format", "huref:quantisation": "quantisation"}
    files = record.files or {}
    known = {key: str(files[name]) for key, name in read.items() if files.get(name)}
    return known | {
        "huref:recipe": recipe.digest,
        "huref:latent": b64encode(latent).decode("ascii"),
    }


def _text(value: object) -> str | None:
    return value[:200] if isinstance(value, str) and value else None


def _without(note: str, private: str, public: str) -> str:
    return note.replace(private, public) if "/" in private or "\\" in private else note
