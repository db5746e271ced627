"""`huref.verify`: what of an attestation or a signed picture holds."""

from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from huref.api.attest import base_names
from huref.api.endpoint_picture import check_endpoint_picture
from huref.api.open import ENDPOINT, KIND, PNG_MAGIC, cached_encoder, open_record, read_picture
from huref.decoder.picture import read_png
from huref.errors import EditedError, EvidenceError, HurefError, locating, one_line
from huref.evidence.envelope import LARGEST, Envelope, parse_envelope, parse_json
from huref.evidence.keyless import is_bundle, verify_bundle
from huref.evidence.keys import SHOWN, PublicKey, load_public_key
from huref.evidence.model_files import Subject, hash_model
from huref.evidence.statement import Statement, parse_statement
from huref.evidence.timestamp import (
    is_before,
    load_certificates,
    read_timestamp,
    require_rfc3161,
)
from huref.invariants.record import Record, Seal, load_record
from huref.loader.checkpoint import open_checkpoint
from huref.loader.model_name import open_repository
from huref.loader.repository import Repository
from huref.recipe import load_recipe

Status = Literal["holds", "fails", "unchecked"]
TOLERANCE = 1e-4  # of a latent's number between machines; measured in docs/evidence.md
LISTED = 3  # names of files in a sentence


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: signature, timestamp, files, latent, commitment, record, verdicts or picture.
        status: "unchecked" where something is missing to check it.
        why: one sentence.
    """

    name: str
    status: Status
    why: str


@dataclass(frozen=True)
class Verification:
    """What of a file holds.

    Attributes:
        file: as the user called it.
        kind: "attestation" or "picture".
        checks: in the order in which they were made.
        statement: what is stated, or None of a picture or where the signature fails.
    """

    file: str
    kind: Literal["attestation", "picture"]
    checks: tuple[Check, ...]
    statement: Statement | None = None

    @property
    def answer(self) -> Status:
        """The worst status; "unchecked" only where nothing could be checked."""
        found = {check.status for check in self.checks}
        return "fails" if "fails" in found else "holds" if "holds" in found else "unchecked"

    def to_json(self) -> dict[str, Any]:
        """What `huref verify --json` prints."""
        stated = self.statement
        predicate = stated.to_json()["predicate"] if stated else None
        return {
            "file": self.file,
            "kind": self.kind,
            "answer": self.answer,
            "checks": [
                {"name": one.name, "status": one.status, "why": one.why} for one in self.checks
            ],
            "statement": predicate,
        }


def verify(
    file: str | Path,
    model: str | Path | None = None,
    *,
    key: str | Path | None = None,
    opens: str | Path | None = None,
    timestamp_root: str | Path | None = None,
    identity: str | None = None,
    issuer: str | None = None,
    recipe: str = "default",
) -> Verification:
    """Check an attestation, or the seal of a fingerprint PNG.

    Args:
        file: what `huref attest` wrote, or a PNG.
        model: the model that is said to be the attested one.
        key: PEM file of the signer's public key.
        opens: the private record that opens the commitment.
        timestamp_root: PEM file of certificates that are trusted to vouch for a time.
        identity: who signed without a key, as sigstore's certificate names it.
        issuer: address of the service that vouches for the identity.
        recipe: name or file of a recipe, where the attested one is not among huref's own.

    Raises:
        EvidenceError: the file is neither, is of a newer huref, or is damaged, or the key cannot
            be read.
        HurefError: the model or the record cannot be read.
    """
    path = Path(file)
    data = _read(path)
    public = load_public_key(Path(key)) if key is not None else None
    with locating(file=path):
        if data.startswith(PNG_MAGIC):
            return _verify_picture(path, public, model, opens)
        envelope, signature = _open(data, public, identity, issuer)
        if signature.status == "fails":
            return Verification(str(file), "attestation", (signature,))
        statement = parse_statement(envelope.payload, envelope.payload_type)
    roots = Path(timestamp_root) if timestamp_root is not None else None
    checks = (
        signature,
        *_check_timestamp(envelope, public, statement, roots),
        *_check_model(statement, str(model) if model is not None else None, recipe),
        *_check_record(statement, Path(opens) if opens is not None else None, recipe),
        *_check_verdicts(statement),
    )
    return Verification(str(file), "attestation", checks, statement)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        raise EvidenceError(f"cannot be read ({error.strerror})", file=path) from error


def _open(
    data: bytes, key: PublicKey | None, identity: str | None, issuer: str | None
) -> tuple[Envelope, Check]:
    value = parse_json(data)
    if is_bundle(value):
        return _open_bundle(value, identity, issuer)
    envelope = parse_envelope(data)
    names = ", ".join(one.key_id[:SHOWN] or "a key without id" for one in envelope.signatures)
    if key is None:
        return envelope, Check("signature", "unchecked", f"by {names}; give its --key")
    if envelope.signed_by(key) is None:
        stated = {one.key_id for one in envelope.signatures}
        why = f"{key.id[:SHOWN]} did not sign it; it names {names}"
        if stated & {key.id, ""}:
            why = f"not what {key.id[:SHOWN]} signed: the statement or the signature was edited"
        return envelope, Check("signature", "fails", why)
    return envelope, Check("signature", "holds", f"by {key.id}")


def _open_bundle(
    value: dict[str, Any], identity: str | None, issuer: str | None
) -> tuple[Envelope, Check]:
    entry = value.get("dsseEnvelope")
    if not isinstance(entry, dict) or not isinstance(entry.get("payloadType"), str):
        raise EvidenceError("a sigstore bundle without a DSSE envelope")
    envelope = Envelope(entry["payloadType"], _payload(entry), ())
    if identity is None or issuer is None:
        why = "signed through sigstore; give --identity and --issuer"
        return envelope, Check("signature", "unchecked", why)
    found = verify_bundle(value, identity, issuer)
    if found is None:
        return envelope, Check("signature", "fails", f"{identity} did not sign it")
    return Envelope(*found, ()), Check("signature", "holds", f"by {identity} ({issuer})")


def _payload(entry: dict[str, Any]) -> bytes:
    try:
        return b64decode(entry["payload"], validate=True)
    except (KeyError, ValueError, TypeError) as error:
        raise EvidenceError("its base64 is damaged") from error


def _check_timestamp(
    envelope: Envelope, key: PublicKey | None, statement: Statement, roots: Path | None
) -> Iterator[Check]:
    signature = envelope.signed_by(key) if key else next(iter(envelope.signatures), None)
    tokens = signature.tokens if signature else ()
    if not tokens:
        if statement.timestamp_authority is not None:
            why = f"the statement names {statement.timestamp_authority}, but has no token"
            yield Check("timestamp", "fails", why)
        elif envelope.signatures:
            yield Check("timestamp", "unchecked", "there is none: the time is the signer's word")
        return
    require_rfc3161()
    trusted = load_certificates(roots) if roots is not None else []
    assert signature is not None
    for token in tokens:
        read = read_timestamp(token, signature.value, trusted)
        said = f"{read.time:%Y-%m-%d %H:%M:%S} UTC by {read.authority or 'an unnamed authority'}"
        if read.why:
            yield Check("timestamp", "fails", f"{said}: {read.why}")
        elif is_before(read.time, statement.made_at):
            yield Check("timestamp", "fails", f"{said}, before the time that the signer states")
        elif not read.trusted:
            yield Check("timestamp", "unchecked", f"{said}; give --timestamp-root to check it")
        else:
            yield Check("timestamp", "holds", said)


def _check_model(statement: Statement, model: str | None, recipe: str) -> Iterator[Check]:
    count = len(statement.subjects)
    if model is None:
        yield Check("files", "unchecked", f"{count} stated; give the model to check them")
        yield Check("latent", "unchecked", "give the model to measure it")
        return
    yield _compare_files(statement.subjects, _hash_files(model))
    try:
        measured = open_record(model, recipe)
    except HurefError as error:
        yield Check("latent", "unchecked", f"the model cannot be measured: {one_line(error)}")
        return
    if measured.latent is None or measured.recipe.digest != statement.recipe.digest:
        why = (
            f"made by the recipe '{statement.recipe.name}' {statement.recipe.digest}, this is "
            f"{measured.recipe.digest}; name the right one with --recipe"
        )
        yield Check("latent", "unchecked", why)
        return
    difference = float(np.abs(measured.latent - statement.latent).max())
    why = f"largest difference {difference:.1e}, rounding gives at most {TOLERANCE:.0e}"
    yield Check("latent", "holds" if difference <= TOLERANCE else "fails", why)


def _hash_files(model: str) -> list[Subject]:
    """The files of a model, and of its adapters' bases; of a model that lacks files the others."""
    repository = open_repository(model)
    repositories: Sequence[Repository] = [repository]
    with suppress(HurefError):
        repositories = open_checkpoint(model).repositories
    return hash_model(repositories, base_names(repositories))


