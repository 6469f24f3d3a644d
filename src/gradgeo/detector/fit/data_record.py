"""What is written down of the data of a fit, whoever called it."""

import hashlib
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from torch import Tensor


class DataRecord:
    """The SHA-256 of inputs, as float32, and labels in their order, as `gradgeo.data.ReadableItems` has it; counts."""

    def __init__(self) -> None:
        self._digest, self._labels, self._items = hashlib.sha256(), Counter[int](), 0

    def add(self, x: Tensor, y: Tensor | None) -> None:
        """Count inputs (n, *input) with labels (n,)."""
        labels = [None] * len(x) if y is None else y.tolist()
        for row, label in zip(x.detach().cpu().float().contiguous().numpy(), labels, strict=True):
            self._digest.update(row.tobytes() + str(label).encode())
        self._items += len(x)
        self._labels.update(label for label in labels if label is not None)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, with the date."""
        labels = {str(label): count for label, count in sorted(self._labels.items())}
        data = {"sha256": self._digest.hexdigest(), "items": self._items, "labels": labels}
        return {"date": today(), "data": data}


def today() -> str:
    """The date in UTC by the clock of the machine, for records: never for durations."""
    return datetime.now(UTC).date().isoformat()
