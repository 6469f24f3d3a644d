"""From texts to token numbers, by whatever tokenizer the user has."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradgeo.errors import ArgumentError, expected, warn

SAMPLES = (
    "",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "0123456789 +-*/",
    "naïve café, Ünïcödé 東京",
    "A B  c\td",
)
"""What a plain function makes of these tells it from another."""

LARGEST = 1 << 30
"""What Hugging Face says where nobody stated how long a text may be is above it."""


class Tokenizer:
    """Token numbers of texts.

    Attributes:
        padding: the token number of padding.
        longest: how many tokens its model takes, where it says so.
        sha256: of its settings; of a function, of what it does to some texts.

    Raises: ArgumentError for what is no tokenizer.
    """

    def __init__(self, tokenizer: Any, padding: int | None = None) -> None:
        self._tokenizer = tokenizer
        self._is_hub = hasattr(tokenizer, "pad_token_id") and hasattr(tokenizer, "model_max_length")
        self._is_fast = not self._is_hub and hasattr(tokenizer, "encode_batch") and hasattr(tokenizer, "to_str")
        if not (self._is_hub or self._is_fast or callable(tokenizer)):
            rule = "a tokenizer of Hugging Face, or a function from a text to token numbers"
            raise expected("tokenizer", rule, tokenizer)
        own = tokenizer.pad_token_id if self._is_hub else None
        padding = own if padding is None else padding
        padding = 0 if padding is None else padding
        if not isinstance(padding, int) or padding < 0:
            raise expected("padding", "a token number", padding)
        self.padding = padding
        longest = tokenizer.model_max_length if self._is_hub else None
        self.longest: int | None = longest if isinstance(longest, int) and 0 < longest < LARGEST else None
        self.sha256 = hashlib.sha256(self._identity().encode()).hexdigest()

    def __call__(self, texts: Sequence[Any], length: int) -> tuple[Tensor, Tensor]:
        """Token numbers (N, length) and which of them are no padding; no token where there is no text.

        Warns of texts that are cut, with their count.
        """
        known = [text if isinstance(text, str) else "" for text in texts]
        rows = [self._numbers(text, length) if text else ([], False) for text in known]
        if cut := sum(is_cut for _, is_cut in rows):
            warn(f"{cut} of {len(rows)} texts have more than {length} tokens; what is behind them is not seen.")
        ids = torch.full((len(rows), length), self.padding)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for row, (numbers, _) in enumerate(rows):
            ids[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.long)
            mask[row, : len(numbers)] = True
        return ids, mask

    def _numbers(self, text: str, length: int) -> tuple[list[int], bool]:
        """The numbers of a text, cut, and whether they were."""
        if self._is_hub:
            numbers = list(self._tokenizer(text, truncation=True, max_length=length)["input_ids"])
            return numbers, len(numbers) == length and len(self._tokenizer(text, verbose=False)["input_ids"]) > length
        if self._is_fast:
            encoded = self._tokenizer.encode(text)
            numbers = [n for n, real in zip(encoded.ids, encoded.attention_mask, strict=True) if real]
        else:
            numbers = self._called(text)
        return numbers[:length], len(numbers) > length

    def _called(self, text: str) -> list[int]:
        found = self._tokenizer(text)
        numbers = found.tolist() if hasattr(found, "tolist") else found
        try:
            whole = [int(number) for number in numbers]
        except (TypeError, ValueError):
            raise expected("tokenizer", "a function from a text to a list of token numbers", found) from None
        if whole != list(numbers):
            raise expected("tokenizer", "a function from a text to a list of whole numbers", found)
        return whole

    def _identity(self) -> str:
        backend: Any = getattr(self._tokenizer, "backend_tokenizer", None) if self._is_hub else self._tokenizer
        if hasattr(backend, "to_str"):
            settings = json.loads(backend.to_str())
            settings.pop("truncation", None)  # of the last call
            settings.pop("padding", None)
            return json.dumps(settings, sort_keys=True)
        if self._is_hub:
            return json.dumps([type(self._tokenizer).__name__, self._tokenizer.get_vocab()], sort_keys=True)
        samples = []
        for sample in SAMPLES:
            try:
                samples.append(self._called(sample))
            except ArgumentError:
                raise
            except Exception as error:  # a function that refuses some text
                samples.append([type(error).__name__])  # type: ignore[list-item]
        return json.dumps(samples)
