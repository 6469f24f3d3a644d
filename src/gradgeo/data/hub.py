"""Data sets of Hugging Face: by their name on the hub, or in the files and folders that its library writes.

`hf:NAME`, `hf:NAME:SPLIT` or `hf:NAME:CONFIG:SPLIT`, where NAME is OWNER/NAME on the hub, or a file or folder, which
wins where both are there: no hub name, configuration or split holds a colon. The split may be left out where there
is only one.

Source: Q. Lhoest et al., "Datasets: a community library for natural language processing", EMNLP 2021 (demonstrations).
"""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gradgeo.data.arrays import as_input
from gradgeo.data.images import decode
from gradgeo.data.source import class_labels
from gradgeo.errors import DataError, GradgeoError, require

GRAMMAR = "hf:OWNER/NAME:SPLIT, hf:OWNER/NAME:CONFIG:SPLIT, or a file or folder in place of OWNER/NAME"

LABELS = ("label", "fine_label", "labels", "target")
"""What a column of labels is called where none is a ClassLabel."""

FILES = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json"}
"""Files that are read alone, and the library's name for their kind."""

READERS = frozenset({*FILES.values(), "imagefolder", "cache"})
"""Kinds that are read: those of its readers that neither run code of a data set nor unpack Python objects."""

SAVED = ("dataset_dict.json", "state.json")
"""What `save_to_disk` leaves in a folder of splits, and in one of a single split."""

PATIENCE = 5.0
"""Seconds the hub has to answer before only the cache is looked at; the library itself would ask for half a minute."""

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
NUMBER = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")


@dataclass(frozen=True)
class Address:
    """What a specification names; `path` is None for a name on the hub."""

    spec: str
    name: str
    config: str | None
    split: str | None
    path: Path | None


