"""Who may talk to the server: its own pages, from the hosts it answers to, with its token."""

from __future__ import annotations

import contextlib
import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, final
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "condiff_token"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = 65_536
SAFE = {
    b"content-security-policy": b"default-src 'self'; img-src 'self' blob: data:; connect-src 'self' ws: wss:; "
    b"media-src 'self' blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}


class TooLargeError(Exception):
    """A body of a request is larger than the server takes."""


@final
class Guard:
    """ASGI middleware before everything else.

    A request is refused when its Host is none of ours (a rebound name), its Origin is another site's (a page elsewhere
    that talks to this machine), or the token is missing or wrong; tokens are compared in constant time. Bodies are cut
    off at 64 kB.

    Args:
        app: The application.
        hosts: Names and addresses the server answers to, without port.
        token: Wanted as `Authorization: Bearer`, `?token=` or the cookie that the latter sets; None asks for none.
    """

    def __init__(self, app: App, hosts: Iterable[str], token: str | None) -> None:
        self.app, self.hosts, self.token = app, {host.lower() for host in hosts}, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
            return
        left = MAX_BODY

        async def limited() -> MutableMapping[str, Any]:
            nonlocal left
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    raise TooLargeError
            return message

        def refused() -> bool:
            return left < 0 and not begun

        begun = False

        async def marked(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            if refused():
                return  # whatever the application makes of a body that was cut off, the answer is 413
            if message["type"] == "http.response.start":
                begun = True
                given = list(message.get("headers", []))
                have = {name.lower() for name, _ in given}
                given += [(name, value) for name, value in SAFE.items() if name not in have]
                asked = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token")
                if self.token is not None and asked and scope["path"] == "/":
                    cookie = f"{COOKIE}={self.token}; Path=/; HttpOnly; SameSite=Strict"
                    given.append((b"set-cookie", cookie.encode("latin-1")))
                message["headers"] = given
            await send(message)

        if scope["type"] == "websocket":
            await self.app(scope, receive, send)
            return
        with contextlib.suppress(TooLargeError):
            await self.app(scope, limited, marked)
        if refused():
            await _refuse(scope, receive, send, 413, f"a body may have at most {MAX_BODY} bytes")

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> tuple[int, str] | None:
        host = _hostname("//" + headers.get(b"host", ""))
        if host not in self.hosts:
            return 403, f"this server does not answer to host {host!r}"
        origin = headers.get(b"origin")
        if origin is not None and (_hostname(origin) not in self.hosts or _port(origin) != _port_of(headers, origin)):
            return 403, "this server answers only to its own pages"
        length = headers.get(b"content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return 413, f"a body may have at most {MAX_BODY} bytes"
        if self.token is None or scope["path"] == "/healthz":
            return None
        return None if self._known(scope, headers) else (401, "a token is needed: open the address that was printed")

    def _known(self, scope: Scope, headers: dict[bytes, str]) -> bool:
        assert self.token is not None
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [])
        bearer = headers.get(b"authorization", "")
        if bearer.lower().startswith("bearer "):
            given.append(bearer[7:].strip())
        try:
            cookie = SimpleCookie(headers.get(b"cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        if cookie is not None:
            given.append(cookie.value)
        wanted = self.token.encode("utf-8")
        # Every token that was given is compared, so that the time says nothing of which or how much of it was right.
        return any([hmac.compare_digest(one.encode("utf-8", "surrogateescape"), wanted) for one in given or [""]])


def _hostname(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _port(url: str) -> int | None:
    try:
        parts = urlsplit(url)
        return parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None


def _port_of(headers: dict[bytes, str], origin: str) -> int | None:
    scheme = origin.split(":", 1)[0]
    return _port(f"{scheme}://" + headers.get(b"host", ""))


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4000 + status, "reason": text[:100]})
        return
    body = json.dumps({"detail": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *SAFE.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
