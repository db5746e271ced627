"""`huref attest` and `huref verify`, held against openssl and against edits of every field."""

import copy
import hashlib
import json
import shutil
import socket
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import huref
from huref.errors import EvidenceError, NetworkError
from huref.evidence.envelope import parse_envelope
from huref.evidence.statement import PREDICATE
from huref.loader.model_name import open_repository
from tests.evidence.conftest import BASE, MODEL, Attested, Keys, run
from tests.support.hub_server import LoopbackHub
from tests.support.timestamp_server import TimestampAuthority, openssl
from tests.support.zoo import ROOT, ZOO

Checks = Callable[..., dict[str, str]]


def test_a_statement_is_what_its_schema_says(attested: Attested) -> None:
    path = ROOT / "docs" / "schemas" / "predicates" / "lineage-1.json"
    schema = json.loads(path.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    statement = attested.statement
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == PREDICATE == schema["$id"].removesuffix("#")
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(statement["predicate"])
    for key in statement["predicate"]:
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({k: v for k, v in statement["predicate"].items() if k != key})
    [pair] = statement["predicate"]["lineage"]
    assert (pair["base"], pair["verdict"]) == ("llama-a", "descends")


def test_subjects_are_the_files_as_sha256sum_has_them(attested: Attested) -> None:
    named = {one["name"]: one["digest"]["sha256"] for one in attested.statement["subject"]}
    files = [path for path in MODEL.iterdir() if path.suffix in (".json", ".safetensors")]
    assert named == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_no_folder_of_this_machine_is_stated(attested: Attested) -> None:
    text = json.dumps(attested.statement)
    assert str(ZOO) not in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
def test_openssl_verifies_the_signature(
    attested: Attested, keys: dict[str, Keys], tmp_path: Path, kind: str
) -> None:
    made = Attested(attested.file, attested.record, keys[kind])
    path = made.sign_again(attested.statement, tmp_path / "s.json")
    envelope = parse_envelope(path.read_bytes())
    (tmp_path / "message").write_bytes(envelope.signed_bytes)
    (tmp_path / "signature").write_bytes(envelope.signatures[0].value)
    kind_of_digest = ["-digest", "sha256"] if kind == "p256" else []
    done = openssl(
        *("pkeyutl", "-verify", "-pubin", "-inkey", keys[kind].public, "-rawin", *kind_of_digest),
        *("-in", tmp_path / "message", "-sigfile", tmp_path / "signature"),
    )
    assert b"Verified Successfully" in done
    der = openssl("pkey", "-pubin", "-in", keys[kind].public, "-outform", "DER")
    digest = openssl("dgst", "-sha256", "-r", data=der).split()[0].decode()
    assert envelope.signatures[0].key_id == digest


def test_openssl_verifies_the_timestamp(
    attested: Attested, authority: TimestampAuthority, tmp_path: Path
) -> None:
    [signature] = attested.envelope["signatures"]
    (tmp_path / "sig").write_bytes(b64decode(signature["sig"]))
    (tmp_path / "tsr").write_bytes(b64decode(signature["timestamps"][0]["data"]))
    files = ("-data", tmp_path / "sig", "-in", tmp_path / "tsr", "-CAfile", authority.root)
    assert b"Verification: OK" in openssl("ts", "-verify", *files)


def test_everything_holds(
    attested: Attested, authority: TimestampAuthority, checks: Checks
) -> None:
    found = checks(
        *(attested.file, MODEL, "--key", attested.key.public, "--opens", attested.record),
        *("--timestamp-root", authority.root),
    )
    assert found.pop("verdict") == "unchecked"
    assert set(found.values()) == {"holds"}
    assert set(found) == {"signature", "timestamp", "files", "latent", "commitment", "record"}


def test_without_a_model_or_a_key_it_says_what_was_not_checked(
    attested: Attested, checks: Checks
) -> None:
    found = checks(attested.file, "--key", attested.key.public)
    assert [name for name, status in found.items() if status == "holds"] == ["signature"]
    assert set(checks(attested.file, exit_code=1).values()) == {"unchecked"}
    assert checks(attested.file, "--opens", attested.record)["commitment"] == "holds"


def test_a_wrong_key_is_a_failure_in_one_line(attested: Attested, keys: dict[str, Keys]) -> None:
    result = run("verify", attested.file, "--key", keys["ed25519"].public)
    assert result.exit_code == 3
    assert result.stderr.count("\n") == 1
    assert "did not sign it" in result.stderr


def test_another_model_is_told_apart(attested: Attested, checks: Checks) -> None:
    found = checks(attested.file, BASE, "--key", attested.key.public, exit_code=3)
    assert (found["files"], found["latent"]) == ("fails", "fails")


def test_a_model_whose_files_changed(attested: Attested, tmp_path: Path, checks: Checks) -> None:
    arguments = ("--key", attested.key.public)
    copied = tmp_path / "model"
    shutil.copytree(MODEL, copied)
    assert checks(attested.file, copied, *arguments)["files"] == "holds"
    text = (copied / "tokenizer_config.json").read_text("utf-8")
    (copied / "tokenizer_config.json").write_text(text + "\n", "utf-8")
    found = checks(attested.file, copied, *arguments, exit_code=3)
    assert (found["files"], found["latent"]) == ("fails", "holds")
    shutil.copy(MODEL / "tokenizer_config.json", copied)
    (copied / "extra.safetensors").write_bytes(b"x")
    assert "not stated: extra.safetensors" in run("verify", attested.file, copied).output
    (copied / "extra.safetensors").unlink()
    (copied / "model.safetensors").unlink()
    result = run("verify", attested.file, copied, *arguments)
    assert result.exit_code == 3
    assert "missing: model.safetensors" in result.stderr
    assert result.stderr.count("\n") == 1


def test_another_record_does_not_open_the_commitment(
    attested: Attested, tmp_path: Path, checks: Checks, keys: dict[str, Keys]
) -> None:
    huref.fingerprint(MODEL, record=tmp_path / "unsalted.safetensors")
    arguments = ("--key", attested.key.public, "--opens")
    result = run("verify", attested.file, *arguments, tmp_path / "unsalted.safetensors")
    assert (result.exit_code, "no salt" in result.stderr) == (3, True)
    huref.attest(MODEL, key=keys["ed25519"].private, record=tmp_path / "salted.safetensors")
    found = checks(attested.file, *arguments, tmp_path / "salted.safetensors", exit_code=3)
    assert found["commitment"] == "fails"
    assert run("verify", attested.file, *arguments, tmp_path / "none").exit_code == 1


def test_two_commitments_to_one_model_have_nothing_in_common(
    attested: Attested, keys: dict[str, Keys]
) -> None:
    made = huref.attest(MODEL, key=keys["ed25519"].private)
    assert made.statement.commitment != attested.statement["predicate"]["commitment"]["sha256"]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a JSON value that holds no other value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, dict | list) and inner:
            yield from leaves(inner, (*path, key))
        yield (*path, key)