class Rows:
    """The rows of one split, taken as Arrow, so that what a row holds is decoded here and an item at a time.

    The input is the first image, or else the first column of number lists (`Array2D` to `Array5D`, or nested lists)
    or of image bytes. A path in a row is opened only below one of `roots`: a folder that the caller named or the
    library's own cache; elsewhere it is a name.
    """

    def __init__(self, dataset: Any, spec: str, roots: Sequence[Path]) -> None:
        self._library = require("datasets", "hub")
        column = self._input_column(dataset.features, spec)
        self._dtype = self._numbers(dataset.features[column])
        if self._dtype is None:
            require("PIL.Image", "images")
        self._rows = dataset.select_columns([column]).with_format("arrow")
        self._roots = [root.resolve() for root in roots]
        self.labels: list[int | None] | None = None
        self.classes: tuple[str, ...] = ()
        label = self._label_column(dataset.features)
        if label is not None:
            values = dataset.select_columns([label]).with_format("arrow")[:].column(0)
            feature = dataset.features[label]
            if isinstance(feature, self._library.ClassLabel):
                self.classes = tuple(feature.names)
                known = range(len(self.classes))  # -1 marks a withheld label
                self.labels = [value if value in known else None for value in values.to_pylist()]
            else:
                self.labels, self.classes = class_labels(np.asarray(values.to_numpy()), spec)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        """The path written beside the image, without the folder that was named, or else the row's number."""
        path = _field(self._cell(index), "path")
        if not path:
            return str(index)
        below = [root for root in self._roots if Path(path).is_relative_to(root)]
        return Path(path).relative_to(below[0]).as_posix() if below else str(path)

    def load(self, index: int) -> Tensor:
        """The decoded image (C, H, W), or the numbers of the row."""
        cell = self._cell(index)
        if not cell.is_valid:
            raise DataError("no data in the row")
        if self._dtype is not None:  # the type of an array is Arrow's list under another name
            return as_input(np.array(getattr(cell, "value", cell).as_py(), dtype=self._dtype))
        data = _field(cell, "bytes") if hasattr(cell, "keys") else cell.as_py()
        return decode(self._file(_field(cell, "path")) if data is None else data)

    def _cell(self, index: int) -> Any:
        return self._rows[index].column(0)[0]

    def _file(self, path: str | None) -> bytes:
        """The bytes of a file that a row names."""
        file = Path(path or "").resolve()
        if not path or not any(file.is_relative_to(root) for root in self._roots):
            raise DataError("no data in the row (a file outside the data set that its path names is not read)")
        if not file.is_file():  # opening a named pipe would wait for ever
            raise DataError("the row names something that is not a regular file")
        return file.read_bytes()

    def _input_column(self, features: Any, spec: str) -> str:
        images = [name for name, feature in features.items() if isinstance(feature, self._library.Image)]
        others = [
            name
            for name, feature in features.items()
            if name not in LABELS and (self._numbers(feature) is not None or self._is_bytes(feature))
        ]
        if not images and not others:
            found = ", ".join(f"{name}: {self._kind(feature)}" for name, feature in features.items())
            raise DataError(f"expected a column of images or of number lists in {spec}, got {found or 'no columns'}.")
        return str([*images, *others][0])

    def _label_column(self, features: Any) -> str | None:
        named = [name for name, feature in features.items() if isinstance(feature, self._library.ClassLabel)]
        plain = [name for name in LABELS if isinstance(features.get(name), self._library.Value)]
        return next(iter([*named, *plain]), None)

    def _numbers(self, feature: Any) -> np.dtype[Any] | None:
        """The type of the numbers in a column of arrays or lists of them; None for any other."""
        library = self._library
        inner = feature
        while isinstance(inner, library.List | library.LargeList):
            inner = inner.feature
        listed = inner is not feature and isinstance(inner, library.Value) and NUMBER.fullmatch(inner.dtype)
        arrays = (library.Array2D, library.Array3D, library.Array4D, library.Array5D)
        if not listed and not isinstance(feature, arrays):
            return None
        dtype: np.dtype[Any] = np.dtype(inner.dtype)
        return dtype

    def _is_bytes(self, feature: Any) -> bool:
        """Whether a column holds encoded images without saying so."""
        if isinstance(feature, dict):
            feature = feature.get("bytes")
        return isinstance(feature, self._library.Value) and feature.dtype in ("binary", "large_binary")

    def _kind(self, feature: Any) -> str:
        return str(feature.dtype) if isinstance(feature, self._library.Value) else type(feature).__name__


def open_hub(spec: str) -> Rows:
    """The split that `spec` names.

    What is on the hub is downloaded once, all splits of its configuration, and kept as Arrow in the library's cache
    ($HF_DATASETS_CACHE), as are local files other than those of `save_to_disk`. Without the hub the cache serves alone.
    """
    library = require("datasets", "hub")
    address = parse(spec)
    roots = [*([address.path] if address.path and address.path.is_dir() else []), *_caches(library)]
    try:
        return Rows(_dataset(library, address), spec, roots)
    except GradgeoError:
        raise
    except Exception as error:  # a download, a broken file or a wrong name fails in many ways
        raise DataError(f"{spec} cannot be read: datasets says {_says(error)}") from error


def parse(spec: str) -> Address:
    """The parts of a specification.

    Example:
        >>> address = parse("hf:ufldl-stanford/svhn:cropped_digits:test")
        >>> address.name, address.config, address.split
        ('ufldl-stanford/svhn', 'cropped_digits', 'test')
    """
    name, config, split = spec.removeprefix("hf:"), None, None
    if not _exists(name) and ":" in name:
        name, _, split = name.rpartition(":")
        if not _exists(name) and ":" in name:
            name, _, config = name.rpartition(":")
    path = Path(name).expanduser().absolute() if _exists(name) else None
    if split == "" or config == "" or not name:
        raise DataError(f"expected {GRAMMAR}, got {spec}.")
    if path is None and not HUB_NAME.fullmatch(name):
        where = Path(name).expanduser().absolute()
        raise DataError(f"{spec} is not here: looked at {where}. Write {GRAMMAR}.")
    return Address(spec, name, config, split, path)


