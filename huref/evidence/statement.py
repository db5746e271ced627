"""The in-toto Statement v1 of a model, and its predicate of type `PREDICATE`.

docs/schemas/predicates/lineage-1.json is the predicate's schema.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from huref.errors import EvidenceError, HurefError
from huref.evidence.envelope import parse_json
from huref.evidence.model_files import STATED, Subject
from huref.recipe import LATENT_SIZE, Recipe, parse_recipe

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
FAMILY = "urn:huref:predicate:lineage:"
PREDICATE = f"{FAMILY}1"
COMMITMENT = "huref record 1"  # docs/evidence.md, Commitment
TIME = "%Y-%m-%dT%H:%M:%SZ"
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Statement:
    """What an attestation says.

    Attributes:
        subjects: the model's files.
        model: the model's public name.
        revision: its commit, or None.
        recipe: by which it was measured.
        latent: (512,) float32.
        commitment: digest of the private record with its salt.
        made_at: UTC.
        timestamp_authority: address of the server whose token the signer asked for, or None.
        lineage: the measured pairs, see the predicate's schema.
        oms: {"file", "sha256"} of the model's OMS manifest, or None.
        versions: of huref and what its figures depend on.
    """

    subjects: tuple[Subject, ...]
    model: str
    revision: str | None
    recipe: Recipe
    latent: NDArray[np.float32]
    commitment: str
    made_at: datetime
    timestamp_authority: str | None
    lineage: tuple[dict[str, Any], ...]
    oms: dict[str, str] | None
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """The statement as in-toto has it."""
        return {
            "_type": STATEMENT,
            "subject": [subject_to_json(subject) for subject in self.subjects],
            "predicateType": PREDICATE,
            "predicate": {
                "model": self.model,
                "revision": self.revision,
                "made_at": self.made_at.strftime(TIME),
                "timestamp_authority": self.timestamp_authority,
                "recipe": asdict(self.recipe) | {"layers": list(self.recipe.layers)},
                "recipe_digest": self.recipe.digest,
                "picture_digest": self.recipe.picture_digest,
                "latent": b64encode(self.latent.astype("<f4").tobytes()).decode("ascii"),
                "commitment": {"scheme": COMMITMENT, "sha256": self.commitment},
                "lineage": list(self.lineage),
                "oms": self.oms,
                "versions": self.versions,
            },
        }

    def to_payload(self) -> bytes:
        """The statement as the bytes that are signed."""
        return json.dumps(self.to_json(), sort_keys=True, ensure_ascii=False).encode()


def subject_to_json(subject: Subject) -> dict[str, Any]:
    """An in-toto resource descriptor."""
    one: dict[str, Any] = {"name": subject.name, "digest": {"sha256": subject.sha256}}
    if subject.source == STATED:
        one["annotations"] = {"sha256": STATED}
    return one


def parse_statement(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> Statement:
    """A statement from the payload of an envelope.

    Raises:
        EvidenceError: of another type, of a newer schema, or damaged.
    """
    if payload_type != PAYLOAD_TYPE:
        raise EvidenceError(f"its payload is of type '{payload_type}', not an in-toto statement")
    data = parse_json(payload)
    if not isinstance(data, Mapping) or data.get("_type") != STATEMENT:
        raise EvidenceError("its payload is not an in-toto Statement v1")
    kind = data.get("predicateType")
    if kind != PREDICATE:
        if isinstance(kind, str) and kind.startswith(FAMILY):
            raise EvidenceError(
                f"made by a newer huref (predicate '{kind}')", advice="update huref"
            )
        raise EvidenceError(f"a statement of another type ('{kind}'), not of a model's lineage")
    try:
        return _parse(data)
    except EvidenceError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, HurefError) as error:
        raise EvidenceError("its statement is incomplete or damaged") from error


def _parse(data: Mapping[str, Any]) -> Statement:
    predicate = data["predicate"]
    recipe = parse_recipe(predicate["recipe"], "the statement")
    latent = np.frombuffer(b64decode(predicate["latent"], validate=True), "<f4")
    commitment = predicate["commitment"]
    if commitment["scheme"] != COMMITMENT:
        raise EvidenceError("made by a newer huref (another commitment)", advice="update huref")
    subjects = tuple(_parse_subject(one) for one in data["subject"])
    revision, authority = predicate["revision"], predicate["timestamp_authority"]
    fits = (
        latent.shape == (LATENT_SIZE,)
        and bool(np.isfinite(latent).all())
        and predicate["recipe_digest"] == recipe.digest
        and predicate["picture_digest"] == recipe.picture_digest
        and DIGEST.fullmatch(commitment["sha256"])
        and subjects
        and len({subject.name for subject in subjects}) == len(subjects)
        and isinstance(predicate["model"], str)
        and isinstance(revision, str | None)
        and isinstance(authority, str | None)
        and isinstance(predicate["lineage"], Sequence)
        and all(isinstance(pair["verdict"], str | None) for pair in predicate["lineage"])
        and all(isinstance(pair["base"], str) for pair in predicate["lineage"])
    )
    if not fits:
        raise EvidenceError("its statement contradicts itself")
    return Statement(
        subjects=subjects,
        model=predicate["model"],
        revision=revision,
        recipe=recipe,
        latent=latent.astype(np.float32),
        commitment=commitment["sha256"],
        made_at=datetime.strptime(predicate["made_at"], TIME).replace(tzinfo=UTC),
        timestamp_authority=authority,
        lineage=tuple(predicate["lineage"]),
        oms=predicate["oms"],
        versions=dict(predicate["versions"]),
    )


def _parse_subject(one: Mapping[str, Any]) -> Subject:
    name, digest = one["name"], one["digest"]["sha256"]
    if not isinstance(name, str) or not DIGEST.fullmatch(digest):
        raise EvidenceError("a subject without a SHA-256 digest")
    stated = one.get("annotations", {}).get("sha256") == STATED
    return Subject(name, digest, 0, STATED if stated else "read")
