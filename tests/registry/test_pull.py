"""Registries that are published and fetched, over the loopback address."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner, Result
from huggingface_hub import constants

from huref.cli import main
from huref.recipe import load_recipe
from huref.registry.pull import address_of
from huref.registry.stores import create_store, open_store
from tests.docs.test_json import validator
from tests.registry.test_map import make_families
from tests.support.timestamp_server import openssl

FILE = "registry.jsonl"


class Shelf(BaseHTTPRequestHandler):
    """Answers GET from a dictionary; a value may be cut off half-way or redirected."""

    files: ClassVar[dict[str, bytes]] = {}
    cut: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        data = self.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if self.path in self.cut else data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def shelf() -> Iterator[str]:
    Shelf.files, Shelf.cut = {}, set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shelf)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an exported registry of three models, its digest and its signature."""
    folder = tmp_path_factory.mktemp("published")
    store = create_store(str(folder / "bases"), load_recipe()[0])
    store.add(make_families(0)[:3])
    openssl("genpkey", "-algorithm", "ed25519", "-out", folder / "key.pem")
    openssl("pkey", "-in", folder / "key.pem", "-pubout", "-out", folder / "key.pub")
    openssl("genpkey", "-algorithm", "ed25519", "-out", folder / "other.pem")
    openssl("pkey", "-in", folder / "other.pem", "-pubout", "-out", folder / "other.pub")
    out = folder / FILE
    done = run("registry", "export", store.uri, "-o", out, "--key", folder / "key.pem")
    assert done.exit_code == 0, done.output
    return folder


def put(folder: Path, at: str = f"/{FILE}") -> None:
    for suffix in ("", ".sha256", ".sig"):
        Shelf.files[at + suffix] = (folder / f"{FILE}{suffix}").read_bytes()


def test_the_digest_is_what_sha256sum_writes(published: Path) -> None:
    digest, name = (published / f"{FILE}.sha256").read_text().split()
    stated = openssl("dgst", "-sha256", published / FILE)
    assert digest in str(stated) or len(digest) == 64
    assert name == FILE


def test_a_signed_registry_is_fetched_twice(shelf: str, published: Path, tmp_path: Path) -> None:
    put(published)
    uri = tmp_path / "bases"
    arguments = ("registry", "pull", f"{shelf}/{FILE}", "-o", uri, "--key", published / "key.pub")
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert "3 models, 3 new" in done.stdout
    assert "signed by" in done.stdout
    assert len(open_store(str(uri))) == 3
    again = json.loads(run(*arguments, "--json").stdout)
    validator("registry-pull").validate(again)
    assert (again["models"], again["added"]) == (3, 0)
    assert again["signer"]


def test_a_data_set_of_the_hub(
    shelf: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", shelf)
    monkeypatch.setenv("HUREF_HOME", str(tmp_path))
    put(published, f"/datasets/org/bases/resolve/main/{FILE}")
    done = run("registry", "pull", "org/bases")
    assert done.exit_code == 0, done.output
    assert "see --key" in done.stdout
    assert len(open_store(str(tmp_path / "registry"))) == 3


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("datasets/a/b", "a/b/resolve/main/registry.jsonl"),
        ("hf://datasets/a/b/x.jsonl", "a/b/resolve/main/x.jsonl"),
        ("datasets/a/b@v1/x/y.jsonl", "a/b/resolve/v1/x/y.jsonl"),
        ("https://huggingface.co/datasets/a/b", "a/b/resolve/main/registry.jsonl"),
        ("https://huggingface.co/datasets/a/b/blob/main/x.jsonl", "a/b/resolve/main/x.jsonl"),
        ("https://huggingface.co/datasets/a/b/tree/v2", "a/b/resolve/v2/registry.jsonl"),
    ],
)
def test_addresses_of_data_sets(source: str, path: str) -> None:
    assert address_of(source) == f"{constants.ENDPOINT}/datasets/{path}"


@pytest.mark.parametrize(
    "source",
    ["", "x", "http://example.com/x.jsonl", "ftp://a/b", "file:///etc/passwd", "/etc/passwd",
     "https://", "https://user:secret@a/b", "http://[", "a/b/c", "../x/y"],
)  # fmt: skip
def test_other_sources_are_refused_in_a_line(source: str, tmp_path: Path) -> None:
    done = run("registry", "pull", source, "-o", tmp_path / "bases")
    assert done.exit_code == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "bases").exists()


def _edit(fault: str) -> None:
    path = f"/{FILE}"
    match fault:
        case "edited":
            Shelf.files[path] = Shelf.files[path].replace(b"Base-0", b"Base-9")
        case "entry dropped":
            Shelf.files[path] = b"".join(Shelf.files[path].splitlines(keepends=True)[:-1])
        case "cut off":
            Shelf.cut.add(path)
        case "no digest":
            del Shelf.files[f"{path}.sha256"]
        case "no signature":
            del Shelf.files[f"{path}.sig"]
        case "digest of nothing":
            Shelf.files[f"{path}.sha256"] = b"\xff" * 64
        case "missing":
            del Shelf.files[path]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("edited", "its SHA-256 is"),
        ("entry dropped", "its SHA-256 is"),
        ("cut off", "the connection failed"),
        ("no digest", "--sha256"),
        ("no signature", "no signature"),
        ("digest of nothing", "no SHA-256"),
        ("missing", "no such file"),
    ],
)
def test_nothing_is_added_of_a_damaged_file(
    shelf: str, published: Path, tmp_path: Path, fault: str, words: str
) -> None:
    put(published)
    _edit(fault)
    uri = tmp_path / "bases"
    done = run(*("registry", "pull", f"{shelf}/{FILE}", "-o", uri, "--key", published / "key.pub"))
    assert done.exit_code == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not uri.exists()


def test_a_file_of_another_digest_and_signature_is_refused(
    shelf: str, published: Path, tmp_path: Path
) -> None:
    """The publisher of an edited file writes a fitting digest; only the key tells."""
    put(published)
    other = tmp_path / FILE
    other.write_bytes((published / FILE).read_bytes().replace(b"Base-0", b"Base-9"))
    from huref.evidence.keys import load_signer
    from huref.registry.publication import publish

    publish(other, load_signer(published / "other.pem"))
    put(tmp_path)
    arguments = ("registry", "pull", f"{shelf}/{FILE}", "-o", tmp_path / "bases")
    refused = run(*arguments, "--key", published / "key.pub")
    assert refused.exit_code == 1
    assert "did not sign it" in refused.stderr
    assert not (tmp_path / "bases").exists()
    assert run(*arguments, "--key", published / "other.pub").exit_code == 0
    wrong = run(*arguments, "--sha256", "0" * 64)
    assert wrong.exit_code == 1


def test_what_is_no_registry_is_refused(shelf: str, published: Path, tmp_path: Path) -> None:
    from huref.registry.publication import publish

    for text in (b"", b"{}\n", b"<html>", b"\x00" * 99):
        (tmp_path / FILE).write_bytes(text)
        publish(tmp_path / FILE)
        for suffix in ("", ".sha256"):
            Shelf.files[f"/{FILE}{suffix}"] = (tmp_path / f"{FILE}{suffix}").read_bytes()
        done = run("registry", "pull", f"{shelf}/{FILE}", "-o", tmp_path / "bases")
        assert done.exit_code == 1
        assert not (tmp_path / "bases").exists()
