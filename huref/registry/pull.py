"""Fetches a registry that somebody published, and adds it to one of the user's own."""

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit, urlunsplit

from huref.errors import HurefError, NetworkError, RecipeError, RegistryError, locating
from huref.evidence.keys import PublicKey
from huref.loader.model_name import is_hub_id
from huref.progress import Bar
from huref.registry.exchange import read_jsonl
from huref.registry.publication import (
    DIGEST,
    SIGNATURE,
    check_digest,
    check_signature,
    parse_digest,
)
from huref.registry.store import Store, refuse_unfit
from huref.registry.stores import create_store, open_store

FILE = "registry.jsonl"  # in a dataset of the Hub, where no other file is named
LARGEST = 4 * 1024**3  # bytes; 14 kB a model
LARGEST_NOTE = 64 * 1024  # bytes of a digest or a signature
_DATASET = re.compile(
    r"(?:(?:https://)?huggingface\.co/|hf://)?datasets/(?P<repo>[^/@]+/[^/@]+)"
    r"(?:@(?P<at>[^/]+)|/(?:blob|resolve|tree)/(?P<revision>[^/]+))?(?:/(?P<file>[^?#]+))?"
)


@dataclass(frozen=True)
class Pulled:
    """What was fetched.

    Attributes:
        url: from where.
        uri: the registry that has it now.
        sha256: of the fetched file.
        signer: key id of who signed the file, or None where no key was given.
        models: number of entries in the file.
        added: number of those that were not in the registry.
    """

    url: str
    uri: str
    sha256: str
    signer: str | None
    models: int
    added: int


def pull(source: str, uri: str, *, sha256: str = "", key: PublicKey | None = None) -> Pulled:
    """Fetch a published registry and add its entries to the registry at `uri`, or create that.

    Nothing is added unless the whole file fits its digest and, given a key, its signature.

    Args:
        source: address of a .jsonl file that `huref registry export` wrote, or a data set of the
            Hub: `org/name`, `datasets/org/name@revision/FILE` or its address.
        uri: a registry, or where to create one.
        sha256: of the file; "" takes it from the .sha256 file beside it.
        key: the publisher's, for the .sig file beside it.

    Raises:
        RegistryError: the file does not fit its digest or signature, is no registry, or was made
            by another recipe than the registry's.
        NetworkError: it cannot be fetched.
    """
    url = address_of(source)
    store = _existing(uri)
    with tempfile.TemporaryDirectory(prefix="huref-pull-") as folder:
        path = Path(folder) / FILE
        digest = sha256.lower() or _published_digest(url)
        signature = _note(url, SIGNATURE) if key is not None else None
        if key is not None:
            if signature is None:
                raise RegistryError(f"there is no signature at {beside(url, SIGNATURE)}", file=url)
            check_signature(digest, signature, key, url)
        with path.open("wb") as file:
            _fetch(url, file.write, LARGEST)
        check_digest(path, digest, url)
        with locating(file=url):
            models, added, uri = _add(path, store, uri)
    return Pulled(url, uri, digest, key.id if key else None, models, added)


def _existing(uri: str) -> Store | None:
    try:
        return open_store(uri)
    except RegistryError:
        if "://" not in uri and Path(uri).expanduser().exists():
            raise
        return None


def _add(path: Path, store: Store | None, uri: str) -> tuple[int, int, str]:
    recipe, entries = read_jsonl(path)
    models = 0
    for entry in entries:  # before anything is created
        refuse_unfit([entry], recipe, uri)
        models += 1
    if not models:
        raise RegistryError("it has no models")
    if store is not None and store.recipe.digest != recipe.digest:
        raise RecipeError(
            f"made by the recipe '{recipe.name}' {recipe.digest}, but the registry {store.uri} has "
            f"'{store.recipe.name}' {store.recipe.digest}",
            advice="give another registry with -o",
        )
    store = store or create_store(uri, recipe)
    return models, store.add(read_jsonl(path)[1]), store.uri


def address_of(source: str) -> str:
    """The address of a published registry.

    Raises:
        RegistryError: it is neither an https address (http only on this machine) nor a data set.
    """
    from huggingface_hub import constants

    from huref.loader.hub.addresses import is_private

    if match := _DATASET.fullmatch(source):
        revision = match["at"] or match["revision"] or "main"
        name = match["file"] or FILE
        path = f"{match['repo']}/resolve/{quote(revision, safe='')}/{quote(name)}"
        return f"{constants.ENDPOINT}/datasets/{path}"
    if source.count("/") == 1 and is_hub_id(source):
        return f"{constants.ENDPOINT}/datasets/{source}/resolve/main/{FILE}"
    try:
        parts = urlsplit(source)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise RegistryError("it is no valid address", file=source) from None
    if parts.scheme == "https" and host and not parts.username:
        return source
    if parts.scheme == "http" and host and is_private(host) and not parts.username:
        return source
    raise RegistryError(
        "it is neither an https address nor a data set of the Hub",
        file=source,
        advice="give https://.../FILE.jsonl or org/name",
    )


def beside(url: str, suffix: str) -> str:
    """The address of a file beside another one, with its query kept."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path + suffix))


def _published_digest(url: str) -> str:
    text = _note(url, DIGEST)
    if text is None:
        raise RegistryError(
            f"there is no digest at {beside(url, DIGEST)}",
            file=url,
            advice="give it with --sha256, from a place that you trust",
        )
    return parse_digest(text, beside(url, DIGEST))


def _note(url: str, suffix: str) -> str | None:
    """A short file beside another one; None where there is none."""
    data = bytearray()
    try:
        _fetch(beside(url, suffix), data.extend, LARGEST_NOTE)
    except MissingError:
        return None
    return data.decode("utf-8", "replace")


class MissingError(RegistryError):
    """There is no file at an address."""


def _fetch(url: str, write: Callable[[bytes], object], largest: int) -> None:
    """Pass the bytes at an address on.

    Raises:
        MissingError: there is nothing at the address.
        NetworkError: it cannot be read as a whole.
    """
    from huggingface_hub.utils import httpx

    from huref.loader.hub.answers import opened, paced, refuse_encoding

    received = 0
    try:
        with (
            opened(url, {}, named=url) as response,
            Bar(_file_of(url), unit="B", leave=False) as bar,
        ):
            if response.status_code == 404:
                raise MissingError("there is no such file", file=url)
            if response.status_code != 200:
                raise NetworkError(f"the server answers with {response.status_code}", file=url)
            refuse_encoding(response)
            length = response.headers.get("Content-Length", "")
            bar.total = int(length) if length.isdecimal() and len(length) < 16 else None
            for chunk in paced(response.iter_raw()):
                received += len(chunk)
                if received > largest:
                    raise RegistryError(f"it has more than {largest:,} bytes", file=url)
                write(chunk)
                bar.update(len(chunk))
    except httpx.HTTPError as error:
        where = f" after {received:,} bytes" if received else ""
        raise NetworkError(
            f"the connection failed{where} ({type(error).__name__})",
            file=url,
            advice="try again; nothing was added",
        ) from error
    except HurefError as error:
        error.file = error.file or url
        raise


def _file_of(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name
