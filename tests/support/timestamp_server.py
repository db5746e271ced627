"""A timestamp authority (RFC 3161) on the loopback address; openssl makes keys and tokens."""

import subprocess
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

CONFIG = """
[tsa]
default_tsa = tsa_config
[tsa_config]
serial = {folder}/serial
crypto_device = builtin
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
accuracy = secs:1
ordering = no
tsa_name = no
ess_cert_id_chain = no
ess_cert_id_alg = sha256
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
"""


def openssl(*arguments: object, data: bytes | None = None) -> bytes:
    """Run openssl and return what it prints."""
    done = subprocess.run(
        ["openssl", *map(str, arguments)], input=data, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


class TimestampAuthority:
    """A root certificate, and a server whose tokens lead to it.

    Args:
        folder: for its keys.
        expired: whether the signing certificate ended a month ago.
    """

    def __init__(self, folder: Path, *, expired: bool = False):
        folder.mkdir()
        self.folder = folder
        self.root = folder / "root.pem"
        self.answer: bytes | None = None  # given instead of a token
        self.status = 200
        config = folder / "openssl.cnf"
        config.write_text(CONFIG.format(folder=folder), "utf-8")
        (folder / "serial").write_text("01\n", "utf-8")
        for name in ("root", "leaf"):
            openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256",
                    "-out", folder / f"{name}.key")  # fmt: skip
        openssl("req", "-new", "-x509", "-key", folder / "root.key", "-subj", "/CN=Test root",
                "-days", "2", "-out", self.root, "-config", config,
                "-extensions", "ca")  # fmt: skip
        self._sign_leaf(expired)
        self.config = config

    def _sign_leaf(self, expired: bool) -> None:
        root = x509.load_pem_x509_certificate(self.root.read_bytes())
        keys = {
            name: load_pem_private_key((self.folder / f"{name}.key").read_bytes(), None)
            for name in ("root", "leaf")
        }
        now = datetime.now(UTC)
        start, end = now - timedelta(days=1), now + timedelta(days=1)
        if expired:
            start, end = now - timedelta(days=60), now - timedelta(days=30)
        usage = x509.KeyUsage(True, *[False] * 8)
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name.from_rfc4514_string("CN=Test authority"))
            .issuer_name(root.subject)
            .public_key(keys["leaf"].public_key())  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(False, None), critical=False)
            .add_extension(usage, critical=True)
            .add_extension(purpose, critical=True)
            .sign(keys["root"], hashes.SHA256())  # type: ignore[arg-type]
        )
        (self.folder / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))

    def reply(self, query: bytes) -> bytes:
        """The answer to a request in DER."""
        (self.folder / "query").write_bytes(query)
        openssl("ts", "-reply", "-config", self.config, "-queryfile", self.folder / "query",
                "-inkey", self.folder / "leaf.key", "-signer", self.folder / "leaf.pem",
                "-out", self.folder / "reply")  # fmt: skip
        return (self.folder / "reply").read_bytes()

    def __enter__(self) -> "TimestampAuthority":
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["Content-Length"]))
                body = authority.answer
                if body is None:
                    body = authority.reply(query)
                self.send_response(authority.status)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/tsr"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
