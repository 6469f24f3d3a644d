"""How much a server takes on before it says no."""

import math
from dataclasses import dataclass, fields

from gradgeo.errors import expected

MEBI = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one request, all of them, and time may take; each is refused with a status of its own when exceeded.

    Attributes:
        rows: inputs in one request (413).
        body: bytes of a request's body (413); None: what `rows` inputs take in binary float64, and 1 MiB.
        bodies: bytes of all bodies being read or parsed at once (429); None: four of `body`, at least 256 MiB.
        queue: inputs that wait to be judged (429).
        batch: inputs judged together; requests that come close together share a batch.
        delay: seconds that a request waits for others to share a batch with while a worker is idle.
        timeout: seconds from the end of a request's body to its answer (504).
        patience: seconds that a client may take for its headers (closed), its body (408), or to read the answer.
        connections: open at once (503).
    """

    rows: int = 64
    body: int | None = None
    bodies: int | None = None
    queue: int = 1024
    batch: int = 64
    delay: float = 0.005
    timeout: float = 30.0
    patience: float = 10.0
    connections: int = 512

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name in ("body", "bodies"):
                continue
            whole = field.name not in ("delay", "timeout", "patience")
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise expected(field.name, "a whole number" if whole else "a number of seconds", value)
            if not math.isfinite(value) or value < 0 or (value == 0 and field.name != "delay"):
                raise expected(field.name, "above 0", value)

    def body_bytes(self, entries: int) -> int:
        """The longest body, for inputs of so many entries."""
        return self.body or self.rows * entries * 8 + MEBI

    def bodies_bytes(self, entries: int) -> int:
        """What all bodies together may take."""
        return self.bodies or max(4 * self.body_bytes(entries), 256 * MEBI)
