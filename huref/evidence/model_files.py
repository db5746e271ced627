"""SHA-256 of a model's files: weights, configurations, tokenizers and code."""

import hashlib
import re
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from huref.errors import CheckpointError, EvidenceError
from huref.evidence.envelope import parse_json
from huref.loader.checkpoint import WEIGHTS
from huref.loader.ranges import ByteSource, LocalFile
from huref.loader.repository import Repository, read_text

# Beside weights: configurations, indices, tokenizers, chat templates, code that transformers runs.
SUFFIXES = (*WEIGHTS, ".json", ".model", ".tiktoken", ".jinja", ".txt", ".py", ".h5", ".onnx",
            ".msgpack")  # fmt: skip
AT_ONCE = 16 << 20  # bytes read at a time
OMS_SIGNATURES = ("model.sig", "model.sigstore", "model.sigstore.json")
OMS_PREDICATE = "https://model_signing/signature/"
LARGEST_SIGNATURE = 64 << 20  # bytes; a manifest has a line a file
READ, STATED = "read", "stated by the Hub"


@dataclass(frozen=True)
class Subject:
    """A file of a model.

    Attributes:
        name: path inside the model; files of an adapter's base have the base's name in front.
        sha256: hex.
        size: bytes.
        source: READ, or STATED where the Hub's own digest of a large file was taken at a pinned
            commit.
    """

    name: str
    sha256: str
    size: int
    source: str = READ


def hash_model(
    repositories: Sequence[Repository], names: Sequence[str], *, read_all: bool = True
) -> list[Subject]:
    """The files of a model, and of the bases that its adapters are applied to, by name.

    Args:
        repositories: the model's own first.
        names: what the repositories are called in public.
        read_all: whether every file is read; otherwise the digest that the Hub states for a large
            file stands for it, where the file is not on this machine.
    """
    found: list[Subject] = []
    for place, (repository, name) in enumerate(zip(repositories, names, strict=True)):
        prefix = f"{name}/" if place else ""
        found += [
            Subject(prefix + file.name, file.sha256, file.size, file.source)
            for file in _hash_files(repository, read_all)
        ]
    if not found:
        raise EvidenceError("there are no files to attest", model=repositories[0].model)
    return sorted(found, key=lambda subject: subject.name)


def _hash_files(repository: Repository, read_all: bool) -> Iterator[Subject]:
    stated: dict[str, str] = {} if read_all else getattr(repository, "sha256", {})
    for name, size in sorted(repository.files.items()):
        hidden = any(part.startswith(".") for part in name.split("/"))
        is_other = name.endswith(WEIGHTS) and repository.chosen is not None
        if hidden or not name.endswith(SUFFIXES) or (is_other and not _belongs(name, repository)):
            continue
        source = repository.open(name)
        if name in stated and not isinstance(source, LocalFile):
            yield Subject(name, stated[name], size, STATED)
        else:
            yield Subject(name, hash_source(source), size)


def _belongs(name: str, repository: Repository) -> bool:
    """Whether a file of weights is the one that the user named, or a part of it."""
    part = re.compile(r"-\d{5}-of-(\d{5})\.")
    return part.sub(r"-of-\1.", name) == part.sub(r"-of-\1.", repository.chosen or name)


def hash_source(source: ByteSource) -> str:
    """SHA-256 of a whole file, in hex."""
    total = hashlib.sha256()
    for start in range(0, source.size, AT_ONCE):
        total.update(source.read(start, min(start + AT_ONCE, source.size)))
    return total.hexdigest()


def read_oms(repository: Repository, subjects: Sequence[Subject]) -> dict[str, str] | None:
    """The manifest digest of a model that is signed in the OpenSSF Model Signing format.

    The signature itself is for `model_signing verify`; here the manifest's files are held against
    those that were read.

    Returns:
        {"file", "sha256"}, or None for a model that is not signed so.

    Raises:
        EvidenceError: a file differs from the manifest.
    """
    for name in OMS_SIGNATURES:
        if name not in repository.files or repository.files[name] > LARGEST_SIGNATURE:
            continue
        try:
            bundle = parse_json(read_text(repository, name))
            statement = parse_json(b64decode(bundle["dsseEnvelope"]["payload"]))
            if not str(statement["predicateType"]).startswith(OMS_PREDICATE):
                continue
            digest = str(statement["subject"][0]["digest"]["sha256"])
            resources = statement["predicate"]["resources"]
            listed = {
                str(one["name"]): str(one["digest"])
                for one in resources
                if one["algorithm"] == "sha256"
            }
            root = hashlib.sha256(b"".join(bytes.fromhex(one["digest"]) for one in resources))
        except (EvidenceError, CheckpointError, KeyError, TypeError, ValueError, IndexError):
            continue
        if root.hexdigest() != digest:
            raise EvidenceError(
                f"the manifest of its OMS signature '{name}' contradicts itself",
                model=repository.model,
            )
        for subject in subjects:
            if listed.get(subject.name, subject.sha256) != subject.sha256:
                raise EvidenceError(
                    f"'{subject.name}' is not the file that its OMS signature '{name}' covers",
                    model=repository.model,
                )
        return {"file": name, "sha256": digest}
    return None
