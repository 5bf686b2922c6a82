"""Who may talk to the page's server: its own page, from a browser that was given the token.

A server on 127.0.0.1 is reached by every page that the same browser shows. A foreign page is told apart by
its Origin, a foreign name that was pointed at this address by its Host, and a browser that was never given
the token by its cookie.
"""

import hmac
import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
ANY_ADDRESS = "*"  # among the allowed hosts: every address in digits, which no foreign name can be

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}

SLACK = 4096  # bytes that a body may have beyond what is needed of it

NO_TOKEN = "this browser has not been given the token: open the address that the server printed"


class Guard:
    """Refuses what does not come from the page, and adds the headers that keep the page to itself.

    Args:
        app: what is guarded.
        token: the address of the page carries it once; from then on a cookie does.
        allowed_hosts: names and addresses, without port, that the server is reached by.
    """

    def __init__(self, app: ASGIApp, token: str, allowed_hosts: Collection[str]) -> None:
        self._app, self._token, self._allowed_hosts = app, token, allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        headers = Headers(scope=scope)
        cookie = cookie_name(headers.get("host", ""))
        is_given = scope["path"] == "/" and self._is_token(QueryParams(scope["query_string"]).get("token"))

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.update(HEADERS)
                if is_given and message["status"] == 200:
                    answer["set-cookie"] = f"{cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
            await send(message)

        refusal = self._refuse(scope, headers, is_given or self._is_token(_cookies(headers).get(cookie)))
        await (refusal or self._app)(scope, receive, send_guarded)

    def _refuse(self, scope: Scope, headers: Headers, knows_token: bool) -> Response | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_allowed(host):
            return _refusal(403, f"Host: expected an address of this server, got {host!r}")
        if origin is not None and origin != f"{scope['scheme']}://{host}":
            return _refusal(403, f"Origin: expected this server's own page, got {origin!r}")
        is_opened = scope["path"] == "/" and scope["method"] == "GET"  # any page may hold a link to this one
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_opened:
            return _refusal(403, "Sec-Fetch-Site: expected a request of this server's own page")
        if not knows_token:
            if "text/html" in headers.get("accept", ""):
                return HTMLResponse(_PAGE_WITHOUT_TOKEN, 401)
            return _refusal(401, NO_TOKEN)
        length = headers.get("content-length", "0")
        if scope["method"] != "PUT" and (not length.isdecimal() or int(length) > SLACK):
            return _refusal(413, f"body: expected at most {SLACK} bytes, got {length}")
        return None

    def _is_token(self, given: str | None) -> bool:
        return given is not None and hmac.compare_digest(given.encode(), self._token.encode())

    def _is_allowed(self, host: str) -> bool:
        name = _split(host)[0]
        return name in self._allowed_hosts or (ANY_ADDRESS in self._allowed_hosts and _is_address(name))


def cookie_name(host: str) -> str:
    """The cookie of the server at this Host: a browser sends a cookie to every port of its host."""
    return f"ralx-{_split(host)[1]}"


def address(host: str, port: int) -> str:
    """`host:port` as an address has it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cookies(headers: Headers) -> dict[str, str]:
    return cookie_parser(headers.get("cookie", ""))


def _split(host: str) -> tuple[str, int]:
    """Name and port of a Host header; no name where it is none."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname or "", parts.port or 80
    except ValueError:
        return "", 80


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refusal(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status)


_PAGE_WITHOUT_TOKEN = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>ralx: this page needs its token</title>
<h1>This page needs its token</h1>
<p>Open the whole address that <code>ralx-label serve</code> printed: it ends in <code>?token=…</code>.
A server that was started again may have printed a new one. What you painted is kept in this browser.</p>
</html>
"""
