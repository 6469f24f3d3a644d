"""What items were in their files, and what a person may have missed of that."""

import numpy as np
import pytest
import torch

from gradgeo.data import Preprocess, open_source
from gradgeo.data.as_read import AsRead, Tally
from gradgeo.data.preprocess import SIXTEEN_BITS
from gradgeo.data.source import Item
from gradgeo.errors import ArgumentError, DataError


def item(shape: tuple[int, ...], *, channels: int | None = None, largest: float = 1.0) -> Item:
    x = torch.zeros(channels or shape[0], 4, 4)
    return Item(0, f"{shape[2]}.png", x, None, None, as_read=AsRead(shape, largest))


def test_sizes_channels_and_what_is_cut_are_said_once_each() -> None:
    tally = Tally(Preprocess())
    tally.add([item((1, 300, 300)), item((1, 300, 300)), item((3, 280, 300), channels=1)])
    tally.add(
        [Item(3, "broken", None, None, "empty"), Item(4, "row", torch.zeros(3), None, None, as_read=AsRead((3,), None))]
    )
    assert (tally.items, tally.images) == (4, 3)
    assert str(tally.different_sizes()).startswith("the images have 2 sizes: 300 x 300 (2), 280 x 300 (1). Those")
    assert tally.notes() == [
        "1 of 3 images are in colours in their files and were made grey, by the usual weights of red, green and blue."
    ]
    strips = Tally(Preprocess(size=(96, 96)))
    strips.add([item((1, 100, 300)), item((1, 100, 120))])
    assert strips.different_sizes() is None
    assert strips.notes()[0].startswith(
        "1 of 2 images lose more than half of their area, as of 100 x 300 only the middle 33 % is left (the first: 300.png)"
    )


@pytest.mark.parametrize(
    ("preprocess", "size", "kept"),
    [
        (Preprocess(), (5, 7), 1.0),
        (Preprocess(size=(96, 96)), (100, 300), 1 / 3),
        (Preprocess(resize=256, crop=(224, 224)), (300, 300), 224**2 / 256**2),
        (Preprocess(crop=(8, 8)), (4, 16), 0.5),
    ],
)
def test_the_share_that_is_kept(preprocess: Preprocess, size: tuple[int, int], kept: float) -> None:
    assert preprocess.kept(size) == pytest.approx(kept)


def test_twelve_bits_in_sixteen_are_seen() -> None:
    tally = Tally(Preprocess())
    tally.add([item((1, 4, 4), largest=4000 / SIXTEEN_BITS)])
    assert "of a 12-bit camera in 16-bit files, of which the largest value would be 4000." in str(tally.few_bits())
    tally.add([item((1, 4, 4), largest=0.9)])
    assert tally.few_bits() is None
    x = torch.tensor([[[0.0, 4095 / SIXTEEN_BITS]]])
    assert Preprocess(bits=12)(x).flatten().tolist() == pytest.approx([0.0, 1.0])
    with pytest.raises(DataError, match="expected 16 bits of which 12 are used, got larger values"):
        Preprocess(bits=12)(torch.ones(1, 2, 2))
    with pytest.raises(ArgumentError, match=r"expected bits to be 8\.\.15 or None"):
        Preprocess(bits=16)
    assert "bits" not in Preprocess().as_dict()
    assert Preprocess.from_dict(Preprocess(bits=12).as_dict()) == Preprocess(bits=12)


def test_a_source_brings_images_to_channels_and_nothing_else(tmp_path: pytest.TempPathFactory) -> None:
    np.save(f"{tmp_path}/a.npy", np.full((2, 3, 4, 4), 0.5, np.float32))
    source = open_source(f"{tmp_path}/a.npy").match((1, 4, 4))
    assert [tuple(each.x.shape) for each in source] == [(1, 4, 4)] * 2
    assert [*source.names()] == ["0", "1"]
    assert source.match((16,)).channels is None
    assert open_source(f"{tmp_path}/a.npy").match((3, 4, 4))[0].x.tolist() == source[0].x.tolist()
