"""What a file of verdicts holds: its columns, their types, its metadata key and version, and the state of a run.

Both sides, the writers and the readers of this package, take all of it from here.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradgeo._files import atomic_stream

FORMAT, VERSION = "gradgeo-scores", 1

METADATA_KEY = b"gradgeo"
"""The key of an Arrow schema's metadata under which the JSON of `Metadata` stands."""

Columns = dict[str, list[Any]]
"""Some rows of verdicts, column by column, None where a row has no value."""

INTEGERS, STRINGS = ("int", "uint"), ("string", "large_string")
NUMBERS = ("float", "double", "halffloat", *INTEGERS)
TEXTS, LISTS = (*STRINGS, "dictionary"), ("list", "large_list", "fixed_size_list")


MOST_EVIDENCE = 64
"""Kinds of evidence that a file may name."""

MOST_CLASSES, MOST_POINTS = 10, 256
"""Of a CSM and of a signal that is shown."""


@dataclass(frozen=True)
class Column:
    """One column of a file of verdicts."""

    arrow: str
    """Name of the Arrow type that `score` writes; `list:` before that of the entries of a list."""

    reads: tuple[str, ...]
    """How the names of the Arrow types may begin that a report reads; the first names the rule in messages."""

    required: bool = False
    """Whether a file without the column is no file of verdicts."""

    entries: int = 1
    """The most entries of a list in the column that a report reads."""

    @property
    def scalar(self) -> bool:
        """Whether CSV has the column too."""
        return self.arrow != "binary" and not self.arrow.startswith("list:")


SCHEMA: dict[str, Column] = {
    "index": Column("int64", INTEGERS, required=True),
    "name": Column("string", TEXTS, required=True),
    "label": Column("int64", INTEGERS, required=True),
    "probability": Column("float64", NUMBERS, required=True),
    "outlier_score": Column("float64", NUMBERS, required=True),
    "p_value": Column("float64", NUMBERS, required=True),
    "trusted": Column("bool_", ("bool",), required=True),
    "error": Column("string", (*TEXTS, "null"), required=True),
    "true_label": Column("int64", (*INTEGERS, "null")),
    "cause": Column("string", (*TEXTS, "null")),
    "evidence": Column("list:float32", (*LISTS, "null"), entries=MOST_EVIDENCE),
    "time": Column("float64", (*NUMBERS, "timestamp", "date", "null")),
    "thumbnail": Column("binary", ("binary", "large_binary", "null")),
    "signal": Column("list:float32", (*LISTS, "null"), entries=MOST_POINTS),
    "csm": Column("list:float32", (*LISTS, "null"), entries=MOST_CLASSES**2),
    "csm_classes": Column("list:int32", (*LISTS, "null"), entries=MOST_CLASSES),
    "saliency": Column("binary", ("binary", "large_binary", "null")),
}
"""The columns of verdicts; `true_label` only for data with labels, `time` only where it was asked for."""

ASKED: dict[str, Column] = {
    "compared": Column("int64", (*INTEGERS, "null")),
    "q_value": Column("float64", (*NUMBERS, "null")),
    "label_name": Column("string", (*TEXTS, "null")),
    "true_label_name": Column("string", (*TEXTS, "null")),
}
"""Those behind them: where asked for, with how many calibration inputs a p-value compares, and q-values; where classes
have names, those of the labels."""

KEPT = Column("string", (*TEXTS, "null"))
"""A column of the data that is carried along."""


def column(name: str) -> Column:
    """What a column of that name is; one that gradgeo does not write itself is kept."""
    return SCHEMA.get(name) or ASKED.get(name) or KEPT


COLUMNS = tuple(SCHEMA)
"""Their names, in the order of a file."""

PREVIEW_COLUMNS = ("thumbnail", "signal", "csm", "saliency")
"""What a person is shown of an input; of trusted ones the first two, and of few."""

TEXT_COLUMNS = tuple(name for name, column in (SCHEMA | ASKED).items() if column.arrow == "string")

COUNTED_COLUMNS = ("name", "label", "trusted", "error", "true_label", "cause")
"""What a `Summary` counts."""


STATE_FILE = "_gradgeo.json"
"""The state of a run in its folder of parts; readers of Parquet data sets pass over names that begin with _."""

LARGEST_STATE = 1 << 26
"""Bytes of a state file; that of a million class names is smaller."""


@dataclass(frozen=True)
class RunState:
    """What a folder of parts says of the run that writes it."""

    settings: dict[str, Any]
    """All that the rows depend on, see `Manifest`."""

    rows: int | None
    """How many rows the parts have together; None while the run has not ended."""

    def write(self, folder: Path, *, advice: str = "") -> None:
        """Write it to `folder`. Raises: DataError, whose message ends with `advice`."""
        state = {"format": FORMAT, "settings": self.settings, "rows": self.rows}
        with atomic_stream(folder / STATE_FILE, advice=advice, follow_links=False) as stream:
            stream.write(json.dumps(state, indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> "RunState | None":
        """The state in `folder`; None where there is none, or something else under its name."""
        file = folder / STATE_FILE
        try:
            if not file.is_file() or file.stat().st_size > LARGEST_STATE:
                return None
            state = json.loads(file.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(state, dict) or state.get("format") != FORMAT or not isinstance(state.get("settings"), dict):
            return None
        rows = state.get("rows")
        whole = rows is None or (isinstance(rows, int) and not isinstance(rows, bool))
        return cls(state["settings"], rows) if whole else None
