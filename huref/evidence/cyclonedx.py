"""A machine-learning bill of materials in CycloneDX 1.7 (ECMA-424, second edition), as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from huref.evidence.model_files import READ, Subject
from huref.loader.model_name import is_hub_id
from huref.version import __version__

SPEC = "1.7"
# Licences of model cards whose SPDX identifier is not the same word in upper case.
LICENCES = {
    "apache-2.0": "Apache-2.0", "afl-3.0": "AFL-3.0", "agpl-3.0": "AGPL-3.0-only",
    "artistic-2.0": "Artistic-2.0", "bsd": "BSD-2-Clause", "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause", "bsl-1.0": "BSL-1.0", "cc-by-2.0": "CC-BY-2.0",
    "cc-by-3.0": "CC-BY-3.0", "cc-by-4.0": "CC-BY-4.0", "cc-by-nc-4.0": "CC-BY-NC-4.0",
    "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0", "cc-by-nc-nd-4.0": "CC-BY-NC-ND-4.0",
    "cc-by-sa-3.0": "CC-BY-SA-3.0", "cc-by-sa-4.0": "CC-BY-SA-4.0", "cc0-1.0": "CC0-1.0",
    "ecl-2.0": "ECL-2.0", "epl-2.0": "EPL-2.0", "eupl-1.1": "EUPL-1.1", "eupl-1.2": "EUPL-1.2",
    "gpl-2.0": "GPL-2.0-only", "gpl-3.0": "GPL-3.0-only", "isc": "ISC",
    "lgpl-2.1": "LGPL-2.1-only", "lgpl-3.0": "LGPL-3.0-only", "mit": "MIT", "mpl-2.0": "MPL-2.0",
    "ms-pl": "MS-PL", "ncsa": "NCSA", "odbl": "ODbL-1.0", "odc-by": "ODC-By-1.0",
    "osl-3.0": "OSL-3.0", "pddl": "PDDL-1.0", "postgresql": "PostgreSQL",
    "unlicense": "Unlicense", "wtfpl": "WTFPL", "zlib": "Zlib",
}  # fmt: skip
LONGEST = 1000  # characters of a value from a card


def make_bom(
    model: str,
    revision: str | None,
    subjects: Sequence[Subject],
    *,
    card: Mapping[str, Any],
    architecture: tuple[str | None, str | None],
    pairs: Sequence[Mapping[str, Any]],
    unmeasured: Sequence[str] = (),
    facts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The bill of materials of one model.

    Args:
        model: public name.
        revision: its commit, or None.
        subjects: its files.
        card: the model card's YAML; licence and datasets are taken from it.
        architecture: `model_type` and the class in config.json, each None where it is unknown.
        pairs: measured pairs with its bases, as `huref attest` states them. Bases that it
            descends from are ancestors, those of one initialisation variants.
        unmeasured: sentences on declared bases that could not be measured.
        facts: further properties of the model, by name.
    """
    reference = _reference(model, revision)
    main = _component(model, revision) | {
        "hashes": [{"alg": "SHA-256", "content": subjects[0].sha256}]
        if len(subjects) == 1
        else None,
        "licenses": _licences(card),
        "pedigree": _pedigree(pairs, unmeasured),
        "modelCard": _model_card(card, architecture),
        "properties": _properties(facts or {}),
    }
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {
                "components": [{"type": "application", "name": "huref", "version": __version__}]
            },
            "component": {key: value for key, value in main.items() if value},
        },
        "components": [_file(subject, place) for place, subject in enumerate(subjects)],
        "dependencies": [
            {"ref": reference, "dependsOn": [f"file-{place}" for place in range(len(subjects))]}
        ],
    }


def _component(model: str, revision: str | None) -> dict[str, Any]:
    one: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": _reference(model, revision),
        "name": model,
    }
    if revision:
        one["version"] = revision
    if revision and is_hub_id(model):
        organisation, _, name = model.rpartition("/")
        if organisation:
            one |= {"group": organisation, "name": name}
        one["purl"] = _purl(model, revision)
    return one


def _reference(model: str, revision: str | None) -> str:
    return _purl(model, revision) if revision and is_hub_id(model) else f"model:{model}"