def mutants(value: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a JSON value, in each of which one part is changed or removed."""
    for path in leaves(value):
        for edit in ("changed", "removed", "null"):
            mutant = copy.deepcopy(value)
            holder = mutant
            for key in path[:-1]:
                holder = holder[key]
            before = holder[path[-1]]
            if edit == "removed":
                del holder[path[-1]]
            elif edit == "null":
                holder[path[-1]] = None
            elif isinstance(before, str):
                letter = "B" if before[:1] == "A" else "A"
                holder[path[-1]] = letter + before[1:]
            elif isinstance(before, bool):
                holder[path[-1]] = not before
            elif isinstance(before, int | float):
                holder[path[-1]] = before + 1
            else:
                holder[path[-1]] = [] if isinstance(before, dict) else {}
            if mutant != value:
                yield f"{edit} {'/'.join(map(str, path))}", mutant


def test_no_edit_of_a_statement_is_accepted(attested: Attested, tmp_path: Path) -> None:
    """The payload is signed, so that every edit of it is one of the signature."""
    count = 0
    for name, statement in mutants(attested.statement):
        payload = b64encode(json.dumps(statement, sort_keys=True).encode()).decode()
        path = attested.write(attested.envelope | {"payload": payload}, tmp_path / "m.json")
        result = run("verify", path, "--key", attested.key.public)
        assert result.exit_code == 3, (name, result.output)
        assert result.stderr.count("\n") == 1
        count += 1
    assert count > 200


def test_no_edit_of_an_envelope_is_accepted(
    attested: Attested, authority: TimestampAuthority, tmp_path: Path
) -> None:
    count = 0
    for name, envelope in mutants(attested.envelope):
        path = attested.write(envelope, tmp_path / "m.json")
        arguments = ("--key", attested.key.public, "--timestamp-root", authority.root)
        result = run("verify", path, *arguments)
        if name in ("removed signatures/0/keyid", "null signatures/0/keyid"):
            assert result.exit_code == 0, name  # a hint, optional in DSSE
            continue
        assert result.exit_code in (1, 3), (name, result.output)
        assert result.stderr.count("\n") == 1
        count += 1
    assert count > 20


def test_no_bit_of_a_signature_or_token_can_be_flipped(
    attested: Attested, authority: TimestampAuthority, tmp_path: Path
) -> None:
    arguments = ("--key", attested.key.public, "--timestamp-root", authority.root)
    for part in ("sig", "token"):
        size = len(b64decode(attested.envelope["signatures"][0]["sig"]))
        for place in range(0, size, 7):
            envelope = attested.envelope
            [signature] = envelope["signatures"]
            holder, key = (signature, "sig")
            if part == "token":
                holder, key = signature["timestamps"][0], "data"
            data = bytearray(b64decode(holder[key]))
            data[place * len(data) // size] ^= 1
            holder[key] = b64encode(data).decode()
            result = run("verify", attested.write(envelope, tmp_path / "m.json"), *arguments)
            assert result.exit_code in (1, 3), (part, place, result.output)


def test_a_statement_that_contradicts_itself_is_refused_though_signed(
    attested: Attested, tmp_path: Path
) -> None:
    changes: tuple[dict[str, Any], ...] = (
        {"recipe_digest": "0" * 12},
        {"picture_digest": "0" * 12},
        {"latent": "AAAA"},
        {"commitment": {"scheme": "huref record 1", "sha256": "zz"}},
        {"made_at": "yesterday"},
        {"lineage": [{"base": "x"}]},
        {"recipe": {}},
    )
    for change in changes:
        statement = attested.statement
        statement["predicate"] |= change
        path = attested.sign_again(statement, tmp_path / "s.json")
        result = run("verify", path, "--key", attested.key.public)
        assert result.exit_code == 1, (change, result.output)
        assert result.stderr.count("\n") == 1


def test_a_latent_that_its_owner_made_up_is_found(
    attested: Attested, tmp_path: Path, checks: Checks
) -> None:
    import numpy as np

    statement = attested.statement
    latent = np.frombuffer(b64decode(statement["predicate"]["latent"]), "<f4").copy()
    latent[7] += 0.01
    statement["predicate"]["latent"] = b64encode(latent.tobytes()).decode()
    path = attested.sign_again(statement, tmp_path / "s.json")
    arguments = (path, MODEL, "--key", attested.key.public, "--opens", attested.record)
    found = checks(*arguments, exit_code=3)
    assert (found["latent"], found["record"]) == ("fails", "fails")
    assert (found["signature"], found["files"]) == ("holds", "holds")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"predicateType": "https://slsa.dev/provenance/v1"}, "another type"),
        ({"predicateType": f"{PREDICATE[:-1]}2"}, "newer huref"),
        ({"_type": "https://in-toto.io/Statement/v2"}, "not an in-toto Statement v1"),
        ({"subject": []}, "contradicts itself"),
        ({"subject": [{"name": "x", "digest": {"sha1": "00"}}]}, "incomplete"),
    ],
)
def test_statements_of_another_kind(
    attested: Attested, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = attested.sign_again(attested.statement | change, tmp_path / "s.json")
    result = run("verify", path, "--key", attested.key.public)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert words in result.stderr
    assert str(path) in result.stderr


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-3],
        lambda data: b"\x00" + data,
        lambda data: b"[]",
        lambda data: b"{}",
        lambda data: b"[" * 100_000,
        lambda data: data.replace(b'"payload"', b'"payload": "AAAA", "payload"'),
        lambda data: data.replace(b'"signatures"', b'"signature"'),
        lambda data: b'{"payloadType": 3, "payload": "AAAA", "signatures": [{}]}',
        lambda data: b'{"payloadType": "x", "payload": "AAAA", "signatures": [7]}',
        lambda data: b"PK\x03\x04 not text \xff",
    ],
)
def test_files_that_are_no_statement(
    attested: Attested, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(damage(attested.file.read_bytes()))
    result = run("verify", path, "--key", attested.key.public)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert str(path) in result.stderr


def test_timestamps_of_others(
    attested: Attested, authority: TimestampAuthority, tmp_path: Path, checks: Checks
) -> None:
    """A foreign root, an expired certificate, another statement's token, none at all."""
    arguments = ("--key", attested.key.public)
    with TimestampAuthority(tmp_path / "expired", expired=True) as expired:
        foreign = (attested.file, *arguments, "--timestamp-root", expired.root)
        assert checks(*foreign, exit_code=3)["timestamp"] == "fails"
        late = tmp_path / "late.json"
        result = run("attest", MODEL, "--key", attested.key.private, "-o", late,
                     "--timestamp", expired.url)  # fmt: skip
        assert result.exit_code == 0, result.output
        found = checks(late, *arguments, "--timestamp-root", expired.root, exit_code=3)
        assert found["timestamp"] == "fails"
    envelope, other = attested.envelope, json.loads(late.read_text("utf-8"))
    envelope["signatures"][0]["timestamps"] = other["signatures"][0]["timestamps"]
    moved = attested.write(envelope, tmp_path / "moved.json")
    result = run("verify", moved, *arguments)
    assert (result.exit_code, "covers other bytes" in result.stderr) == (3, True)
    del envelope["signatures"][0]["timestamps"]
    stripped = attested.write(envelope, tmp_path / "stripped.json")
    assert checks(stripped, *arguments, exit_code=3)["timestamp"] == "fails"
    statement = attested.statement
    statement["predicate"]["made_at"] = "2099-01-01T00:00:00Z"
    future = attested.sign_again(statement, tmp_path / "future.json")
    signature = json.loads(future.read_text("utf-8"))
    query = tmp_path / "query"
    (tmp_path / "sig").write_bytes(b64decode(signature["signatures"][0]["sig"]))
    openssl("ts", "-query", "-data", tmp_path / "sig", "-sha256", "-cert", "-out", query)
    token = b64encode(authority.reply(query.read_bytes())).decode()
    signature["signatures"][0]["timestamps"] = [{"type": "rfc3161", "data": token}]
    result = run("verify", attested.write(signature, future), *arguments)
    assert (result.exit_code, "before the time" in result.stderr) == (3, True)


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (500, b"", "answers 500"),
        (200, b"<html>log in</html>", "not an RFC 3161 timestamp"),
        (200, b"", "not an RFC 3161 timestamp"),
        (200, bytes.fromhex("30053003020102"), "refuses"),
    ],
)
def test_authorities_that_give_no_token(
    keys: dict[str, Keys], tmp_path: Path, status: int, answer: bytes, words: str
) -> None:
    with TimestampAuthority(tmp_path / "keys") as server:
        server.status, server.answer = status, answer
        arguments = ("--key", keys["p256"].private, "-o", tmp_path / "a.json")
        result = run("attest", MODEL, *arguments, "--timestamp", server.url)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert words in result.stderr
    assert not (tmp_path / "a.json").exists()
    for url in ("ftp://x/", "localhost", server.url):
        result = run("attest", MODEL, *arguments, "--timestamp", url)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output


