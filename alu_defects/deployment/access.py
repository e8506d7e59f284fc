"""Who may ask the server, and what its answers allow a browser."""

import hmac
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from alu_defects.errors import UserError

PAGE = Path(__file__).parent / "page"
SHORTEST_TOKEN = 16
_PUBLIC = {"/", "/health", *(f"/{file.name}" for file in PAGE.iterdir())}  # without the token
_READ_ONLY = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Guard:
    """Refuses requests that the page or a client with the token would not make, and adds headers to all answers.

    Without a token any website that is open in a browser on this machine could reach the server. What it sends has
    another Origin; and where its own name leads to this machine (DNS rebinding), another Host.
    """

    def __init__(self, app: ASGIApp, host: str, token: str | None) -> None:
        self.app, self.token = app, token
        self.hosts = sorted({"localhost", "127.0.0.1", "::1", host})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI asks for it."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        answer: ASGIApp = self._refusal(scope) or self.app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self.token is None and _name_of(host) not in self.hosts:
            return refuse(403, f"Host: {host} is not this machine; without a token it must be {', '.join(self.hosts)}")
        if scope["method"] not in _READ_ONLY and headers.get("origin", f"//{host}").partition("//")[2] != host:
            return refuse(403, f"Origin: {headers['origin']} is another website")
        if self.token is not None and scope["path"] not in _PUBLIC:
            kind, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode(), self.token.encode())
            if kind.lower() != "bearer" or not right:
                return refuse(401, "the token is missing or wrong", {"WWW-Authenticate": "Bearer"})
        return None


def _name_of(host: str) -> str | None:
    """The name in a Host header, without the port; None if it is none."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def check_access(host: str, token: str | None) -> None:
    """Refuse with a `UserError` a token that can be guessed or sent by no one, and none where others reach the host."""
    if token is None:
        if not _is_loopback(host):
            raise UserError(
                f"host={host} can be reached by others: give a token of {SHORTEST_TOKEN} characters or more, best in "
                "the environment as ALU_DEFECTS_TOKEN; or leave it at host=127.0.0.1"
            )
    elif len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"the token must have {SHORTEST_TOKEN} letters, digits and signs or more; such as that of "
            "python -c 'import secrets; print(secrets.token_urlsafe())'"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refuse(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """An answer with an error, as JSON."""
    return JSONResponse({"status": "error", "error": reason}, status, headers)
