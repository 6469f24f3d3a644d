"""The public image data sets of the benchmark by their usual names: a local file, or else the Hugging Face hub."""

import re
from dataclasses import dataclass
from pathlib import Path

from gradgeo.data import Preprocess, Source, open_source
from gradgeo.errors import DataError, MissingDependencyError, choice, public

CIFAR = "A. Krizhevsky, Learning multiple layers of features from tiny images, technical report, Toronto, 2009"
EMNIST = "G. Cohen et al., EMNIST: extending MNIST to handwritten letters, arXiv 1702.05373, 2017"


@dataclass(frozen=True, kw_only=True)
class Named:
    """A public data set.

    Attributes:
        hub: OWNER/NAME on the Hugging Face hub; None where no copy there is known to be plain data.
        config: its configuration; None where it has one.
        splits: their names.
        shape: of an image (C, H, W), in pixels.
        classes: how many.
        paper: the source to cite.
    """

    hub: str | None
    config: str | None = None
    splits: tuple[str, ...] = ("train", "test")
    shape: tuple[int, int, int] = (1, 28, 28)
    classes: int = 10
    paper: str


NAMED = {
    "mnist": Named(
        hub="ylecun/mnist",
        paper="Y. LeCun et al., Gradient-based learning applied to document recognition, Proceedings of the IEEE, 1998",
    ),
    "fashion_mnist": Named(
        hub="zalando-datasets/fashion_mnist",
        paper="H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv 1708.07747, 2017",
    ),
    "kmnist": Named(
        hub="tanganke/kmnist",
        paper="T. Clanuwat et al., Deep learning for classical Japanese literature, arXiv 1812.01718, 2018",
    ),
    "emnist_letters": Named(hub="tanganke/emnist_letters", classes=26, paper=EMNIST),
    "emnist_balanced": Named(hub=None, classes=47, paper=EMNIST),
    "emnist_digits": Named(hub=None, paper=EMNIST),
    "cifar10": Named(hub="uoft-cs/cifar10", shape=(3, 32, 32), paper=CIFAR),
    "cifar100": Named(hub="uoft-cs/cifar100", shape=(3, 32, 32), classes=100, paper=CIFAR),
    "svhn": Named(
        hub="ufldl-stanford/svhn",
        config="cropped_digits",
        splits=("train", "test", "extra"),
        shape=(3, 32, 32),
        paper="Y. Netzer et al., Reading digits in natural images with unsupervised feature learning, NIPS workshop, "
        "2011",
    ),
}
"""By name. CIFAR-100 has its 100 fine classes; EMNIST's letters stand transposed, as its authors wrote them."""


@public
def find(
    name: str,
    split: str = "test",
    folder: str | Path | None = None,
    *,
    preprocess: Preprocess | None = None,
    start: int = 0,
    limit: int | None = None,
) -> Source:
    """A public data set: a file in `folder`/data, or else what Hugging Face's cache or hub has.

    The file is NAME-SPLIT.parquet, or NAME-SPLIT-COUNT.parquet for a part of the split; - and _ in NAME are the
    same. The whole split is preferred to a part, a larger part to a smaller one.

    Example:
        >>> NAMED["svhn"].hub, NAMED["svhn"].shape
        ('ufldl-stanford/svhn', (3, 32, 32))

    Args:
        name: one of `NAMED`.
        split: one of its splits.
        folder: what holds data/; None to ask Hugging Face alone.
        preprocess, start, limit: as in `open_source`.

    Raises:
        ArgumentError: there is no such name or split. DataError: the data is nowhere (the message says where it was
            looked for and how to get it), or has another number of classes than it should.
    """
    name = name.replace("-", "_")
    choice("name", name, tuple(NAMED))
    entry = NAMED[name]
    choice("split", split, entry.splits)
    data = None if folder is None else Path(folder).expanduser().absolute() / "data"
    file = None if data is None else _local(data, name, split)
    try:
        source = open_source(file or _address(entry, split), preprocess=preprocess, start=start, limit=limit)
    except (DataError, MissingDependencyError) as error:
        if file is not None:
            raise
        looked = f"looked in {data}" if data else "no folder was named to look in"
        raise DataError(
            f"the {split} split of {name} is not here: {looked} for {name}-{split}.parquet, and {error.args[0]} "
            f"Source: {entry.paper}."
        ) from error
    if source.classes and len(source.classes) != entry.classes:
        raise DataError(f"expected {name} to have {entry.classes} classes, got {len(source.classes)} in {source.spec}.")
    return source


def _address(entry: Named, split: str) -> str:
    """What `open_source` calls it on the hub."""
    if entry.hub is None:
        raise DataError("no copy on the Hugging Face hub is known to be plain data. Write that file from the original.")
    return ":".join(["hf", entry.hub, *([entry.config] if entry.config else []), split])


def _local(data: Path, name: str, split: str) -> Path | None:
    """The file with the most of the split; None where there is none."""
    form = re.compile(rf"{name.replace('_', '[-_]')}-{split}(?:-(\d+))?\.parquet")
    versions = [(file, match[1]) for file in data.glob("*.parquet") if (match := form.fullmatch(file.name))]
    return max(versions, key=lambda item: float(item[1] or "inf"))[0] if versions else None
