"""A limit on the memory that a block of a test may take."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEBIBYTE = 1 << 20


@contextmanager
def at_most(mebibytes: int) -> Iterator[None]:
    """Let the block take so much more memory than the process has: beyond it Python, Arrow and torch cannot allocate,
    and the test fails by what they raise, instead of taking all memory of the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lines = Path("/proc/self/status").read_text().splitlines()
    held = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (held + mebibytes * MEBIBYTE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