def _dataset(library: Any, address: Address) -> Any:
    """The split, from wherever it is."""
    if address.path is not None and any((address.path / name).is_file() for name in SAVED):
        if address.config is not None:
            raise DataError(f"{address.spec} was written by save_to_disk and has no configurations.")
        loaded = library.load_from_disk(str(address.path))
        parts = loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
        return parts[_split(address, parts)]
    builder = _local(library, address) if address.path is not None else _remote(library, address)
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in READERS:
        read = ", ".join(sorted(READERS - {"cache"}))
        raise DataError(f"{address.spec} is of the kind {kind}, which is not read; read are {read}.")
    if builder.info.splits:  # known before the download, which would be in vain for a wrong name
        _split(address, builder.info.splits)
    builder.download_and_prepare()
    return builder.as_dataset(split=_split(address, builder.info.splits))


def _local(library: Any, address: Address) -> Any:
    """What reads a file or folder."""
    assert address.path is not None
    if address.path.is_dir():
        return library.load_dataset_builder(str(address.path), address.config)
    kind = FILES.get(address.path.suffix.lower())
    if kind is None:
        raise DataError(f"{address.spec} is no folder and none of {', '.join(FILES)}.")
    return library.load_dataset_builder(kind, address.config, data_files=glob.escape(str(address.path)))


def _remote(library: Any, address: Address) -> Any:
    """What reads a data set of the hub: the newest version, or the one in the cache where the hub does not answer."""
    endpoint = library.config.HF_ENDPOINT
    offline = _silence(library, endpoint)
    try:
        if offline is None:
            return library.load_dataset_builder(address.name, address.config)
        return require("datasets.packaged_modules.cache.cache", "hub").Cache(
            dataset_name=address.name.rpartition("/")[2],
            repo_id=address.name,
            config_name=address.config,
            version="auto",
            hash="auto",
        )
    except Exception as error:  # a download fails in many ways
        unheard = f", which does not answer ({offline})" if offline else ""
        cache = library.config.HF_DATASETS_CACHE
        raise DataError(
            f"{address.spec} is not here: looked at {Path(address.name).absolute()}, in {cache} and at "
            f"{endpoint}/datasets/{address.name}{unheard}; datasets says {_says(error)}. Open it once with a network "
            "and without HF_HUB_OFFLINE, which keeps it in the cache, or copy its files here and write hf:FOLDER."
        ) from error


def _silence(library: Any, endpoint: str) -> str | None:
    """Why the hub cannot be asked; None where it answers, whatever it says."""
    if library.config.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        require("huggingface_hub", "hub").get_session().head(endpoint, timeout=PATIENCE)
    except Exception as error:  # whatever the network, a proxy or the client raises
        return _says(error)
    return None


def _split(address: Address, splits: Any) -> str:
    """The split to take of those there are."""
    names = [str(name) for name in splits]
    if address.split is None and len(names) == 1:
        return names[0]
    if address.split not in names:
        base = f"hf:{address.name}:{address.config}" if address.config else f"hf:{address.name}"
        raise DataError(
            f"expected one of the splits {', '.join(names)}, got {address.split or 'none'} in {address.spec}. "
            f"Write {base}:{names[0]}"
        )
    return address.split


def _caches(library: Any) -> list[Path]:
    """Where the library keeps the files that the rows of an image folder name."""
    config = library.config
    kept = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH)
    return [*map(Path, kept), Path(require("huggingface_hub.constants", "hub").HF_HUB_CACHE)]


def _field(cell: Any, field: str) -> Any:
    """A part of a row's struct; None where there is none."""
    return cell[field].as_py() if cell.is_valid and field in getattr(cell, "keys", tuple)() else None


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, no such user
        return False


def _says(error: Exception) -> str:
    """The first line of an error and of its cause, which some errors of the library leave to be looked up."""
    facts = [fact for fact in (error, error.__cause__) if fact is not None]
    return "; ".join(": ".join([type(fact).__name__, *str(fact).strip().splitlines()[:1]]) for fact in facts)
