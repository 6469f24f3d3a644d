"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable
from typing import Any


def until(happens: Callable[[], Any], seconds: float = 20.0) -> None:
    """Wait for it."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
