"""The file in a form (RFC 7578), as `curl -F`, `requests` and web pages send one."""

from gradgeo.errors import MissingDependencyError, require
from gradgeo.serve.errors import ProtocolError

EXPECTED = "expected a form with one file"


def file_of_form(body: bytes, content_type: str) -> bytes:
    """The content of the one part of a form that has a file name; other parts are passed over.

    Raises: ProtocolError with 400 for a form without one file, 415 where the library that reads forms is missing.
    """
    try:
        multipart = require("python_multipart.multipart", "serve")
    except MissingDependencyError:
        text = "no forms are read here: python-multipart is not installed. Send the file itself as the body."
        raise ProtocolError(415, text) from None
    _, options = multipart.parse_options_header(content_type)
    files: list[bytearray] = []
    header, part = bytearray(), bytearray()
    named = whole = False

    def begin() -> None:
        nonlocal part, named
        part, named = bytearray(), False

    def end_of_header() -> None:
        nonlocal named
        name, _, value = bytes(header).partition(b":")
        if name.strip().lower() == b"content-disposition":
            named = b"filename" in multipart.parse_options_header(value.strip())[1]
        header.clear()

    def end() -> None:
        if named:
            files.append(part)

    def end_of_form() -> None:
        nonlocal whole
        whole = True

    callbacks = {
        "on_part_begin": begin,
        "on_header_field": lambda data, start, end: header.extend(data[start:end]),
        "on_header_value": lambda data, start, end: header.extend(
            (b":" if b":" not in header else b"") + data[start:end]
        ),
        "on_header_end": end_of_header,
        "on_part_data": lambda data, start, end: part.extend(data[start:end]),
        "on_part_end": end,
        "on_end": end_of_form,
    }
    try:
        parser = multipart.MultipartParser(options[b"boundary"], callbacks)
        parser.write(body)
        parser.finalize()
    except (KeyError, ValueError):  # the library's own error is a ValueError
        whole = False
    if not whole:
        raise ProtocolError(400, f"{EXPECTED}, got one that is broken")
    if len(files) != 1:
        raise ProtocolError(400, f"{EXPECTED}, got {len(files)}")
    return bytes(files[0])
