"""scripts/environment.sh takes torch for CPUs where it can; the indexes are on loopback."""

import base64
import hashlib
import io
import os
import platform
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.zoo import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        (platform.system(), platform.machine()) != ("Linux", "x86_64"),
        reason="elsewhere pip's own torch is for CPUs",
    ),
]

BACKEND = """
import zipfile
from pathlib import Path

INFO = "huref-0.dist-info"


def _write(folder, tag):
    name = f"huref-0-{tag}.whl"
    with zipfile.ZipFile(Path(folder) / name, "w") as wheel:
        wheel.writestr(f"{INFO}/METADATA",
                       "Metadata-Version: 2.1\\nName: huref\\nVersion: 0\\nRequires-Dist: torch\\n")
        wheel.writestr(f"{INFO}/WHEEL",
                       f"Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: {tag}\\n")
        wheel.writestr(f"{INFO}/RECORD", "")
    return name


def build_wheel(folder, settings=None, metadata=None):
    return _write(folder, "py3-none-any")


build_editable = build_wheel
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "huref"
version = "0"
dependencies = ["torch"]
"""


def make_wheel(version: str) -> bytes:
    """A torch of a version, with nothing in it but its version."""
    info = f"torch-{version}.dist-info"
    files = {
        "torch/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{name},sha256={digest.decode()},{len(text)}\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture
def indexes() -> Iterator[tuple[str, list[str]]]:
    """The address of two indexes, /cpu and /simple, and what was asked of them."""
    files = {f"torch-9.9.0{local}-py3-none-any.whl": make_wheel(f"9.9.0{local}")
             for local in ("+cpu", "")}  # fmt: skip
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Print nothing."""

        def do_GET(self) -> None:
            path = self.path.replace("%2B", "+")
            asked.append(path)
            names = list(files)
            pages = {"/cpu/torch/": names[0], "/simple/torch/": names[1]}
            if path in pages:
                href = pages[path].replace("+", "%2B")
                body = f'<!DOCTYPE html><a href="/files/{href}">{pages[path]}</a>'.encode()
            else:
                body = files.get(path.removeprefix("/files/"), b"")
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html" if path in pages else "application/zip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def install(folder: Path, address: str, cpu: str, path: str = "") -> str:
    """Source the script in a project that needs torch; the version that it got."""
    (folder / "scripts").mkdir(parents=True)
    (folder / "scripts/environment.sh").write_text((ROOT / "scripts/environment.sh").read_text())
    (folder / "backend.py").write_text(BACKEND)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "constraints.txt").write_text("torch==9.9.0\n")
    environment = os.environ | {
        "HUREF_TORCH_INDEX": f"{address}/{cpu}", "PIP_INDEX_URL": f"{address}/simple",
        "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PYTHONPATH": "",
        "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT", "PIP_NO_INDEX"):
        environment.pop(name, None)
    script = (
        "set -eu; . scripts/environment.sh; $python -c 'import torch; print(torch.__version__)'"
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_index_of_pytorch_is_asked_first(
    tmp_path: Path, indexes: tuple[str, list[str]]
) -> None:
    address, asked = indexes
    assert install(tmp_path, address, "cpu") == "9.9.0+cpu"
    assert "/files/torch-9.9.0-py3-none-any.whl" not in asked


def test_where_it_does_not_answer_pip_takes_its_own(
    tmp_path: Path, indexes: tuple[str, list[str]]
) -> None:
    assert install(tmp_path, indexes[0], "gone") == "9.9.0"


def test_a_machine_with_a_gpu_gets_pips_own(tmp_path: Path, indexes: tuple[str, list[str]]) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    assert install(tmp_path / "project", indexes[0], "cpu", str(tmp_path / "bin")) == "9.9.0"
    assert not [path for path in indexes[1] if path.startswith("/cpu")]
