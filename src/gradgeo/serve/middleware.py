"""What every request passes before the routes: its token and names, its log line, the last handler of exceptions."""

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gradgeo.serve.logs import event
from gradgeo.serve.same_site import SameSite
from gradgeo.serve.service import Service
from gradgeo.serve.tracing import Span
from gradgeo.serve.web import judge, page

OPEN = ("/v2/health/live", "/v2/health/ready")
"""Paths for orchestrators, which hold no token."""

EXCESS = "excess"
"""Key of a request's state: whether its connection is one too many."""

TOO_MANY = "too many connections. Try again later."

LONGEST = 200
"""Characters of a path in logs and traces."""

QUIET = (*OPEN, "/metrics")
"""Paths that are requested every few seconds, and logged only where they fail."""


class RequestMiddleware:
    """The ASGI application around the routes.

    Args:
        app: the routes.
        service: counts the answers.
        token: that clients must send, or None.
        same_site: which names of the server they may use.
    """

    def __init__(self, app: ASGIApp, service: Callable[[], Service], *, token: str | None, same_site: SameSite) -> None:
        self._app, self._service, self._same_site = app, service, same_site
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        span = Span(dict(scope["headers"]), scope["method"], scope["path"][:LONGEST])
        answer = _Answer(send, self._service().limits.client_timeout)
        state = scope.setdefault("state", {})
        state["rows"] = state["untrusted"] = None
        state["request"] = answer.id
        refusal = self._refusal(scope)
        try:
            if refusal is not None:
                await answer.error(*refusal)
            else:
                await self._app(scope, receive, answer)
        except Exception as error:  # no text of it reaches a client
            event("request failed", logging.ERROR, exc_info=error, request=answer.id)
            if answer.status is None:
                await answer.error(500, "the server failed on this request")
            elif not answer.complete:
                raise ConnectionResetError from None  # half an answer must not look whole
        finally:
            fields = self._log(scope, answer, time.perf_counter() - began)
            span.end(answer.status or 499, request=answer.id, **fields)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        if scope["state"].get(EXCESS):
            return 503, TOO_MANY
        headers = dict(scope["headers"])
        if b"transfer-encoding" in headers and b"content-length" in headers:  # RFC 9112, 6.1: request smuggling
            return 400, "expected Content-Length or Transfer-Encoding, got both"
        if scope["path"] in OPEN:
            return None
        if (refusal := self._same_site.refusal(scope["headers"])) is not None:
            return refusal
        if self._token is not None and scope["path"] not in page.FILES:
            header = headers.get(b"authorization", b"")
            kind, _, token = header.partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
                return 401, "expected the header Authorization: Bearer with the token of this server"
        return None

    def _log(self, scope: Scope, answer: "_Answer", seconds: float) -> dict[str, int]:
        """Count and log a request; returns its rows and how many of them were not trusted, where that is known."""
        path, status = scope["path"], answer.status or 499
        route = "health" if "/ready" in path or "/live" in path else "other"
        if path.endswith("/infer") or path == judge.PATH:
            route = "infer" if path.endswith("/infer") else "judge"
        self._service().metrics.request(route, status, seconds)
        state = scope["state"]
        fields = {name: state[name] for name in ("rows", "untrusted") if state[name] is not None}
        if path in QUIET and status < 400:
            return fields
        event(
            "request",
            logging.INFO if status < 500 else logging.WARNING,
            request=answer.id,
            method=scope["method"],
            path=path[:LONGEST],
            status=status,
            ms=round(1000 * seconds, 2),
            **fields,
        )
        return fields


class _Answer:
    """`send`, with a name for the request, a limit on how slowly a client may read, and what was sent so far."""

    def __init__(self, send: Send, timeout: float) -> None:
        self._send, self._timeout = send, timeout
        self.id = uuid.uuid4().hex
        self.status: int | None = None
        self.complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
        async with asyncio.timeout(self._timeout):
            await self._send(message)
        self.complete = message["type"] == "http.response.body" and not message.get("more_body")

    async def error(self, status: int, text: str) -> None:
        body = json.dumps({"error": text}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if status == 503:
            headers.append((b"retry-after", b"1"))
        if status in (400, 503):
            headers.append((b"connection", b"close"))
        with suppress(OSError):
            await self({"type": "http.response.start", "status": status, "headers": headers})
            await self({"type": "http.response.body", "body": body})
