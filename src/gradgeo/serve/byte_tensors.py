"""Tensors of type BYTES: each element behind its length in four bytes, or in JSON as base64."""

import base64
import binascii
import struct
from collections.abc import Iterable
from typing import Any

from gradgeo.serve.errors import ProtocolError

DATATYPE = "BYTES"
LENGTH = struct.Struct("<I")


def of_json(data: Any, size: Any, behind: int, rows: int, *, plain: bool = False) -> tuple[bytes, ...] | None:
    """The elements that stand in the JSON; None where they are in the bytes behind it.

    Args:
        data: of the JSON, texts in base64, flat or each in a list of its own; or None.
        size: that the JSON states of the bytes behind it; or None.
        behind: how many bytes these are.
        rows: elements that there should be.
        plain: whether the texts of the JSON are the elements themselves rather than base64 of them.

    Raises: ProtocolError with 400.
    """
    if size is not None:
        if data is not None:
            raise ProtocolError(400, "expected data or binary_data_size, got both")
        if isinstance(size, bool) or size != behind:
            raise ProtocolError(400, "expected binary_data_size to be the number of bytes behind the JSON")
        return None
    if behind or data is None:
        raise ProtocolError(400, "expected data in base64, or binary_data_size and the bytes behind the JSON")
    texts = [entry[0] if isinstance(entry, list) and len(entry) == 1 else entry for entry in data]
    if len(texts) != rows or not all(isinstance(text, str) for text in texts):
        raise ProtocolError(400, f"expected data to be {rows} texts{'' if plain else ' in base64'}")
    if plain:
        return tuple(text.encode() for text in texts)
    try:
        return tuple(base64.b64decode(text, validate=True) for text in texts)
    except (binascii.Error, ValueError):
        raise ProtocolError(400, "expected data to be files in base64") from None


def read(binary: memoryview, rows: int) -> tuple[bytes, ...]:
    """The elements in the bytes behind the JSON, of which there should be `rows`. Raises: ProtocolError with 400."""
    elements: list[bytes] = []
    at = 0
    while at < len(binary) and len(elements) < rows:
        if at + LENGTH.size > len(binary):
            break
        (length,) = LENGTH.unpack_from(binary, at)
        at += LENGTH.size
        elements.append(bytes(binary[at : at + length]))
        at += length
    if at != len(binary) or len(elements) != rows:
        raise ProtocolError(400, f"expected {rows} elements behind the JSON, each after its length in four bytes")
    return tuple(elements)


def write(elements: Iterable[bytes]) -> bytes:
    """The bytes of a tensor."""
    return b"".join(LENGTH.pack(len(element)) + element for element in elements)
