"""What items were in their files, before preparation, and what that says of a whole source: sizes, channels, depth."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from gradgeo.data.preprocess import SIXTEEN_BITS, Preparation, Preprocess

if TYPE_CHECKING:
    from gradgeo.data.source import Item

KEPT = 0.5
"""Of the area of a picture: what cuts away more deserves a word."""

SIZES = 100
"""Different shapes that are counted apart."""


@dataclass(frozen=True)
class AsRead:
    """One item as its file holds it."""

    shape: tuple[int, ...]
    largest: float | None
    """The largest value of an image; None of other items."""

    @classmethod
    def of(cls, x: Tensor) -> "AsRead":
        """What there is to say of `x`."""
        shape = tuple(x.shape)
        return cls(shape, float(x.max()) if is_image(shape) else None)


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether an item of this shape can be a picture, grey or in colours: (1 or 3, H, W)."""
    return len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) > 1


@dataclass
class Tally:
    """Counts what the items of a source were, to say in one sentence each what a person may have missed."""

    preprocess: Preprocess
    items: int = 0
    images: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Images of each height and width; beyond `SIZES` different ones the rest is not told apart."""
    channels: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Images brought from one number of channels to another, undeclared."""
    cut: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Images of each size of which less than `KEPT` is left."""
    first_cut: str | None = None
    largest: float = 0.0
    """Of all images."""

    @classmethod
    def of(cls, preparation: Preparation) -> "Tally":
        """For items that are prepared so; of what code of the user's makes inputs of, nothing is counted."""
        return cls(preparation if isinstance(preparation, Preprocess) else Preprocess())

    def add(self, items: Iterable["Item"]) -> None:
        """Count some items; those that could not be read count for nothing."""
        for item in items:
            if item.as_read is None:
                continue
            self.items += 1
            shape = item.as_read.shape
            if item.as_read.largest is None:
                continue
            self.images += 1
            self.largest = max(self.largest, item.as_read.largest)
            size = (shape[1], shape[2])
            if size in self.sizes or len(self.sizes) < SIZES:
                self.sizes[size] += 1
            if item.x is not None and len(item.x) != shape[0] and self.preprocess.channels is None:
                self.channels[shape[0], len(item.x)] += 1
            if self.preprocess.kept(size) < KEPT:
                if size in self.cut or len(self.cut) < SIZES:
                    self.cut[size] += 1
                self.first_cut = self.first_cut or item.name

    def notes(self) -> list[str]:
        """A sentence for each thing that a person may have missed."""
        notes = []
        for (before, after), count in sorted(self.channels.items()):
            made = "grey, by the usual weights of red, green and blue" if after == 1 else "RGB, the grey three times"
            kind = "in colours" if before == 3 else "grey"
            notes.append(f"{count} of {self.images} images are {kind} in their files and were made {made}.")
        if self.cut:
            (height, width), _ = self.cut.most_common(1)[0]
            share = 100 * self.preprocess.kept((height, width))
            notes.append(
                f"{sum(self.cut.values())} of {self.images} images lose more than half of their area, as of "
                f"{height} x {width} only the middle {share:.0f} % is left (the first: {self.first_cut}). "
                "Prepare long images yourself, or choose another --size."
            )
        return notes

    def different_sizes(self) -> str | None:
        """A sentence where images differ in size and nothing makes them equal; None otherwise."""
        if len(self.sizes) < 2 or self.preprocess.size or self.preprocess.crop:
            return None
        common = ", ".join(f"{height} x {width} ({count})" for (height, width), count in self.sizes.most_common(3))
        return (
            f"the images have {len(self.sizes)}{'' if len(self.sizes) < SIZES else ' or more'} sizes: {common}. Those "
            "of another size than the first are left out: pass --size, or --resize and --crop, as at training."
        )

    def few_bits(self) -> str | None:
        """A sentence where all images look like those of fewer bits in 16-bit files; None otherwise."""
        if not self.images or self.preprocess.bits or not 0 < self.largest <= 2**14 / SIXTEEN_BITS:
            return None
        top = round(self.largest * SIXTEEN_BITS)
        bits = max(10, top.bit_length())
        return (
            f"no value of the {self.images} images is above {self.largest:.3g}: as of a {bits}-bit camera in 16-bit "
            f"files, of which the largest value would be {top}. Read so they are nearly black; pass --bits {bits}."
        )
