"""Runs the page until it is stopped."""

import errno
import socket
import webbrowser
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette

from huref.errors import HurefError
from huref.serve.settings import Settings

IDLE = 5  # seconds for which an idle connection is kept
PATIENCE = 3  # seconds for open requests when the server stops


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address; port 0 takes a free one.

    Raises:
        HurefError: the port is in use, or there is no such address on this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        server = socket.socket(family, socket.SOCK_STREAM)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(address)
            server.listen()
        except OSError:
            server.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise HurefError(
                f"port {port} of {host} is in use", advice="give another one with --port"
            ) from error
        raise HurefError(
            f"{host}:{port} cannot be listened on ({error.strerror})",
            advice="give another one with --host and --port",
        ) from error
    return server


def address_of(settings: Settings, server: socket.socket) -> str:
    """The page's address for a browser on this machine, with the token."""
    host = settings.host.strip("[]")
    if host in ("", "0.0.0.0", "::"):
        host = "127.0.0.1"
    host = f"[{host}]" if ":" in host else host
    token = f"?token={quote(settings.token)}" if settings.token else ""
    return f"http://{host}:{server.getsockname()[1]}/{token}"


def run(app: Starlette, server: socket.socket, *, opened: str = "") -> None:
    """Serve the page until the process is told to stop.

    Args:
        app: from `create_app`.
        server: from `listen`.
        opened: the address that a browser on this machine is told to open, if any.
    """
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # a log would hold the token
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=IDLE,
        timeout_graceful_shutdown=PATIENCE,
    )
    if opened:
        webbrowser.open(opened)
    uvicorn.Server(config).run(sockets=[server])
