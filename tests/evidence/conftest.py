import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from huref.cli import main
from huref.evidence.envelope import sign_payload
from huref.evidence.keys import load_signer
from huref.evidence.statement import PAYLOAD_TYPE
from tests.support.timestamp_server import TimestampAuthority, openssl
from tests.support.zoo import ZOO

MODEL = ZOO / "llama-a-finetune"
BASE = ZOO / "llama-a"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@dataclass(frozen=True)
class Keys:
    """PEM files of a private key and its public half."""

    private: Path
    public: Path


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Keys]:
    """Keys as openssl makes them, by kind; "other" is a second Ed25519 key."""
    folder = tmp_path_factory.mktemp("keys")
    kinds = {
        "ed25519": ["-algorithm", "ed25519"],
        "other": ["-algorithm", "ed25519"],
        "p256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        "p384": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        "rsa": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    }
    made = {}
    for name, arguments in kinds.items():
        pair = Keys(folder / f"{name}.pem", folder / f"{name}.pub")
        openssl("genpkey", *arguments, "-out", pair.private)
        openssl("pkey", "-in", pair.private, "-pubout", "-out", pair.public)
        made[name] = pair
    return made


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimestampAuthority]:
    with TimestampAuthority(tmp_path_factory.mktemp("authority") / "keys") as server:
        yield server


@dataclass(frozen=True)
class Attested:
    """A timestamped statement of MODEL with its private record."""

    file: Path
    record: Path
    key: Keys

    @property
    def envelope(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.file.read_text("utf-8"))
        return data

    @property
    def statement(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(b64decode(self.envelope["payload"]))
        return data

    def sign_again(self, statement: dict[str, Any], out: Path, payload_type: str = "") -> Path:
        """A statement that the same key signs, as its owner could."""
        payload = json.dumps(statement).encode()
        signer = load_signer(self.key.private)
        out.write_text(sign_payload(payload_type or PAYLOAD_TYPE, payload, signer).to_json())
        return out

    def write(self, envelope: dict[str, Any], out: Path) -> Path:
        out.write_text(json.dumps(envelope), "utf-8")
        return out


@pytest.fixture(scope="session")
def attested(
    keys: dict[str, Keys], authority: TimestampAuthority, tmp_path_factory: pytest.TempPathFactory
) -> Attested:
    folder = tmp_path_factory.mktemp("attested")
    made = Attested(folder / "a.json", folder / "r.safetensors", keys["p256"])
    result = run(
        *("attest", MODEL, "--key", made.key.private, "-o", made.file, "--base", BASE),
        *("--record", made.record, "--timestamp", authority.url),
    )
    assert result.exit_code == 0, result.output
    return made


@pytest.fixture
def checks() -> Callable[..., dict[str, str]]:
    """Runs `huref verify --json` and returns the status of each check."""

    def verify(*arguments: object, exit_code: int = 0) -> dict[str, str]:
        result = run("verify", *arguments, "--json")
        assert result.exit_code == exit_code, result.output
        data = json.loads(result.stdout)
        return {one["name"]: one["status"] for one in data["checks"]}

    return verify


def encoded(value: object) -> str:
    return b64encode(json.dumps(value).encode()).decode()
