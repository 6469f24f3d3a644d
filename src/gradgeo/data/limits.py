"""How much memory readers take at the word of a file: some hundred bytes can state, or unpack to, any number.

What is above a limit is an item with an error, or data that is refused, before its memory is taken. Readers look limits
up here at each use, so that tests and fuzzing can lower them.
"""

from gradgeo.errors import DataError

MOST_PIXELS = 1 << 26
"""Pixels of the largest image that is decoded or made by resizing: 67 million, 805 MB as float32 RGB."""

MOST_SCANS = 100
"""Scans of a JPEG, each of which takes the time of decoding all pixels; encoders write about ten."""

LARGEST_ITEM = 1 << 28
"""Bytes of one item as it is stored: an image file, the members of a sample in a shard, the cell of a row."""

LARGEST_INPUT = 1 << 30
"""Bytes of one item as float32."""

LARGEST_TEXT = 1 << 22
"""Bytes of a label or of the JSON beside an item. Parsed JSON takes up to 80 times its bytes."""

LARGEST_HEADER = 1 << 17
"""Bytes of all headers before one member of a shard: long names, pax records, maps of sparse files."""

LARGEST_SHARD = 1 << 36
"""Bytes that a compressed shard unpacks to, which bounds time; memory does not depend on it."""

LARGEST_ARRAY = 1 << 31
"""Bytes of a compressed array in an .npz, which is unpacked as a whole."""

LARGEST_ROW_GROUP = 1 << 30
"""Bytes of one column in a Parquet row group, unpacked."""

LARGEST_VERDICTS = 1 << 28
"""Bytes of one column of verdicts in a Parquet row group, unpacked, of which a report keeps each text once."""

ROWS_AT_ONCE = 1 << 26
"""Bytes that the rows of a Parquet file that are unpacked together may take."""

CACHED_ROWS = 1 << 28
"""Bytes of unpacked Parquet rows that are kept for the threads that read ahead; more where a row group is larger."""

LARGEST_LABELS = 1 << 29
"""Bytes of the array or column of all labels or times."""

MOST_LABELS = 1 << 26
"""Items of data with labels or times, which are kept in memory for all items."""

BATCH = 1 << 29
"""Bytes of undecoded items in a batch of a stream; a batch that reaches it has fewer items than asked for."""

READ_AHEAD = 1 << 29
"""Bytes of items that wait for the model, beyond the batch that it asks for."""


class TooManyPixelsError(DataError):
    """An image whose header states more pixels than are decoded."""


def check_size(what: str, size: int, limit: int, advice: str = "") -> None:
    """Raises: DataError where `what` takes more bytes than `limit`."""
    if size > limit:
        raise DataError(f"{what} has {size} bytes; at most {limit} are read" + (f". {advice}" if advice else ""))


def check_labels(place: str, rows: int) -> None:
    """Raises: DataError where data has more labels or times than are kept in memory."""
    if rows > MOST_LABELS:
        raise DataError(
            f"{place} has {rows} rows; labels and times of at most {MOST_LABELS} are kept in memory. Split the data."
        )
