"""Whose requests a page answers, and the headers of all its answers.

A browser lets any page on the web send requests to this machine. So the Host must be one of ours,
which a name that was pointed at this machine is not, and a request that another page makes, which
its Origin or Sec-Fetch-Site says, is refused. No answer allows other origins to read it. A token
comes once in the address, then in a cookie that no other site's request carries.
"""

import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from huref.serve.settings import Settings, is_loopback

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
SAFE = ("GET", "HEAD")
API = "/api/"


class Guard:
    """Middleware that refuses strangers.

    Args:
        app: what answers the others.
        settings: the operator's.
        port: that the server listens on; part of the cookie's name, since cookies know no ports.
    """

    def __init__(self, app: ASGIApp, settings: Settings, port: int):
        self._app = app
        self._settings = settings
        self._cookie = f"huref-{port}"
        jar = SimpleCookie({self._cookie: settings.token})
        cookie = jar[self._cookie]
        cookie["path"], cookie["samesite"], cookie["httponly"] = "/", "Strict", True
        self._cookie_header = cookie.OutputString()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # there are no web sockets

        refusal, remembers = self._judge(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if remembers:
                    headers.append("Set-Cookie", self._cookie_header)
            await send(message)

        await (refusal or self._app)(scope, receive, send_with_headers)

    def _judge(self, scope: Scope) -> tuple[Response | None, bool]:
        """The answer to a request that is not passed on, and whether to set the cookie."""
        headers, path = Headers(scope=scope), scope["path"]
        if not self._is_our_host(headers):
            words = "this name is not the page's; open the address that huref printed"
            return _refusal(path, words), False
        if not _is_from_our_page(headers, scope["method"]):
            return _refusal(path, "another page made this request"), False
        return self._ask_for_token(scope, headers)

    def _is_our_host(self, headers: Mapping[str, str]) -> bool:
        """Behind a proxy any name may be ours; there the token keeps strangers out."""
        host = _hostname(f"//{headers.get('host', '')}")
        return bool(host) and (not is_loopback(self._settings.host) or is_loopback(host))

    def _ask_for_token(self, scope: Scope, headers: Headers) -> tuple[Response | None, bool]:
        """Whoever has it once in the address has it in a cookie afterwards."""
        if not self._settings.token:
            return None, False
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if self._fits(dict(query).get("token", "")):
            return None, not scope["path"].startswith(API)
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._fits(bearer.strip()):
            return None, False
        if self._fits(_cookies(headers).get(self._cookie, "")):
            return None, False
        words = "open the page by the address with the token that huref printed when it started"
        return _refusal(scope["path"], words, 401), False

    def _fits(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._settings.token.encode())


def _hostname(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _is_from_our_page(headers: Mapping[str, str], method: str) -> bool:
    """Whether a request comes from this page, or from a program rather than a page."""
    origin = headers.get("origin")
    if origin is not None:
        try:
            return urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
        except ValueError:
            return False
    site = headers.get("sec-fetch-site", "none")
    if site in ("none", "same-origin"):
        return True
    # A link on another page may lead here.
    return method in SAFE and headers.get("sec-fetch-mode") == "navigate"


def _cookies(headers: Mapping[str, str]) -> dict[str, str]:
    jar = SimpleCookie()
    try:
        jar.load(headers.get("cookie", ""))
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


def _refusal(path: str, words: str, status: int = 403) -> Response:
    if path.startswith(API):
        return JSONResponse({"error": words}, status)
    return PlainTextResponse(f"huref: {words}\n", status)
