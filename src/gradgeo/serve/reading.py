"""From the bytes of an inference request to an array, within what the model takes.

Binary tensors: the header `Inference-Header-Content-Length` holds the length of the JSON, the tensors follow it. The
JSON is read apart from them, for it may be parsed in another process.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from gradgeo.serve import byte_tensors
from gradgeo.serve.errors import ProtocolError
from gradgeo.serve.protocol import (
    BINARY,
    CONDITIONS,
    DEFAULT,
    INPUT,
    OUTPUTS,
    Comparison,
    InferenceRequest,
    RequestHead,
    little_endian,
)
from gradgeo.serve.schemas import InferRequest, RequestInput

LONGEST_GROUP = 256
"""Characters of the name of a group."""


def read_head(
    text: bytes | bytearray,
    behind: int,
    *,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    most_rows: int,
    offered: Sequence[str] = tuple(OUTPUTS),
    texts: bool = False,
) -> RequestHead:
    """What the JSON `text` of a request says, with so many bytes `behind` it, for a model with inputs of `shape` and
    `dtype`, or of `texts`, for some of the `offered` outputs.

    Raises: ProtocolError with 400, or 413 for more than `most_rows`; its message holds no value of an input.
    """
    try:
        request = InferRequest.model_validate_json(text)
    except ValidationError as error:
        raise ProtocolError(400, _first_fault(error)) from None
    tensor = request.inputs[0]
    if tensor.name != INPUT:
        raise ProtocolError(400, f"expected the name of the input to be {INPUT!r}")
    comparison = _comparison(request)
    wanted = _wanted(request, offered, comparison)
    size = (tensor.parameters or {}).get(BINARY)
    data: NDArray[Any] | tuple[bytes, ...] | None
    if tensor.datatype == byte_tensors.DATATYPE:
        rows = _rows(tensor, tuple(tensor.shape[1:]) if tensor.shape[1:] == [1] else (), most_rows)
        data = byte_tensors.of_json(tensor.data, size, behind, rows, plain=texts)
    elif texts:
        raise ProtocolError(400, "expected the datatype BYTES: this model judges texts")
    else:
        rows = _rows(tensor, shape, most_rows)
        values = _values(tensor, size, behind, (rows, *shape))
        data = None if values is None else _of_type(values, dtype)
    return RequestHead(rows, tensor.datatype, request.id, wanted, comparison, data)


def with_tensor(
    head: RequestHead, behind: memoryview, *, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> InferenceRequest:
    """The request, with the tensor `behind` its JSON where that is where it stands, as the head says.

    Raises: ProtocolError with 400 for elements of BYTES that are not as many as the head says.
    """
    data = head.data
    if head.datatype == byte_tensors.DATATYPE:
        files = data if isinstance(data, tuple) else byte_tensors.read(behind, head.rows)
        return InferenceRequest(np.empty((0, *shape), dtype), head.id, head.outputs, files, head.comparison)
    if data is None:
        data = _of_type(np.frombuffer(behind, little_endian(head.datatype)).reshape(head.rows, *shape), dtype)
    assert isinstance(data, np.ndarray)
    return InferenceRequest(data, head.id, head.outputs, comparison=head.comparison)


def _of_type(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # what is too large for the model's type becomes infinite and cannot be judged
        return values.astype(dtype, copy=False)


def json_length(body: bytes | bytearray, header_length: str | None) -> int:
    """Bytes of the JSON at the beginning of `body`. Raises: ProtocolError with 400 for a header that states none."""
    if header_length is None:
        return len(body)
    length = (
        int(header_length) if header_length.isascii() and header_length.isdigit() and len(header_length) < 16 else -1
    )
    if not 0 <= length <= len(body):
        raise ProtocolError(400, "expected Inference-Header-Content-Length to be a length within the body")
    return length


def _first_fault(error: ValidationError) -> str:
    """Where and what; pydantic's own text would quote the input."""
    fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
    names = [str(part) for part in fault["loc"] if isinstance(part, str) and part in _FIELDS]
    reason = fault["msg"] if fault["type"] != "json_invalid" else f"no valid JSON ({fault['msg'].split(': ')[-1]})"
    return f"expected an inference request, got a fault in {'.'.join(names) or 'the body'}: {reason}"


