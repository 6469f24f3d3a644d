"""The page at `/`: drop a picture or write a text, see its verdict and why. Three files without a word of any input."""

from collections.abc import Callable, Coroutine
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Response

from gradgeo.serve.service import Service

FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}
"""Paths, and what is there. Of the model they say what kind of input it takes, and no more; so they need no token."""

TAKES = b'data-takes="files"'
"""Where the page says it."""

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy: its own script and style, pictures out of answers, requests to this server, no frames."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI, service: Callable[[], Service]) -> None:
    """The routes of the page; the OpenAPI document does not list them."""
    for path, (name, kind) in FILES.items():
        app.add_api_route(path, _returning(name, kind, service), methods=["GET"], include_in_schema=False)


def _returning(name: str, kind: str, service: Callable[[], Service]) -> Callable[[], Coroutine[Any, Any, Response]]:
    content = (files("gradgeo.serve.web") / name).read_bytes()

    async def file() -> Response:
        said = content.replace(TAKES, f'data-takes="{service().takes}"'.encode(), 1)
        return Response(said, media_type=kind, headers=HEADERS)

    return file