def _purl(model: str, revision: str) -> str:
    """A package URL of type huggingface; its version is the commit in lower case."""
    repository = "/".join(quote(part, safe="") for part in model.split("/")[:2])
    return f"pkg:huggingface/{repository}@{quote(revision.lower(), safe='')}"


def _file(subject: Subject, place: int) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": f"file-{place}",
        "name": subject.name,
        "hashes": [{"alg": "SHA-256", "content": subject.sha256}],
        "properties": _properties({"huref:sha256": subject.source}),
    }


def _pedigree(pairs: Sequence[Mapping[str, Any]], unmeasured: Sequence[str]) -> dict[str, Any]:
    kinds = {"descends": "ancestors", "shared initialisation": "variants"}
    found: dict[str, Any] = {}
    notes = list(unmeasured)
    for pair in pairs:
        kind = kinds.get(pair["verdict"] or "")
        if kind is None:
            notes.append(f"{pair['base']}: {pair['verdict'] or 'no verdict'}: {pair['why']}")
        else:
            found.setdefault(kind, []).append(_ancestor(pair))
    if notes:
        found["notes"] = "; ".join(notes)
    return found


def _ancestor(pair: Mapping[str, Any]) -> dict[str, Any]:
    """A base as a component, with what was measured as evidence of its identity."""
    log10_p = pair["log10_p"]
    confidence = 0.0 if log10_p is None else 1 - 10.0 ** min(log10_p, 0)
    figures = {
        "huref:verdict": pair["verdict"],
        "huref:why": pair["why"],
        "huref:ics": pair["ics"],
        "huref:log10_p": log10_p,
        "huref:test": pair["test"],
        "huref:latent_cosine": pair["latent_cosine"],
        "huref:shared_anchors": pair["shared_anchors"],
        "huref:older": pair["older"],
    }
    evidence: dict[str, Any] = {
        "field": "name",
        "concludedValue": pair["base"],
        "methods": [
            {
                "technique": "binary-analysis",
                "confidence": confidence,
                "value": f"{pair['verdict']}: {pair['why']}",
            }
        ],
    }
    one = _component(pair["base"], pair["revision"])
    one["bom-ref"] = f"base:{one['bom-ref']}"
    one["evidence"] = {"identity": [evidence]}
    one["properties"] = _properties(figures)
    one["components"] = [
        {
            "type": "file",
            "name": file["name"],
            "hashes": [{"alg": "SHA-256", "content": file["sha256"]}],
            "properties": _properties({"huref:sha256": file.get("source", READ)}),
        }
        for file in pair["files"]
    ]
    return one


def _model_card(
    card: Mapping[str, Any], architecture: tuple[str | None, str | None]
) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    task = card.get("pipeline_tag")
    if isinstance(task, str):
        parameters["task"] = task[:LONGEST]
    family, kind = architecture
    parameters |= {"architectureFamily": family} if family else {}
    parameters |= {"modelArchitecture": kind} if kind else {}
    datasets = [
        {"type": "dataset", "name": name}
        | (
            {"contents": {"url": f"https://huggingface.co/datasets/{name}"}}
            if is_hub_id(name) and "/" in name
            else {}
        )
        for name in _texts(card.get("datasets"))
    ]
    if datasets:
        parameters["datasets"] = datasets
    return {"modelParameters": parameters} if parameters else {}


def _licences(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The card's licences: SPDX identifiers where they are known, otherwise names."""
    found = []
    for name in _texts(card.get("license")):
        known = LICENCES.get(name.lower())
        licence: dict[str, Any] = {"id": known} if known else {"name": name}
        named, link = card.get("license_name"), card.get("license_link")
        if name == "other" and isinstance(named, str) and named:
            licence = {"name": named[:LONGEST]}
        if isinstance(link, str) and link.startswith("https://") and " " not in link:
            licence["url"] = link[:LONGEST]
        found.append({"license": licence})
    return found


def _texts(value: object) -> list[str]:
    """Strings of a card's entry that is one or a list of them, each once."""
    values: Iterable[object] = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(v[:LONGEST] for v in values if isinstance(v, str) and v.strip()))


def _properties(facts: Mapping[str, object]) -> list[dict[str, str]]:
    return [
        {"name": name, "value": str(value)} for name, value in facts.items() if value is not None
    ]
