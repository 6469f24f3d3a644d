"""How much a server takes on before it says no."""

import math
from dataclasses import InitVar, dataclass, fields

from gradgeo.errors import expected

MEBI = 1 << 20
JSON_COST = 40
"""Bytes of memory at the peak for each byte of JSON: a list of short numbers becomes a list of Python objects."""


@dataclass(frozen=True)
class Limits:
    """Limits on size and time; a request that exceeds one is refused with the status in brackets."""

    rows: int = 64
    """Inputs in one request (413)."""

    body: int | None = None
    """Bytes of a request's body (413); None for what `rows` inputs take in binary float64, at least `file`, and
    `json`."""

    json: int = MEBI
    """Bytes of JSON in it (413): parsing takes forty times as much memory, and a third of a second for a MiB."""

    file: int = 32 * MEBI
    """Bytes of one image file (413)."""

    pixels: int = 25_000_000
    """Of all files of one request, as their headers state them (413); decoding takes 16 bytes or so for each."""

    bodies: int | None = None
    """Bytes that all bodies being read or parsed take at once (429), JSON counted forty-fold; None for four times the
    longest of them, at least 256 MiB."""

    queue: int = 1024
    """Inputs that wait for a worker (429)."""

    batch: int = 64
    """Inputs in one batch; requests that come close together share a batch."""

    delay: float = 0.005
    """Seconds that a request waits for others to share a batch with while a worker is idle."""

    timeout: float = 30.0
    """Seconds from the end of a request's body to its answer (504)."""

    client_timeout: float = 10.0
    """Seconds that a client may take for its headers (closed), its body (408), or to read the answer (closed)."""

    connections: int = 512
    """Open at once (503)."""

    patience: InitVar[float | None] = None
    """The former name of `client_timeout`."""

    def __post_init__(self, patience: float | None) -> None:
        if patience is not None:
            object.__setattr__(self, "client_timeout", patience)
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name in ("body", "bodies"):
                continue
            whole = field.name not in ("delay", "timeout", "client_timeout")
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise expected(field.name, "a whole number" if whole else "a number of seconds", value)
            if not math.isfinite(value) or value < 0 or (value == 0 and field.name != "delay"):
                raise expected(field.name, "above 0", value)

    def body_bytes(self, entries: int, *, files: bool = False) -> int:
        """The longest body, for inputs of so many entries, or files that become them."""
        return self.body or max(self.rows * entries * 8, self.file if files else 0) + self.json

    def bodies_bytes(self, entries: int, *, files: bool = False) -> int:
        """What all bodies together may take."""
        longest = self.body_bytes(entries, files=files)
        return self.bodies or max(4 * memory_for(longest, min(longest, self.json)), 256 * MEBI)


def memory_for(body: int, json: int) -> int:
    """Bytes of memory for a body of so many bytes of which `json` are JSON."""
    return body + (JSON_COST - 1) * json
