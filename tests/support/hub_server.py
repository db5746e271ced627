"""A local Hub server: model info, files in ranges, gated repositories, injected failures."""

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

CHUNK = 1024 * 1024


@dataclass
class HostedRepository:
    folder: Path
    gated: bool = False

    @property
    def commit(self) -> str:
        return hashlib.sha1(str(self.folder).encode()).hexdigest()


@dataclass
class LoopbackHub:
    """Serves folders as repositories, records requests, and can cut, refuse or redirect answers."""

    repositories: dict[str, HostedRepository] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)  # of each request
    bytes_sent: int = 0
    cut_after: int | None = None  # bytes after which the next file answer is cut
    refuse_with: list[int] = field(default_factory=list)  # statuses of the next file answers
    refuse_api_with: list[int] = field(default_factory=list)  # statuses of the next API answers
    retry_after: str = "0"
    ignore_ranges: bool = False
    redirect_to: str | None = None  # URL of another server, like the Hub's CDN
    latency: float = 0.0  # seconds before each answer
    answering: int = 0  # requests at this moment
    most_at_once: int = 0
    lfs: dict[str, object] = field(default_factory=dict)  # SHA-256 that it states of files

    def add(self, name: str, folder: Path, gated: bool = False) -> None:
        self.repositories[name] = HostedRepository(folder, gated)

    def handler(self) -> "type[Handler]":
        """The class of the request handlers; subclasses may override it."""
        return Handler

    def __enter__(self) -> Self:
        handler = type("Handler", (self.handler(),), {"server_hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        serve = {"poll_interval": 0.02}
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs=serve, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Handler(BaseHTTPRequestHandler):
    server_hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        hub = self.server_hub
        hub.answering += 1
        hub.most_at_once = max(hub.most_at_once, hub.answering)
        try:
            self._get()
        finally:
            hub.answering -= 1

    def _get(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server_hub.requests.append((path, self.headers.get("Range")))
        self.server_hub.tokens.append(self.headers.get("Authorization"))
        if self.server_hub.latency:
            time.sleep(self.server_hub.latency)
        if path.startswith("api/models/"):
            self._model_info(path.removeprefix("api/models/"))
        elif "/resolve/" in path:
            self._file(path)
        else:
            self._answer(200, b"{}", Content_Type="application/json")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer(200, b"{}", Content_Type="application/json")

    do_HEAD = do_GET  # noqa: N815

    def _model_info(self, rest: str) -> None:
        if self.server_hub.refuse_api_with:
            status = self.server_hub.refuse_api_with.pop(0)
            self._answer(status, b"", Retry_After=self.server_hub.retry_after)
            return
        if "/tree/" in rest:
            name, _, revision = rest.partition("/tree/")
            self._tree(self.server_hub.repositories[name])
            return
        name, _, revision = rest.partition("/revision/")
        repository = self.server_hub.repositories.get(name)
        if repository is None:
            self._answer(401, b"{}", X_Error_Code="RepoNotFound")
        elif revision not in ("", "main", repository.commit):
            self._answer(404, b"{}", X_Error_Code="RevisionNotFound")
        else:
            files = sorted(p for p in repository.folder.rglob("*") if p.is_file())
            siblings: list[dict[str, object]] = [
                {"rfilename": str(p.relative_to(repository.folder)), "size": p.stat().st_size}
                for p in files
            ]
            for one in siblings:
                if (digest := self.server_hub.lfs.get(str(one["rfilename"]), self)) is not self:
                    one["lfs"] = {"sha256": digest, "size": one["size"], "pointerSize": 134}
            renamed = name.partition("@")[0]
            body = {"id": renamed, "sha": repository.commit, "siblings": siblings, "tags": []}
            self._answer(200, json.dumps(body).encode(), Content_Type="application/json")

    def _tree(self, repository: HostedRepository) -> None:
        files = sorted(p for p in repository.folder.rglob("*") if p.is_file())
        entries = [
            {
                "type": "file",
                "path": str(file.relative_to(repository.folder)),
                "size": file.stat().st_size,
                "oid": hashlib.sha1(str(file).encode()).hexdigest(),
            }
            for file in files
        ]
        self._answer(200, json.dumps(entries).encode(), Content_Type="application/json")

    def _file(self, path: str) -> None:
        hub = self.server_hub
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        repository = hub.repositories[name]
        assert revision == repository.commit, "files must be read at the resolved commit"
        if repository.gated and "Authorization" not in self.headers:
            self._answer(401, b"", X_Error_Code="GatedRepo")
            return
        if hub.refuse_with:
            self._answer(hub.refuse_with.pop(0), b"", Retry_After=hub.retry_after)
            return
        if hub.redirect_to is not None:
            self._answer(302, b"", Location=hub.redirect_to + self.path + "?signature=abc")
            return
        size = (repository.folder / file).stat().st_size
        if self.command == "HEAD":
            self.send_response(200)
            tag = hashlib.sha1(str(repository.folder / file).encode()).hexdigest()
            headers = {"ETag": f'"{tag}"', "X-Repo-Commit": revision, "Content-Length": str(size)}
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            return
        wanted = self.headers.get("Range")
        if wanted is None or hub.ignore_ranges:
            self.send_response(200)
            start, stop = 0, size
        else:
            first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
            start, stop = first, min(last + 1, size)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if hub.cut_after is not None and stop - start > hub.cut_after:
            stop, hub.cut_after = start + hub.cut_after, None
            self.close_connection = True
        hub.bytes_sent += stop - start
        with (repository.folder / file).open("rb") as content:
            content.seek(start)
            for position in range(start, stop, CHUNK):
                self.wfile.write(content.read(min(CHUNK, stop - position)))