def _compare_files(stated: tuple[Subject, ...], found: list[Subject]) -> Check:
    wanted = {one.name: one.sha256 for one in stated}
    there = {one.name: one.sha256 for one in found}
    faults = {
        "missing": sorted(set(wanted) - set(there)),
        "not stated": sorted(set(there) - set(wanted)),
        "other contents": sorted(n for n in wanted if there.get(n, wanted[n]) != wanted[n]),
    }
    parts = [f"{what}: {_few(names)}" for what, names in faults.items() if names]
    if parts:
        return Check("files", "fails", "; ".join(parts))
    return Check("files", "holds", f"{len(stated)} with the stated SHA-256")


def _few(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return one_line(", ".join(names[:LISTED]) + more)


def _check_record(statement: Statement, opens: Path | None, recipe: str) -> Iterator[Check]:
    if opens is None:
        yield Check("commitment", "unchecked", "give the private record with --opens")
        return
    try:
        record = load_record(opens)
    except EditedError as error:
        yield Check("commitment", "fails", one_line(error))
        return
    if not record.salt:
        yield Check("commitment", "fails", "the record has no salt: 'huref attest' did not make it")
        return
    if record.digest != statement.commitment:
        yield Check("commitment", "fails", "this is another record than the committed one")
        return
    yield Check("commitment", "holds", "the record is the one that was committed to")
    yield _compare_record(statement, record, recipe)


def _compare_record(statement: Statement, record: Record, recipe: str) -> Check:
    """Whether a committed record is consistent with the statement and with itself."""
    assert record.terms is not None
    assert record.latent is not None
    stated = (statement.model, statement.revision, statement.recipe)
    if (record.model, record.revision, record.recipe) != stated:
        return Check("record", "fails", "its model or recipe is not the stated one")
    if not np.array_equal(record.latent, statement.latent):
        return Check("record", "fails", "its latent is not the stated one")
    loaded, encoder, _ = load_recipe(recipe)
    if loaded.encoder != record.recipe.encoder:
        return Check("record", "unchecked", "the encoder of its recipe is not here")
    encoded = cached_encoder(encoder).encode(record.terms).numpy()
    difference = float(np.abs(encoded - statement.latent).max())
    why = f"its terms give the stated latent, largest difference {difference:.1e}"
    if difference > TOLERANCE:
        return Check("record", "fails", "its terms do not give the stated latent")
    return Check("record", "holds", why)


def _check_verdicts(statement: Statement) -> Iterator[Check]:
    for pair in statement.lineage:
        said = f"{pair['verdict'] or 'no verdict'} beside {one_line(pair['base'])}, as the signer "
        said += "measured; 'huref compare' measures it again"
        yield Check("verdict", "unchecked", said)


def _verify_picture(
    path: Path, key: PublicKey | None, model: str | Path | None, opens: str | Path | None
) -> Verification:
    if model is not None or opens is not None:
        raise EvidenceError(
            "a picture is checked alone", advice="compare it with a model by 'huref compare'"
        )
    try:
        text, _ = read_png(path)
        if text.get(KIND) == ENDPOINT:
            seal: Seal | None = check_endpoint_picture(path)
        else:
            seal = read_picture(path).seal
    except EditedError as error:
        return Verification(str(path), "picture", (Check("picture", "fails", error.what),))
    assert seal is not None
    checks = [Check("picture", "holds", "its digest fits its texts and pixels")]
    if not seal.pixels_checked:
        checks.append(Check("pixels", "unchecked", "its decoder is not installed"))
    else:
        checks.append(Check("pixels", "holds", "they are what the recipe draws from the latent"))
    if not seal.signer:
        status: Status = "fails" if key else "unchecked"
        checks.append(Check("signature", status, "it is unsigned"))
    elif key is None:
        checks.append(Check("signature", "unchecked", f"by {seal.signer}; give its --key"))
    elif key.id != seal.signer:
        why = f"{key.id[:SHOWN]} did not sign it; it names {seal.signer[:SHOWN]}"
        checks.append(Check("signature", "fails", why))
    else:
        checks.append(Check("signature", "holds", f"by {seal.signer}"))
    return Verification(str(path), "picture", tuple(checks))
