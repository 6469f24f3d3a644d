"""Data sets by name: from a file, folder, hub or archive name to numbered inputs, one module per kind of source."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradgeo.data import csv_file, files, lines, webdataset
from gradgeo.data.arrays import open_npy, open_npz
from gradgeo.data.csv_file import CsvFile
from gradgeo.data.digits import open_digits
from gradgeo.data.fit_loader import ReadableItems
from gradgeo.data.hub import open_hub
from gradgeo.data.images import ENDINGS, open_folder, open_image
from gradgeo.data.kept import checked_names
from gradgeo.data.own_data import is_own, open_own
from gradgeo.data.parquet import Parquet
from gradgeo.data.preprocess import Preparation, Preprocess
from gradgeo.data.remote import fetched, is_url
from gradgeo.data.source import Indexed, Item, Reader, Source, Stream, StreamReader
from gradgeo.data.transform import TextPreparation
from gradgeo.data.ucr import open_ucr
from gradgeo.errors import DataError, expected, public

__all__ = ["Indexed", "Item", "Preprocess", "ReadableItems", "Source", "Stream", "open_source"]

Usable = ReadableItems
"""The former name of `ReadableItems`."""

KINDS = (
    "an image, a folder of images or DICOM, a .csv or .tsv file, a .parquet file, a folder or pattern of them, a .npz "
    "or .npy file, .tar shards, file.py:function, hf:NAME, ucr:NAME, digits, or of texts a .txt or .jsonl file"
)

WITH_COLUMNS = "CSV, Parquet, .npz, hf: and .tar"


@public
def open_source(
    spec: str | Path,
    *,
    preprocess: Preparation | None = None,
    start: int = 0,
    limit: int | None = None,
    data_root: str | Path | None = None,
    class_order: tuple[str, ...] = (),
    streaming: bool = False,
    time: str | None = None,
    columns: Sequence[str] | None = None,
    label: str | None = None,
    keys: Sequence[str] = (),
    keep: Sequence[str] = (),
) -> Source:
    """The items of the data that `spec` names.

    Example:
        >>> source = open_source("digits/test", start=10, limit=2)
        >>> [(item.index, item.label, tuple(item.x.shape)) for item in source]
        [(10, 3, (1, 8, 8)), (11, 8, (1, 8, 8))]

    Args:
        spec: an image; a folder of images or DICOM, or of one sub-folder per class; a .csv or .tsv file with a row of
            names, whose columns are numbers or one of which names image files beside it; a .parquet file in the Hugging
            Face image layout, with number lists, fixed-shape tensors or columns of numbers, or a folder of such files;
            an .npz file with `x` and, if there are labels, `y`; an .npy file; WebDataset shards, .tar or .tar.gz, or a
            folder of them; a pattern of .parquet or .tar files, as `day-*.parquet` or `part-{000..146}.tar`;
            `hf:OWNER/NAME:SPLIT` or `hf:OWNER/NAME:CONFIG:SPLIT` of the Hugging Face hub, or `hf:` with
            a file or folder that its library reads; `file.py:function`, code of yours that gives a Dataset or an
            iterable of x, (x, y) or mappings; an address (s3://, gs://, https:// ...) of such files, which fsspec
            fetches into a cache; `ucr:NAME`, `ucr:NAME/train`, `ucr:NAME/test`; `digits`,
            `digits/train`, `digits/fit`, `digits/test` (write ./digits for a folder of that name). Of texts, which
            `TextPreparation` takes: a .csv, .tsv, .parquet or `hf:` column of texts, a .txt file of one text a line, a
            .jsonl file, `file.py:function`.
        preprocess: what is done to every input: a `Preprocess`, or what `load_transform` gives.
        start, limit: skip the first `start` items, then read at most `limit`.
        class_order: class names in the order of a classifier's outputs. Labels of data that names its classes are
            renumbered by name; the label of a name that is not listed is None.
        data_root: folder that holds the UCR archive; default $UCR_DATA_HOME.
        streaming: read `hf:` data over the network without storing it on disk.
        columns: of .csv, .tsv and .parquet files, those that are the model's inputs, in its order; None for all but
            label and time.
        label: its column of labels; None for the first called label, labels or y.
        keys: of `file.py:function` and .jsonl: those of the input and the label in items that are mappings; none for
            the usual ones, as image, pixel_values or text, and label or labels.
        time: the column, array (.npz) or key of a sample's .json (.tar) with the time of each item: a number, a date or
            ISO 8601 text.
        keep: columns, arrays or keys, as for `time`, whose values are carried along with the items as texts, in
            `Item.kept`.

    Returns:
        An `Indexed` source, a sized sequence whose items are read on access; for shards and with `streaming`, a
        `Stream` of unknown length. An item that cannot be read (truncated, empty, not an image, too large) has `x` None
        and an `error`, and its access does not raise. Images are float32 in [0, 1], (C, H, W). No content of a file is
        executed; `file.py:function` is.

    Raises:
        DataError: the data is missing or of another kind. ArgumentError: `start` or `limit` out of range.
        MissingDependencyError: Pillow, pyarrow, datasets or aeon is needed.
    """
    root = None if data_root is None else Path(data_root).expanduser()
    named = str(spec)
    name = fetched(named) if is_url(named) else named
    if streaming and not name.startswith("hf:"):
        raise expected("streaming", "False for data other than hf:, which is read in parts as it is", streaming)
    try:
        wanted: dict[str, Any] = {"time": time, "keep": checked_names(keep)}
        of_text = isinstance(preprocess, TextPreparation)
        raw = preprocess is not None and preprocess.raw
        ending = Path(name).suffix.lower()
        if keys and not is_own(name) and (ending != ".jsonl" or name.startswith("hf:")):
            raise expected("keys", "empty for data other than file.py:function and .jsonl", ", ".join(keys))
        if is_own(name) or (ending in lines.ENDINGS and not name.startswith("hf:")):
            if columns is not None or label is not None:
                raise expected("columns", "None for data without columns", name, "Pass keys (--keys text,label).")
            reader: Reader | StreamReader = _own(name, tuple(keys), wanted, raw=raw, of_text=of_text)
        elif ending in csv_file.ENDINGS and Path(name).expanduser().exists():
            reader = CsvFile(Path(name).expanduser(), columns, label, of_text=of_text, **wanted)
        else:
            by_name = {} if columns is None and label is None else {"columns": columns, "label": label}
            if by_name and (ending != ".parquet" or name.startswith("hf:")):
                rule = "None for data other than .csv, .tsv and .parquet files"
                raise expected("columns" if label is None else "label", rule, name)
            reader = _reader(name, root, streaming=streaming, columns=wanted | by_name, of_text=of_text)
    except OSError as error:
        raise DataError(f"{spec} cannot be read: {error}") from error
    options = {"preprocess": preprocess or Preprocess(), "start": start, "limit": limit, "class_order": class_order}
    if isinstance(reader, StreamReader):
        return Stream(reader, named, **wanted, **options)
    return Indexed(reader, named, **wanted, **options)


def _own(
    name: str, keys: tuple[str, ...], wanted: dict[str, Any], *, raw: bool, of_text: bool
) -> Reader | StreamReader:
    """The reader of data by keys: code of the user's, or lines of text."""
    if not is_own(name):
        if not of_text:
            raise DataError(f"{name} holds texts, which take a model made by gradgeo.text(model, tokenizer), or hf:.")
        return lines.Lines(Path(name).expanduser(), keys, **wanted)
    if wanted["time"] is not None or wanted["keep"]:
        raise expected("time" if wanted["time"] else "keep", "none for file.py:function", name)
    return open_own(name, keys, raw=raw)


def _reader(
    spec: str, root: Path | None, *, streaming: bool, columns: dict[str, Any], of_text: bool
) -> Reader | StreamReader:
    if spec.startswith("hf:"):
        return open_hub(spec, streaming=streaming, of_text=of_text, **columns)
    path = Path(spec).expanduser()
    built_in = spec == "digits" or spec.startswith(("digits/", "ucr:"))
    if not built_in and (reader := _open_table(spec, path, columns, of_text=of_text)) is not None:
        return reader
    if columns["time"] is not None:
        raise expected("time", "None for data without columns", columns["time"], f"{WITH_COLUMNS} data have times.")
    if columns["keep"]:
        raise expected("keep", "empty for data without columns", columns["keep"], f"{WITH_COLUMNS} data have some.")
    if built_in:
        return open_ucr(spec, root) if spec.startswith("ucr:") else open_digits(spec)
    if path.is_dir():
        return open_folder(path)
    if not path.exists():
        raise DataError(f"{spec} is not here: looked at {path.absolute()}. Data can be {KINDS}.")
    ending = path.suffix.lower()
    if ending == ".npy":
        return open_npy(path)
    if ending in ENDINGS:
        return open_image(path)
    raise DataError(f"{spec} is of no kind that can be read. Data can be {KINDS}.")


def _open_table(spec: str, path: Path, columns: dict[str, Any], *, of_text: bool) -> Reader | StreamReader | None:
    """The reader of Parquet, .npz or .tar data, the kinds with named columns; None for any other kind."""
    if path.is_dir():
        if files.files_below(path, ENDINGS, at_most=1):  # a folder of images may hold their verdicts as Parquet
            return None
        for endings in ((".parquet",), webdataset.ENDINGS):
            if paths := files.files_below(path, endings):
                if endings != (".parquet",):
                    return webdataset.Shards(paths, **columns)
                return Parquet(paths, of_text=of_text, **columns)
        return None
    paths = [path] if path.exists() else files.expand(spec) if any(c in spec for c in "*?[{") else []
    names = {file.name.lower() for file in paths}
    if names and all(name.endswith(".parquet") for name in names):
        return Parquet(paths, of_text=of_text, **columns)
    if names and all(name.endswith(webdataset.ENDINGS) for name in names):
        return webdataset.Shards(paths, **columns)
    if len(paths) > 1:
        raise DataError(
            f"expected the files of {spec} to be all .parquet or all .tar, got {', '.join(sorted(names)[:3])}."
        )
    return open_npz(path, **columns) if names and path.suffix.lower() == ".npz" else None
