"""The JSON of the Open Inference Protocol, version 2 (REST), as far as it is spoken here."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.types import FailFast
from typing_extensions import TypeAliasType

Numbers = TypeAliasType("Numbers", "Annotated[list[float | Numbers | None], FailFast()]")
"""Flat or nested, row by row; null where a value is missing, and the input then has no verdict."""

Texts = TypeAliasType(
    "Texts", Annotated[list[str | Annotated[list[str], Field(min_length=1, max_length=1)]], FailFast()]
)
"""Files in base64, flat or each in a list of its own."""

Parameter = str | int | float | bool | None


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class RequestInput(_Strict):
    """One input tensor; its data stand here or, with `parameters.binary_data_size`, behind the JSON.

    BYTES are image files, in JSON as base64; their shape is [rows].
    """

    name: str
    shape: list[Annotated[int, Field(ge=0)]] = Field(max_length=32)
    datatype: Literal["FP16", "FP32", "FP64", "BYTES"]
    parameters: dict[str, Parameter] | None = None
    data: Annotated[Numbers | Texts, Field(union_mode="left_to_right")] | None = None


class RequestOutput(_Strict):
    """A requested output."""

    name: str
    parameters: dict[str, Parameter] | None = None


class InferRequest(_Strict):
    """Inputs to infer verdicts for.

    Parameters: `binary_data_output`; `conditional`: "class" for p-values among calibration inputs of the same predicted
    class; `group`: of which group of `fit` all inputs are, for p-values among calibration inputs of that group.
    """

    id: str | None = Field(None, max_length=256)
    parameters: dict[str, Parameter] | None = None
    inputs: list[RequestInput] = Field(min_length=1, max_length=1)
    outputs: list[RequestOutput] | None = Field(None, max_length=32)


class ResponseOutput(BaseModel):
    """One output tensor, flat, row by row; null stands for NaN, the score of an input without a verdict."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferResponse(BaseModel):
    """Logits and verdicts."""

    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[ResponseOutput]


class Map(BaseModel):
    """A saliency map: the gradient of the loss of a class, as a PNG in base64 to lay over the picture."""

    class_: int = Field(alias="class")
    picture: str


class Pictures(BaseModel):
    """What a page shows beside a verdict."""

    picture: str
    """The input as it was prepared, a PNG in base64."""
    maps: list[Map]
    csm: list[float | None]
    """Row after row, of `csm_classes`."""
    csm_classes: list[int]
    class_names: dict[str, str]
    """Of the classes that are shown, where they have names."""
    evidence: dict[str, float | None]
    """P-values by name, the most surprising first."""


class Judged(BaseModel):
    """The verdict on one file, as far as outputs are offered; null stands for NaN."""

    model_name: str
    model_version: str
    label: int | None = None
    class_name: str | None = None
    probability: float | None = None
    outlier_score: float | None = None
    p_value: float | None = None
    trusted: bool | None = None
    compared: int | None = None
    """With how many calibration inputs."""
    cause: str | None = None
    detail: Pictures | None = None


class TensorMetadata(BaseModel):
    """Name, type and shape of a tensor, -1 where any size will do."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """What the model takes and gives, and in `parameters` which detector it is."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, Any]


class ServerMetadata(BaseModel):
    """What this server is and which extensions of the protocol it speaks."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """Whether the process answers."""

    live: bool


class Ready(BaseModel):
    """Whether the server takes requests."""

    ready: bool


class ModelReady(BaseModel):
    """Whether the model takes requests."""

    name: str
    ready: bool


class Error(BaseModel):
    """Why there is no other answer."""

    error: str
