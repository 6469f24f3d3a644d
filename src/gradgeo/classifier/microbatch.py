"""Work on some rows at a time, on fewer where the memory of the device does not suffice."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from gradgeo.errors import ModelError, warn

T = TypeVar("T")


class AdaptiveBatch:
    """Runs a function on consecutive rows; each time memory does not suffice, on half as many from then on.

    Args:
        size: rows at a time; may be set anew between calls.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._limit: int | None = None

    def __call__(self, total: int, run: Callable[[slice], T], *, needs: Callable[[], int] | None = None) -> Iterator[T]:
        """The results of `run` for the rows 0..`total`; it is called at least once.

        Args:
            run: called again for the same rows after it failed, so it must leave nothing half done.
            needs: gives about how many bytes one row takes, for the message where even that is too much.

        Raises:
            ModelError: a single row takes more memory than there is.
        """
        start = 0
        while start < max(total, 1):
            size = self.size if self._limit is None else min(self.size, self._limit)
            rows = slice(start, min(start + size, total))
            try:
                result = run(rows)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if rows.stop - rows.start <= 1:
                    raise ModelError(_too_large(error, needs)) from error
                self._limit = (rows.stop - rows.start) // 2
                continue  # behind the exception, whose frames hold the tensors of the pass
            yield result
            start += size

    @property
    def shrunk(self) -> bool:
        """Whether memory did not suffice for `size` rows."""
        return self._limit is not None

    def warn_if_shrunk(self) -> None:
        """Warn that rows went through in smaller parts, if they did."""
        if self.shrunk:
            warn(
                f"the device's memory was too small for passes of {self.size} inputs; they were made with "
                f"{self._limit}. Results are the same; it took longer."
            )


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that a device has no memory left; on CPUs PyTorch has no type of its own for that."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "not enough memory" in str(error)
    )


def _too_large(error: BaseException, needs: Callable[[], int] | None) -> str:
    cause = str(error).strip().split("\n")[0][:300]
    about = ""
    if needs is not None:
        try:
            about = f" of about {needs():,} bytes"
        except Exception:  # asking takes memory too
            about = ""
    return (
        f"the device's memory does not take a pass{about} over a single input ({cause}). "
        "Name fewer classes, make the inputs smaller, or free memory."
    )
