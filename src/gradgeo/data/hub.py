"""Hugging Face data sets: by their name on the hub, or as files and folders that its library writes.

`hf:NAME`, `hf:NAME:SPLIT` or `hf:NAME:CONFIG:SPLIT`, where NAME is OWNER/NAME on the hub, or a file or folder, which
has precedence. No hub name, configuration or split contains a colon. The split is optional where there is only one.

Source: Q. Lhoest et al., "Datasets: a community library for natural language processing", EMNLP 2021 (demonstrations).
"""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradgeo._files import check_regular
from gradgeo.data.hub_rows import Rows, StreamedRows
from gradgeo.errors import DataError, GradgeoError, require

GRAMMAR = "hf:OWNER/NAME:SPLIT, hf:OWNER/NAME:CONFIG:SPLIT, or a file or folder in place of OWNER/NAME"

FILES = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json"}
"""Endings of single files, and the library's name of their format."""

READERS = frozenset({*FILES.values(), "imagefolder", "cache"})
"""The library's readers that are allowed: those that neither run code of a data set nor unpack Python objects."""

SAVED = ("dataset_dict.json", "state.json")
"""Files that `save_to_disk` writes into a folder of splits, and into one of a single split."""

HUB_TIMEOUT = 5.0
"""Seconds to wait for the hub before the cache alone is used; the library itself would try for half a minute."""

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Address:
    """The parts of a specification; `path` is None for a name on the hub."""

    spec: str
    name: str
    config: str | None
    split: str | None
    path: Path | None


def open_hub(
    spec: str,
    *,
    streaming: bool = False,
    time: str | None = None,
    keep: Sequence[str] = (),
    of_text: bool = False,
) -> Rows | StreamedRows:
    """The split that `spec` names.

    A data set of the hub is downloaded once, all splits of its configuration, and stored as Arrow in the cache of the
    library ($HF_DATASETS_CACHE), as are local files other than those of `save_to_disk`. Without the hub, the cache is
    used. With `streaming` nothing is stored.
    """
    library = require("datasets", "hub")
    address = parse(spec)
    roots = [*([address.path] if address.path and address.path.is_dir() else []), *_caches(library)]
    try:
        if streaming:
            dataset, version = _streamed(library, address)
            return StreamedRows(dataset, spec, roots, time, version, keep, of_text=of_text)
        return Rows(_dataset(library, address), spec, roots, time, keep, of_text=of_text)
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
    """The split, from the disk, the cache or the hub."""
    if address.path is not None and any((address.path / name).is_file() for name in SAVED):
        if address.config is not None:
            raise DataError(f"{address.spec} was written by save_to_disk and has no configurations.")
        loaded = library.load_from_disk(str(address.path))
        parts = loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
        return parts[_split(address, parts)]
    builder = _builder(library, address)
    if builder.info.splits:  # a wrong name fails before the download
        _split(address, builder.info.splits)
    builder.download_and_prepare()
    return builder.as_dataset(split=_split(address, builder.info.splits))


def _streamed(library: Any, address: Address) -> tuple[Any, str]:
    """The split as a stream, and an identifier of its version."""
    if address.path is not None and any((address.path / name).is_file() for name in SAVED):
        raise DataError(
            f"{address.spec} was written by save_to_disk and is on disk already. Take it without streaming."
        )
    builder = _builder(library, address)
    splits = builder.as_streaming_dataset()
    return splits[_split(address, splits)], str(getattr(builder, "hash", None) or builder.config_id)


def _builder(library: Any, address: Address) -> Any:
    """The library's reader of the data set. Raises: DataError for one that runs code or unpacks Python objects."""
    builder = _local(library, address) if address.path is not None else _remote(library, address)
    kind = type(builder).__module__.rpartition(".")[2]
    if kind not in READERS:
        read = ", ".join(sorted(READERS - {"cache"}))
        raise DataError(f"{address.spec} is of the kind {kind}, which is not read; read are {read}.")
    return builder


def _local(library: Any, address: Address) -> Any:
    """The library's reader of a file or folder."""
    assert address.path is not None
    if address.path.is_dir():
        return library.load_dataset_builder(str(address.path), address.config)
    kind = FILES.get(address.path.suffix.lower())
    check_regular(address.path)
    if kind is None:
        raise DataError(f"{address.spec} is no folder and none of {', '.join(FILES)}.")
    return library.load_dataset_builder(kind, address.config, data_files=glob.escape(str(address.path)))


def _remote(library: Any, address: Address) -> Any:
    """The library's reader of a data set of the hub: the newest version, or the cached one where the hub is offline."""
    endpoint = library.config.HF_ENDPOINT
    offline = _offline(library, endpoint)
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
        reason = f", which does not answer ({offline})" if offline else ""
        cache = library.config.HF_DATASETS_CACHE
        raise DataError(
            f"{address.spec} is not here: looked at {Path(address.name).absolute()}, in {cache} and at "
            f"{endpoint}/datasets/{address.name}{reason}; datasets says {_says(error)}. Open it once with a network "
            "and without HF_HUB_OFFLINE, which keeps it in the cache, or copy its files here and write hf:FOLDER."
        ) from error


def _offline(library: Any, endpoint: str) -> str | None:
    """The reason why the hub cannot be reached; None where it answers with any status."""
    if library.config.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        require("huggingface_hub", "hub").get_session().head(endpoint, timeout=HUB_TIMEOUT)
    except Exception as error:  # whatever the network, a proxy or the client raises
        return _says(error)
    return None


def _split(address: Address, splits: Any) -> str:
    """The split of the specification, checked, or else the only one."""
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
    """The library's cache folders, which hold the files that rows of an image folder name."""
    config = library.config
    folders = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH)
    return [*map(Path, folders), Path(require("huggingface_hub.constants", "hub").HF_HUB_CACHE)]


def _exists(name: str) -> bool:
    try:
        return bool(name) and Path(name).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, no such user
        return False


def _says(error: Exception) -> str:
    """The first line of an error and of its cause, which holds the reason for some errors of the library."""
    facts = [fact for fact in (error, error.__cause__) if fact is not None]
    return "; ".join(": ".join([type(fact).__name__, *str(fact).strip().splitlines()[:1]]) for fact in facts)
