"""Texts as inputs of a model that `gradgeo.text` made: a BYTES tensor of UTF-8, in JSON as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradgeo.serve.errors import ProtocolError

LONGEST = 1 << 18
"""Bytes of a text; of a longer one its tokenizer would take a while."""


@dataclass(frozen=True)
class TextReader:
    """From the elements of a tensor to texts, of which the worker that has the tokenizer makes inputs."""

    longest: int = LONGEST

    def __call__(self, elements: Sequence[bytes]) -> NDArray[Any]:
        """Texts (N,). Raises: ProtocolError with 400 for what is no UTF-8, 413 for what is too long."""
        texts = np.empty(len(elements), object)
        for number, element in enumerate(elements):
            if len(element) > self.longest:
                raise ProtocolError(413, f"expected texts of at most {self.longest} bytes, got {len(element)}")
            try:
                texts[number] = element.decode()
            except UnicodeDecodeError:
                raise ProtocolError(400, f"expected texts in UTF-8, got other bytes in element {number}") from None
        return texts
