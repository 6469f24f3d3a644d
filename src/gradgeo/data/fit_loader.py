"""The readable items of a source in batches, which is what `Detector.fit` takes."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from gradgeo.data.source import Item, Source
from gradgeo.errors import DataError

Batch = Tensor | tuple[Tensor, Tensor]


class ReadableItems(IterableDataset[Batch]):
    """Batches x, or (x, y) for data with labels, of the items that can be read and have the shape of the first.

    In data with labels, items without one are skipped.

    Example:
        >>> from gradgeo.data import open_source
        >>> items = ReadableItems(open_source("digits/fit"), batch_size=100)
        >>> [x.shape for x, y in items.loader()][0]
        torch.Size([100, 1, 8, 8])

    Attributes:
        skipped: after a pass, the items that were skipped, each with its error.
        items: after a pass, the number of items of the source.

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
    ) -> None:
        self.skipped: list[Item] = []
        self.items = 0
        self._source = source
        self._batch_size = batch_size
        self._workers = workers
        self._progress = progress

    def loader(self) -> DataLoader[Batch]:
        """A loader for `Detector.fit`, which does not draw from the global random state."""
        return DataLoader(self, batch_size=None, generator=torch.Generator())

    def __iter__(self) -> Iterator[Batch]:
        self.skipped, self.items = [], 0
        shape = self._source.first_shape()
        for items in self._source.batches(self._batch_size, workers=self._workers, shape=shape):
            self.items += len(items)
            if self._source.labelled:
                items = [i if i.label is not None else replace(i, x=None, error=i.error or "no label") for i in items]
            self.skipped += [item for item in items if item.x is None]
            x = [item.x for item in items if item.x is not None]
            y = [item.label for item in items if item.x is not None]
            if x:
                yield (torch.stack(x), torch.tensor(y)) if self._source.labelled else torch.stack(x)
            if self._progress:
                self._progress(len(items))
        if shape is None:
            raise DataError(
                f"none of the {self.items} items of {self._source.spec} can be read; the first: {self.skipped[0].error}"
            )
