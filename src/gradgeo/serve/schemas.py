"""The JSON of the Open Inference Protocol, version 2 (REST), as far as it is spoken here."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.types import FailFast
from typing_extensions import TypeAliasType

Numbers = TypeAliasType("Numbers", "Annotated[list[float | Numbers | None], FailFast()]")
"""Flat or nested, row by row; null where a value is missing, and the input then has no verdict."""

Parameter = str | int | float | bool | None


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class RequestInput(_Strict):
    """One input tensor; its data stand here or, with `parameters.binary_data_size`, behind the JSON."""

    name: str
    shape: list[Annotated[int, Field(ge=0)]] = Field(max_length=32)
    datatype: Literal["FP16", "FP32", "FP64"]
    parameters: dict[str, Parameter] | None = None
    data: Numbers | None = None


class RequestOutput(_Strict):
    """A requested output."""

    name: str
    parameters: dict[str, Parameter] | None = None


class InferRequest(_Strict):
    """Inputs to infer verdicts for."""

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
