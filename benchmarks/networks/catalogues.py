"""Real text in many languages: the message catalogues and manual pages that Debian packages install."""

import gzip
import re
import struct
from functools import cache
from pathlib import Path

import torch

from gradgeo.errors import DataError

CATALOGUES = Path("/usr/share/locale")
MANUALS = Path("/usr/share/man")
SHORTEST, LONGEST = 24, 64
"""Characters of a text: longer ones are cut."""


def catalogue_files(language: str) -> list[Path]:
    """The message catalogues of a language, but for those of names of countries and scripts."""
    files = sorted((CATALOGUES / language / "LC_MESSAGES").glob("*.mo"))
    return [file for file in files if not file.name.startswith("iso_")]


@cache
def messages(language: str) -> list[str]:
    """The translated messages of a language, each once, in random order."""
    every = (text for file in catalogue_files(language) for text in translations(file.read_bytes()))
    found = {text for text in map(_cleaned, every) if text}
    if not found:
        raise DataError(f"no message catalogues in {CATALOGUES / language}; install a package that brings translations")
    return _shuffled(found)


@cache
def manual_lines(language: str) -> list[str]:
    """Lines of the manual pages in a language, without their markup, each once, in random order."""
    found = set()
    for file in sorted((MANUALS / language).rglob("*.gz")):
        if file.is_symlink():
            continue
        for line in gzip.decompress(file.read_bytes()).decode(errors="ignore").splitlines():
            if not line.startswith((".", "'")) and (text := _cleaned(re.sub(r"\\f.|\\[-&|]", "", line))):
                found.add(text)
    if not found:
        raise DataError(f"no manual pages in {MANUALS / language}; install a package that brings translated ones")
    return _shuffled(found)


def translations(data: bytes) -> list[str]:
    """The translations in a compiled catalogue in UTF-8, as gettext's manual describes the format; [] for another."""
    if data[:4] != b"\xde\x12\x04\x95":  # little-endian
        return []
    count, originals, translated = struct.unpack("<3I", data[8:20])
    found = []
    for i in range(1, count):  # the first is the header
        (length, start), (length_in, start_in) = (
            struct.unpack("<2I", data[table + 8 * i : table + 8 * i + 8]) for table in (translated, originals)
        )
        text = data[start : start + length].split(b"\0")[0]
        if text == data[start_in : start_in + length_in].split(b"\0")[0]:
            continue  # not translated
        try:
            found.append(text.decode())
        except UnicodeDecodeError:
            return []
    return found


def _cleaned(text: str) -> str | None:
    """On one line, cut to `LONGEST`; None where it is too short."""
    text = " ".join(text.replace("_", "").split())
    return text[:LONGEST] if len(text) >= SHORTEST else None


def _shuffled(found: set[str]) -> list[str]:
    texts = sorted(found)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
    return [texts[i] for i in order]
