"""The body of an inference request: read within its limits, on time, and with all others within one budget."""

import asyncio
from typing import Any

from fastapi import Request
from numpy.typing import NDArray
from starlette.requests import ClientDisconnect

from gradgeo.serve.client import GONE
from gradgeo.serve.errors import ProtocolError
from gradgeo.serve.limits import memory_for
from gradgeo.serve.protocol import InferenceRequest
from gradgeo.serve.service import Service
from gradgeo.serve.web.forms import file_of_form

HEADER_LENGTH = "Inference-Header-Content-Length"

MEDIA_TYPES = ("", "application/json", "application/octet-stream")
"""What a body may call itself. Types that a web page can send without asking (text/plain, forms) are not among them."""

MULTIPART = "multipart/form-data"
CURL = "application/x-www-form-urlencoded"
"""What curl calls a body of which nothing is said."""

FILE_TYPES = ("", "application/octet-stream", "application/dicom", MULTIPART, CURL)
"""What a file may call itself, beside image/...: its bytes tell what it is. Pages of other sites, which can send forms,
are refused by their `Origin`."""

TEXT_TYPES = ("", "text/plain", "application/octet-stream", MULTIPART)
"""What a text may call itself. A form's fields would be taken for the text, so curl has to say what it sends."""

FORM = 1 << 13
"""Bytes of a form around its file."""


async def read(service: Service, request: Request) -> InferenceRequest:
    """The inference request.

    Raises: ProtocolError with 408, 413, 415, 429, 499, and what `Parser` raises.
    """
    if (kind := _media_type(request)) not in MEDIA_TYPES:
        raise _another_type("application/json or application/octet-stream", kind)
    header_length = request.headers.get(HEADER_LENGTH)
    most, json = _at_most(request, header_length, service)
    held = memory_for(most, json)
    service.hold(held)
    try:
        body = await _body(request, most, service.limits.client_timeout, _too_long(most, header_length, service))
        return await service.parse(body, header_length)
    finally:
        service.release(held)


async def read_file(service: Service, request: Request) -> NDArray[Any]:
    """The input (1, *input) that a file becomes, which a body is or a form holds, or the text (1,).

    Raises: ProtocolError as `read`.
    """
    kind = _media_type(request)
    if service.facts.texts and kind not in TEXT_TYPES:
        raise _another_type("text/plain or multipart/form-data, for this model judges texts", kind)
    if not service.facts.texts and kind not in FILE_TYPES and not kind.startswith("image/"):
        raise _another_type("image/..., application/octet-stream or multipart/form-data", kind)
    longest = service.longest_file + (FORM if kind == MULTIPART else 0)
    most = (
        longest
        if "transfer-encoding" in request.headers
        else _number(request.headers.get("content-length", "0"), longest)
    )
    too_long = ProtocolError(413, f"expected a file of at most {service.longest_file} bytes")
    if most > longest:
        raise too_long
    service.hold(most)
    try:
        body = bytes(await _body(request, most, service.limits.client_timeout, too_long))
        file = file_of_form(body, request.headers["content-type"]) if kind == MULTIPART else body
        return await service.parse.inputs((file,))
    finally:
        service.release(most)


def _another_type(expected: str, kind: str) -> ProtocolError:
    return ProtocolError(415, f"expected a body of type {expected}, got {kind[:80]}. Set the header Content-Type.")


def _media_type(request: Request) -> str:
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ProtocolError(415, "expected a body that is not compressed")
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _at_most(request: Request, header_length: str | None, service: Service) -> tuple[int, int]:
    """Bytes of the body and of the JSON in it: as stated, or as many as they may have where nothing is stated.

    A length beside `Transfer-Encoding` states nothing, and such requests are refused before.
    """
    most_json = min(service.limits.json, service.longest_body)
    longest = most_json if header_length is None else service.longest_body
    if "transfer-encoding" in request.headers:
        length = longest
    else:
        length = _number(request.headers.get("content-length", "0"), longest)
    if length > longest:
        raise _too_long(longest, header_length, service)
    if header_length is None:
        return length, length
    json = _number(header_length, 0)
    if json > length:  # as what is no number, it is refused with the body
        json = 0
    if json > most_json:
        raise _too_long(most_json, None, service)
    return length, json


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else otherwise


def _too_long(most: int, header_length: str | None, service: Service) -> ProtocolError:
    if header_length is None and service.limits.json < service.longest_body:
        return ProtocolError(
            413,
            f"expected JSON of at most {service.limits.json} bytes. Send the numbers as a binary tensor, "
            f"{service.longest_body} bytes at most, with the header {HEADER_LENGTH}.",
        )
    return ProtocolError(413, f"expected a body of at most {most} bytes")


async def _body(request: Request, most: int, timeout: float, too_long: ProtocolError) -> bytearray:
    body = bytearray()  # grows in place: to join parts at the end would hold up all other requests meanwhile
    try:
        async with asyncio.timeout(timeout):
            async for chunk in request.stream():
                if len(body) + len(chunk) > most:
                    raise too_long
                body += chunk
    except ClientDisconnect:
        raise ProtocolError(499, GONE) from None
    except TimeoutError:
        raise ProtocolError(408, f"expected the whole body within {timeout:g} s", {"Connection": "close"}) from None
    return body
