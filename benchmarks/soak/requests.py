"""The kinds of requests that are sent, and what may be the answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.serving import Floats, body_of

Body = tuple[bytes, dict[str, str]]


@dataclass(frozen=True)
class Kind:
    """A kind of request."""

    statuses: tuple[int, ...]
    """What may be the answer, with words where it is a refusal."""
    body: Callable[[Floats], Body]
    share: int
    """Of all requests."""


GOOD = (200, 503)
"""503: both workers that an input was given to were killed, or the one that parses."""


def _json_of(x: Floats) -> bytes:
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    return json.dumps({"inputs": [tensor]}).encode()


def _with(headers: dict[str, str]) -> Callable[[Floats], Body]:
    def body(x: Floats) -> Body:
        data, own = body_of(x[:1])
        return data, {**own, **headers}

    return body


def filled(item: bytes, length: int = 1 << 20) -> bytes:
    """JSON of a request of just so many bytes, whose data are `item` again and again."""
    head, tail = b'{"inputs":[{"name":"input","shape":[1],"datatype":"FP32","data":[' + item, b"]}]}"
    body = head + (b"," + item) * ((length - len(head) - len(tail)) // (len(item) + 1)) + tail
    return body + b" " * (length - len(body))


KINDS = {
    "one input": Kind(GOOD, lambda x: body_of(x[:1]), 60),
    "eight inputs": Kind(GOOD, lambda x: body_of(x[:8]), 10),
    "sixteen inputs as JSON": Kind(GOOD, lambda x: (_json_of(x[:16]), {}), 5),
    "NaN": Kind(GOOD, lambda x: body_of(np.full_like(x[:1], np.nan)), 5),
    "1 MiB of JSON": Kind((400, 429, 503), lambda x: (filled(b"0"), {}), 1),
    "longer JSON": Kind((413,), lambda x: (filled(b"0", (1 << 20) + 1), {}), 1),
    "no JSON": Kind((400,), lambda x: (b'{"inputs": [', {}), 3),
    "another shape": Kind((400,), lambda x: body_of(x[:1], [1, 8, 8, 1]), 3),
    "too many inputs": Kind((413,), lambda x: body_of(x[:17]), 3),
    "text/plain": Kind((415,), _with({"Content-Type": "text/plain"}), 3),
    "a page of another site": Kind((403,), _with({"Origin": "http://evil.example"}), 3),
    "another host": Kind((421,), _with({"Host": "evil.example"}), 3),
}
ROWS = 16  # that a request may have

BEGINNING = "POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\n"
_DEEP = b'{"inputs":' + b"[" * 500_000
HOSTILE = {
    "two lengths": ((400,), f"{BEGINNING}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode()),
    "no HTTP": ((400,), b"\x16\x03\x01\x02\x00\r\n\r\n"),
    "a length of 100 GB": ((413,), f"{BEGINNING}Content-Length: 99999999999\r\n\r\n".encode()),
    "JSON 500,000 deep": ((400, 429, 503), f"{BEGINNING}Content-Length: {len(_DEEP)}\r\n\r\n".encode() + _DEEP),
}
"""By hand: statuses that may be the answer, and what is sent."""
