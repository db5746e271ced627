"""`huref.attest`: a signed statement of what a model's weights are and descend from."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import torch

from huref.api.open import kind_of_file, open_record
from huref.api.public import public_name, public_path
from huref.errors import EvidenceError
from huref.evidence.envelope import Envelope, sign_payload
from huref.evidence.keyless import KeylessSigner, sign_keyless
from huref.evidence.keys import Signer, load_signer
from huref.evidence.model_files import STATED, Subject, hash_model, read_oms
from huref.evidence.statement import PAYLOAD_TYPE, Statement
from huref.evidence.timestamp import (
    is_before,
    public_address,
    read_timestamp,
    request_timestamp,
    require_rfc3161,
)
from huref.files import replacing, require_folder
from huref.invariants.record import Record
from huref.lineage.table import Pair, build_table
from huref.loader.checkpoint import Checkpoint, open_checkpoint
from huref.loader.repository import Repository
from huref.progress import track
from huref.version import __version__

SALT_BYTES = 32
PAIR_KEYS = (
    "verdict", "why", "ics", "terms", "shared_anchors", "units", "log10_p", "test",
    "latent_cosine", "retained", "older",
)  # fmt: skip


@dataclass(frozen=True)
class Attestation:
    """A signed statement.

    Attributes:
        statement: what is stated.
        record: the private record that opens its commitment.
        text: the file: a DSSE envelope, or a sigstore bundle around one.
        signer: key id, or who signed without a key.
    """

    statement: Statement
    record: Record
    text: str
    signer: str

    def to_json(self) -> dict[str, Any]:
        """What `huref attest --json` prints, without the names of the files written."""
        stated = self.statement
        return {
            "model": stated.model,
            "revision": stated.revision,
            "recipe": stated.recipe.digest,
            "signer": self.signer,
            "made_at": stated.to_json()["predicate"]["made_at"],
            "files": len(stated.subjects),
            "read": self.record.files,
            "files_stated_by_hub": sum(one.source == STATED for one in stated.subjects),
            "commitment": stated.commitment,
            "timestamp": stated.timestamp_authority,
            "lineage": [{key: pair[key] for key in ("base", "verdict")} for pair in stated.lineage],
        }


def attest(
    model: str | Path,
    out: str | Path | None = None,
    *,
    key: str | Path | None = None,
    bases: Sequence[str | Path] = (),
    record: str | Path | None = None,
    timestamp: str | None = None,
    recipe: str = "default",
    cache: bool = True,
    read_all: bool = False,
) -> Attestation:
    """State what a model's files and weights are, and sign it.

    Args:
        model: a folder, file of weights, Hub id or adapter.
        out: where to write the statement; None writes none.
        key: PEM file of an Ed25519 or ECDSA P-256 private key; None signs through sigstore.
        bases: models, records or pictures that the model is compared with.
        record: where to save the private record, without which nobody can open the commitment.
        timestamp: address of an RFC 3161 timestamp authority.
        recipe: name or file of a recipe.
        cache: whether stored records of model and bases are used, and new ones stored.
        read_all: whether large files on the Hub are downloaded and hashed as well; otherwise their
            digests are those that the Hub states, and the statement says so.

    Raises:
        EvidenceError: the key cannot be used, a package is missing, or there are no files.
        HurefError: a model cannot be read; the subclass and the message say why.
    """
    require_folder(*(Path(path) for path in (out, record) if path is not None))
    authority = None
    if timestamp is not None:
        require_rfc3161()
        authority = public_address(timestamp)
    signer = load_signer(Path(key)) if key is not None else KeylessSigner.start()
    name = str(model)
    checkpoint = open_weights(name)
    measured = open_record(name, recipe, cache=cache)
    subjects = measure_subjects(checkpoint, read_all=read_all)
    private = replace(measured, model=public_name(measured), salt=token_hex(SALT_BYTES))
    assert measured.latent is not None
    statement = Statement(
        subjects=tuple(subjects),
        model=private.model,
        revision=private.revision,
        recipe=private.recipe,
        latent=measured.latent.astype(np.float32),
        commitment=private.contents()[1]["digest"],
        made_at=datetime.now(UTC).replace(microsecond=0),
        timestamp_authority=authority,
        lineage=tuple(
            _lineage(measured, str(base), recipe, cache, read_all) for base in track(bases, "bases")
        ),
        oms=read_oms(checkpoint.repository, subjects),
        versions=versions(),
    )
    text, signed_by = _sign(statement, signer, timestamp)
    result = Attestation(statement, private, text, signed_by)
    # The record first: a statement whose commitment nobody can open would be worth less.
    if record is not None:
        private.save(Path(record))
    if out is not None:
        with replacing(Path(out)) as temporary:
            temporary.write_text(text, "utf-8")
    return result


def versions() -> dict[str, str]:
    """Versions of what the figures depend on."""
    return {
        "huref": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _sign(
    statement: Statement, signer: Signer | KeylessSigner, timestamp: str | None
) -> tuple[str, str]:
    payload = statement.to_payload()
    if isinstance(signer, KeylessSigner):
        return sign_keyless(payload, signer)
    envelope: Envelope = sign_payload(PAYLOAD_TYPE, payload, signer)
    if timestamp is not None:
        signed = envelope.signatures[0].value
        token = request_timestamp(timestamp, signed)
        time = read_timestamp(token, signed, []).time
        if is_before(time, statement.made_at):  # nobody could verify it
            raise EvidenceError(
                f"{statement.timestamp_authority}: the authority says {time:%Y-%m-%d %H:%M} UTC, "
                f"and the clock of this machine {statement.made_at:%Y-%m-%d %H:%M}",
                advice="set the clock",
            )
        envelope = envelope.with_token(token)
    return envelope.to_json(), signer.public.id


def open_weights(model: str) -> Checkpoint:
    """A model that has files of weights.

    Raises:
        EvidenceError: it is a record or a picture.
    """
    path = Path(model).expanduser()
    if path.is_file() and (kind := kind_of_file(path)) != "weights":
        raise EvidenceError(
            f"a {kind} has no files to attest", model=model, advice="give the model itself"
        )
    return open_checkpoint(model)


def measure_subjects(checkpoint: Checkpoint, *, read_all: bool) -> list[Subject]:
    """The files of a model, and of the bases that its adapters are applied to, with SHA-256."""
    names = base_names(checkpoint.repositories)
    return hash_model(checkpoint.repositories, names, read_all=read_all)


def base_names(repositories: Sequence[Repository]) -> list[str]:
    """Public names of the repositories of a checkpoint, with their commits."""
    return [
        public_path(one.model, one.revision) + (f"@{one.revision}" if one.revision else "")
        for one in repositories
    ]


def _lineage(
    measured: Record, base: str, recipe: str, cache: bool, read_all: bool
) -> dict[str, Any]:
    """The measured pair of the model and one base, under public names."""
    path = Path(base).expanduser()
    record = open_record(base, recipe, cache=cache)
    pair = build_table([measured, record]).pairs[0]
    if path.is_file() and kind_of_file(path) != "weights":
        files = []
    else:
        found = measure_subjects(open_checkpoint(base), read_all=read_all)
        files = [file_of_base(one) for one in found]
    return stated_pair(pair, public_name(measured), public_name(record)) | {
        "revision": record.revision,
        "files": files,
    }


def file_of_base(subject: Subject) -> dict[str, str]:
    """A file of a base, as the predicate has it."""
    source = {"source": STATED} if subject.source == STATED else {}
    return {"name": subject.name, "sha256": subject.sha256} | source


def stated_pair(pair: Pair, model: str, base: str) -> dict[str, Any]:
    """A measured pair (model, base) under other names than the user's."""
    measured = pair.to_json()
    stated = {key: measured.get(key) for key in PAIR_KEYS}
    names = {pair.a: model, pair.b: base}
    text = json.dumps(stated, ensure_ascii=False)
    for private, public in sorted(names.items(), key=lambda one: -len(one[0])):
        if "/" in private or "\\" in private:  # a path; a word could stand in any sentence
            text = text.replace(json.dumps(private)[1:-1], json.dumps(public)[1:-1])
    found: dict[str, Any] = json.loads(text)
    return {"base": base} | found
