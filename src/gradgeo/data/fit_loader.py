"""The readable items of a source in batches, which is what `Detector.fit` takes."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from gradgeo.data.as_read import Tally
from gradgeo.data.kept import Values, group_of
from gradgeo.data.source import Item, Source
from gradgeo.data.transform import TextPreparation
from gradgeo.errors import DataError, expected

Batch = Tensor | tuple[Tensor, Tensor]


class ReadableItems(IterableDataset[Batch]):
    """Batches x, or (x, y) for data with labels, of the items that can be read and have the shape of the first.

    In data with labels, items without one are skipped; with `labels` False labels are left aside.

    Example:
        >>> from gradgeo.data import open_source
        >>> items = ReadableItems(open_source("digits/fit"), batch_size=100)
        >>> [x.shape for x, y in items.loader()][0]
        torch.Size([100, 1, 8, 8])

    Attributes:
        skipped: after a pass, the items that were skipped, each with its error.
        items: after a pass, the number of items of the source.
        sha256: after a whole pass, of the inputs that are used, as float32, and their labels.
        labels: after a whole pass, how many of them have each label.
        tally: after a whole pass, what the items were in their files.
        size_hint: how many items there are; None where nobody knows.

    Raises:
        DataError: no item can be read.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int = 64,
        workers: int = 1,
        progress: Callable[[int], None] | None = None,
        labels: bool = True,
    ) -> None:
        self._labelled = source.labelled and labels
        self.skipped: list[Item] = []
        self.items = 0
        self.sha256: str | None = None
        self.labels: Counter[int] = Counter()
        self.tally = Tally.of(source.preprocess)
        self.size_hint = source.size
        self._kept: list[Values] = []
        self._source = source
        self._batch_size = batch_size
        self._workers = workers
        self.progress = progress

    def loader(self) -> DataLoader[Batch]:
        """A loader for `Detector.fit`, which does not draw from the global random state."""
        return DataLoader(self, batch_size=None, generator=torch.Generator())

    @property
    def of_texts(self) -> bool:
        """Whether its items are texts."""
        return isinstance(self._source.preprocess, TextPreparation)

    @property
    def unread(self) -> tuple[str, ...]:
        """Columns of the data that nothing is read of."""
        return self._source.unread

    def inputs(self) -> Iterator[Tensor]:
        """The batches without their labels."""
        return (batch if isinstance(batch, Tensor) else batch[0] for batch in self)

    def groups(self, columns: Sequence[str]) -> Sequence[str] | None:
        """The group of each usable item by some columns that the source keeps, as `Detector.fit` takes it: filled by
        the pass over the items that `fit` begins with. None without columns.

        Raises: ArgumentError for a column that is not kept.
        """
        if not columns:
            return None
        places = [self._source.keep.index(name) if name in self._source.keep else -1 for name in columns]
        if -1 in places:
            raise expected("columns", f"among those that are kept, {', '.join(self._source.keep)}", list(columns))
        return _Groups(self._kept, places)

    def __iter__(self) -> Iterator[Batch]:
        self.skipped, self.items = [], 0
        self._kept.clear()
        digest, labels, tally = hashlib.sha256(), Counter[int](), Tally.of(self._source.preprocess)
        shape = self._source.first_shape()
        for items in self._source.batches(self._batch_size, workers=self._workers, shape=shape):
            self.items += len(items)
            if self._labelled:
                items = [i if i.label is not None else replace(i, x=None, error=i.error or "no label") for i in items]
            self.skipped += [item for item in items if item.x is None]
            x = [item.x for item in items if item.x is not None]
            y = [item.label for item in items if item.x is not None]
            if self.sha256 is None:  # the first pass
                tally.add(items)
                for item in items:
                    if item.x is not None:
                        digest.update(item.x.contiguous().numpy().tobytes() + str(item.label).encode())
                labels.update(label for label in y if label is not None)
            self._kept += [item.kept for item in items if item.x is not None]
            if x:
                yield (torch.stack(x), torch.tensor(y)) if self._labelled else torch.stack(x)
            if self.progress:
                self.progress(len(items))
        if self.sha256 is None:
            self.sha256, self.labels, self.tally = digest.hexdigest(), labels, tally
        if shape is None:
            raise DataError(
                f"none of the {self.items} items of {self._source.spec} can be read; the first: {self.skipped[0].error}"
            )


class _Groups(Sequence[str]):
    """Names of groups, made of what a list holds by now."""

    def __init__(self, kept: list[Values], places: Sequence[int]) -> None:
        self._kept, self._places = kept, places

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: Any) -> Any:
        return group_of(tuple(self._kept[index][place] for place in self._places))