def test_a_password_in_an_authoritys_address_is_not_stated(
    keys: dict[str, Keys], authority: TimestampAuthority
) -> None:
    from huref.evidence.timestamp import public_address

    url = authority.url.replace("http://", "http://me:secret@") + "?token=secret"
    assert public_address(url) == authority.url


def test_keys_that_cannot_sign_or_verify(
    attested: Attested, keys: dict[str, Keys], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "locked.pem"
    openssl("pkey", "-in", keys["p256"].private, "-aes256", "-passout", "pass:open", "-out", locked)
    (tmp_path / "text.pem").write_text("hello", "utf-8")
    head = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    (tmp_path / "damaged.pem").write_text(head, "utf-8")
    out = tmp_path / "a.json"
    cases = {
        locked: "has a password",
        tmp_path / "text.pem": "not a key in PEM",
        tmp_path / "damaged.pem": "not a private key",
        tmp_path / "none.pem": "cannot be read",
        keys["rsa"].private: "Ed25519 or ECDSA P-256",
        keys["p384"].private: "Ed25519 or ECDSA P-256",
        keys["p256"].public: "public key",
        tmp_path: "cannot be read",
    }
    for path, words in cases.items():
        result = run("attest", MODEL, "--key", path, "-o", out)
        if path == tmp_path:
            assert result.exit_code == 2
            continue
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
        assert words in result.stderr
        assert not out.exists()
    monkeypatch.setenv("HUREF_KEY_PASSWORD", "wrong")
    assert "wrong password" in run("attest", MODEL, "--key", locked, "-o", out).stderr
    monkeypatch.setenv("HUREF_KEY_PASSWORD", "open")
    assert run("attest", MODEL, "--key", locked, "-o", out).exit_code == 0
    assert run("attest", MODEL, "--key", keys["p256"].private, "-o", out).exit_code == 0
    for path in (keys["rsa"].public, keys["p256"].private, tmp_path / "text.pem"):
        result = run("verify", attested.file, "--key", path)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output


def test_only_models_with_files_are_attested(
    attested: Attested, keys: dict[str, Keys], tmp_path: Path
) -> None:
    for model in (attested.record, tmp_path / "none", tmp_path):
        result = run("attest", model, "--key", keys["p256"].private, "-o", tmp_path / "a.json")
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    result = run("attest", MODEL)
    assert result.exit_code == 2


def test_without_the_extra_one_line_names_it(
    attested: Attested, keys: dict[str, Keys], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    for module in ("cryptography", "rfc3161_client", "sigstore", "sigstore.models"):
        monkeypatch.setitem(sys.modules, module, None)
    for arguments in (
        ("attest", MODEL, "--key", keys["p256"].private, "-o", tmp_path / "a.json"),
        ("attest", MODEL, "--keyless", "-o", tmp_path / "a.json"),
        ("verify", attested.file, "--key", attested.key.public),
        ("fingerprint", MODEL, "--key", keys["p256"].private, "-o", tmp_path / "a.png"),
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
        assert "pip install 'huref[" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_python(attested: Attested) -> None:
    found = huref.verify(attested.file, key=attested.key.public)
    assert found.answer == "holds"
    assert found.statement is not None
    assert found.statement.model == MODEL.name
    with pytest.raises(EvidenceError, match="cannot be read"):
        huref.verify(attested.file.parent / "none.json")


@pytest.mark.parametrize(
    "bundle",
    [
        {},
        {"dsseEnvelope": []},
        {"dsseEnvelope": {"payload": "AAAA"}},
        {"dsseEnvelope": {"payloadType": 7, "payload": "AAAA"}},
        {"dsseEnvelope": {"payloadType": "x", "payload": "?"}},
        {"dsseEnvelope": {"payloadType": "x", "payload": "AAAA"}},
    ],
)
def test_damaged_bundles_are_one_line(tmp_path: Path, bundle: dict[str, Any]) -> None:
    kind = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}
    (tmp_path / "b.json").write_text(json.dumps(kind | bundle), "utf-8")
    result = run("verify", tmp_path / "b.json")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output


def test_where_sigstores_servers_are_not_reached_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # its client tries again
    monkeypatch.setenv("HOME", str(tmp_path))  # where a trust root may be cached
    result = run("attest", MODEL, "--keyless", "-o", tmp_path / "a.json")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1), result.output
    assert "sigstore's servers cannot be reached" in result.stderr
    assert "sign with --key" in result.stderr
    assert not (tmp_path / "a.json").exists()


def test_an_authority_that_drips_or_redirects_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huref.evidence import timestamp

    monkeypatch.setattr(timestamp, "PATIENCE", 0.3)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.path == "/redirect":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            for _ in range(40):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    with pytest.raises(NetworkError, match="no timestamp authority answers"):
        timestamp.request_timestamp(f"{url}/drip", b"a")
    with pytest.raises(EvidenceError, match="answers 302"):
        timestamp.request_timestamp(f"{url}/redirect", b"a")
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_digests_that_the_hub_states_are_said_to_be_its_word(
    hub: LoopbackHub, keys: dict[str, Keys], tmp_path: Path, checks: Checks
) -> None:
    """They spare the download; `--read-all` reads, and `verify` always does."""
    hub.add("org/tiny", MODEL)
    weights = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()
    hub.lfs = {"model.safetensors": weights}
    arguments = ("--key", keys["ed25519"].private, "--no-cache")
    out = tmp_path / "a.json"
    result = run("attest", "org/tiny", *arguments, "-o", out)
    assert result.exit_code == 0, result.output
    assert "1 by the SHA-256 that the Hub states, not read" in result.stdout
    statement = json.loads(b64decode(json.loads(out.read_text("utf-8"))["payload"]))
    said = {one["name"]: one.get("annotations") for one in statement["subject"]}
    assert said.pop("model.safetensors") == {"sha256": "stated by the Hub"}
    assert set(said.values()) == {None}
    found = checks(out, "org/tiny", "--key", keys["ed25519"].public)
    assert (found["files"], found["latent"]) == ("holds", "holds")
    hub.lfs = {"model.safetensors": "0" * 64}  # a Hub that is wrong
    assert run("attest", "org/tiny", *arguments, "-o", out).exit_code == 0
    found = checks(out, "org/tiny", "--key", keys["ed25519"].public, exit_code=3)
    assert (found["files"], found["latent"]) == ("fails", "holds")
    result = run("attest", "org/tiny", *arguments, "-o", out, "--read-all")
    assert "not read" not in result.stdout
    assert checks(out, MODEL, "--key", keys["ed25519"].public)["files"] == "holds"
    for odd in ("zz", "A" * 64, 7, None, ["a"]):
        hub.lfs = {"model.safetensors": odd}
        assert open_repository("org/tiny").sha256 == {}  # type: ignore[attr-defined]