_FIELDS = {*InferRequest.model_fields, *RequestInput.model_fields}


def _rows(tensor: RequestInput, shape: tuple[int, ...], most_rows: int) -> int:
    wanted = ", ".join(["rows", *map(str, shape)])
    if len(tensor.shape) != len(shape) + 1 or tuple(tensor.shape[1:]) != shape or tensor.shape[0] < 1:
        raise ProtocolError(400, f"expected the shape of the input to be [{wanted}] with rows from 1 to {most_rows}")
    if tensor.shape[0] > most_rows:
        raise ProtocolError(413, f"expected at most {most_rows} rows in a request. Send several requests.")
    return tensor.shape[0]


def _values(tensor: RequestInput, size: Any, behind: int, shape: tuple[int, ...]) -> NDArray[Any] | None:
    """The values in the JSON; None where they are in the bytes behind it, as many as there should be."""
    entries = int(np.prod(shape))
    if size is not None:
        if tensor.data is not None:
            raise ProtocolError(400, f"expected data or {BINARY}, got both")
        should = entries * little_endian(tensor.datatype).itemsize
        if isinstance(size, bool) or size != should or size != behind:
            raise ProtocolError(400, f"expected {BINARY} and the bytes behind the JSON to be {should}")
        return None
    if behind:
        raise ProtocolError(400, f"expected nothing behind the JSON without {BINARY}")
    if tensor.data is None:
        raise ProtocolError(400, f"expected data or {BINARY} for the input. Shared memory is not supported.")
    first: Any = tensor.data
    while isinstance(first, list) and first:
        first = first[0]
    if isinstance(first, str):
        raise ProtocolError(400, "expected data to be numbers, or the datatype BYTES for files in base64")
    try:
        values = np.array(tensor.data, dtype=np.float64)
    except (ValueError, OverflowError):
        raise ProtocolError(400, "expected data to be numbers, flat or nested evenly") from None
    if values.shape not in (shape, (entries,)):
        raise ProtocolError(
            400, f"expected data to be flat with {entries} numbers, or nested in the shape of the input"
        )
    return values.reshape(shape)


def _comparison(request: InferRequest) -> Comparison:
    asked = request.parameters or {}
    return comparison(asked.get("conditional"), asked.get("group"))


def comparison(conditional: Any, group: Any) -> Comparison:
    """What the parameters of a request ask for. Raises: ProtocolError with 400."""
    if conditional not in (None, *CONDITIONS):
        raise ProtocolError(400, f"expected the parameter conditional to be one of {', '.join(CONDITIONS)}")
    if isinstance(group, bool) or not isinstance(group, str | int | None) or len(str(group)) > LONGEST_GROUP:
        raise ProtocolError(400, f"expected the parameter group to be a text of at most {LONGEST_GROUP} characters")
    return Comparison(conditional, None if group is None else str(group))


def _wanted(request: InferRequest, offered: Sequence[str], comparison: Comparison) -> tuple[tuple[str, bool], ...]:
    binary = (request.parameters or {}).get("binary_data_output") is True
    if not request.outputs:
        default = (*DEFAULT, "compared") if comparison else DEFAULT
        return tuple((name, binary) for name in default if name in offered)
    names = [output.name for output in request.outputs]
    if not set(names) <= set(offered) or len(set(names)) < len(names):
        raise ProtocolError(400, f"expected outputs among {', '.join(offered)}, each once")
    wanted = []
    for output in request.outputs:
        own = output.parameters or {}
        if "classification" in own or any(name.startswith("shared_memory") for name in own):
            raise ProtocolError(
                400, "expected outputs without classification and shared memory, which are not supported"
            )
        wanted.append((output.name, own.get("binary_data", binary) is True))
    return tuple(wanted)
