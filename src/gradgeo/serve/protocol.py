"""The words of the protocol: outputs, what a request asks for, and from verdicts to bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import pydantic_core
from numpy.typing import NDArray

from gradgeo.serve import byte_tensors

INPUT = "input"
DTYPES: dict[str, Any] = {
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
BINARY = "binary_data_size"

OUTPUTS = {
    "logits": "FP32",
    "label": "INT64",
    "probability": "FP64",
    "outlier_score": "FP64",
    "p_value": "FP64",
    "trusted": "BOOL",
    "compared": "INT64",
    "cause": "BYTES",
}
"""Names and types of the outputs; `cause` only on request, because it costs explanations."""

DEFAULT = tuple(name for name in OUTPUTS if name not in ("compared", "cause"))
"""What is answered where no outputs are named; conditional requests add `compared`."""

CONDITIONS = ("class",)
"""What `Detector.predict` takes as `conditional`, named here for processes that do without PyTorch."""

AMONG_ALL = "p_among_all"
"""The column beside conditional p-values that watches follow."""

Column = NDArray[Any] | list[str]
Columns = Mapping[str, Column]
"""Outputs by name, of some rows."""


class Detail(IntEnum):
    """How much is asked of a batch; requests of one batch ask for the same."""

    VERDICTS = 0
    CAUSE = 1
    """Explanations of the rows that are not trusted."""
    PICTURES = 2
    """Explanations, maps and CSMs of all rows, in the column `detail`."""


@dataclass(frozen=True)
class Comparison:
    """Which calibration inputs the p-values of a request are among; all of them without either."""

    conditional: str | None = None
    """"class" for those of the same predicted class."""
    group: str | None = None
    """Those of this group of `fit`, which all inputs of the request are of."""

    def __bool__(self) -> bool:
        return self != ALL


ALL = Comparison()


@dataclass(frozen=True)
class InferenceRequest:
    """An inference request, read and checked."""

    x: NDArray[Any]
    """(rows, *input) in the type of the model; of no rows where there are `files`."""

    id: str | None
    outputs: tuple[tuple[str, bool], ...]
    """The name of each output that is wanted, and whether in binary."""

    files: tuple[bytes, ...] = ()
    """The rows of a BYTES tensor, which are still to be made inputs."""

    comparison: Comparison = ALL

    @property
    def explain(self) -> Detail:
        """Whether explanations are needed."""
        return Detail.CAUSE if any(name == "cause" for name, _ in self.outputs) else Detail.VERDICTS


@dataclass(frozen=True)
class RequestHead:
    """What the JSON of a request says, read and checked: all of it but the tensor behind."""

    rows: int
    datatype: str
    id: str | None
    outputs: tuple[tuple[str, bool], ...]
    comparison: Comparison
    data: NDArray[Any] | tuple[bytes, ...] | None
    """Values (rows, *input) or elements that stand in the JSON; None where they are behind it."""


def little_endian(datatype: str) -> np.dtype[Any]:
    """The type that a tensor's bytes have."""
    dtype: np.dtype[Any] = np.dtype(DTYPES[datatype]).newbyteorder("<")
    return dtype


def write(request: InferenceRequest, answer: Columns, *, name: str, version: str) -> tuple[bytes, int | None]:
    """The body of the response, and the length of its JSON where tensors follow it."""
    outputs, tensors = [], []
    for output, binary in request.outputs:
        column = answer[output]
        shape = [len(column)] if isinstance(column, list) else list(column.shape)
        entry: dict[str, Any] = {"name": output, "datatype": OUTPUTS[output], "shape": shape}
        if binary:
            tensors.append(_bytes(column, OUTPUTS[output]))
            entry["parameters"] = {BINARY: len(tensors[-1])}
        else:
            entry["data"] = column if isinstance(column, list) else column.ravel().tolist()
        outputs.append(entry)
    document = {"model_name": name, "model_version": version, "outputs": outputs}
    if request.id is not None:
        document["id"] = request.id
    text = pydantic_core.to_json(document, inf_nan_mode="null")
    return b"".join([text, *tensors]), len(text) if tensors else None


def _bytes(column: Column, datatype: str) -> bytes:
    if isinstance(column, list):
        return byte_tensors.write(text.encode() for text in column)
    return column.astype(little_endian(datatype), copy=False).tobytes()


def part(answer: Columns, rows: slice) -> dict[str, Column]:
    """Some rows of an answer."""
    return {name: column[rows] for name, column in answer.items()}


def metadata(
    shape: Sequence[int], classes: int, datatype: str, offered: Sequence[str] = tuple(OUTPUTS)
) -> dict[str, list[dict[str, Any]]]:
    """Inputs and outputs as the model's metadata lists them."""
    outputs = [
        {"name": name, "datatype": kind, "shape": [-1, classes] if name == "logits" else [-1]}
        for name, kind in OUTPUTS.items()
        if name in offered
    ]
    return {"inputs": [{"name": INPUT, "datatype": datatype, "shape": [-1, *shape]}], "outputs": outputs}
