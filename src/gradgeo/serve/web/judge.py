"""`POST /v1/judge`: one image file or text in, its verdict out, without a word of the Open Inference Protocol."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import pydantic_core
from fastapi import FastAPI, Query, Request, Response

from gradgeo.serve import bodies
from gradgeo.serve.client import unless_gone
from gradgeo.serve.errors import ProtocolError
from gradgeo.serve.protocol import OUTPUTS, Columns, Comparison, Detail
from gradgeo.serve.reading import LONGEST_GROUP
from gradgeo.serve.schemas import Error, Judged
from gradgeo.serve.service import Service

PATH = "/v1/judge"

REFUSALS = {
    400: "The body is no image or text that the model can take.",
    403: "The request comes from a page of another site, or asks for what is withheld.",
    408: "The body did not come in time.",
    413: "The file is too long, or has too many pixels.",
    415: "The body is compressed, or of another type than a file, a text or a form.",
    421: "The server is asked by a name that is not its own.",
    429: "Too much is waiting already.",
    500: "The model fails on this input.",
    503: "The server has no worker, or is going down.",
    504: "No answer in time.",
}

FILE: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
FORM: dict[str, Any] = {"type": "object", "required": ["file"], "properties": {"file": FILE["schema"]}}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            **dict.fromkeys(("image/jpeg", "image/png", "image/webp", "image/tiff", "application/octet-stream"), FILE),
            "text/plain": {"schema": {"type": "string"}},
            "multipart/form-data": {"schema": FORM},
        },
    }
}

Explain = Annotated[bool, Query(description="Name the likely cause of an input that is not trusted.")]
Pictures = Annotated[bool, Query(description="Explain, with the prepared picture, maps over it and the CSM.")]
Conditional = Annotated[
    Literal["class"] | None, Query(description="The p-value among calibration inputs of the same predicted class.")
]
Group = Annotated[
    str | None,
    Query(description="The p-value among calibration inputs of that group.", max_length=LONGEST_GROUP),
]


def add_judge(app: FastAPI, service: Callable[[], Service]) -> None:
    """The route."""

    @app.post(
        PATH,
        response_model=Judged,
        responses={status: {"model": Error, "description": text} for status, text in REFUSALS.items()},
        openapi_extra=BODY,
    )
    async def judge(
        request: Request,
        explain: Explain = False,
        pictures: Pictures = False,
        conditional: Conditional = None,
        group: Group = None,
    ) -> Response:
        """The verdict on one image file, prepared as at fit, or one text: the body, or the file of a form."""
        detail = Detail.PICTURES if pictures else Detail.CAUSE if explain else Detail.VERDICTS
        return await _judge(service(), request, detail, Comparison(conditional, group))


async def _judge(service: Service, request: Request, detail: Detail, comparison: Comparison) -> Response:
    if service.facts.texts and detail == Detail.PICTURES:
        detail = Detail.CAUSE  # a text has no pictures
    _check_offered(service, detail)
    x = await bodies.read_file(service, request)
    columns = await unless_gone(request, service.judge(x, detail, comparison))
    service.note(request.state.request, x, columns, comparison)
    request.state.rows = 1
    if "trusted" in columns:
        request.state.untrusted = int(not columns["trusted"][0])
    text = pydantic_core.to_json(_answer(service, columns, detail, comparison), inf_nan_mode="null")
    return Response(text, media_type="application/json")


def _check_offered(service: Service, detail: Detail) -> None:
    """Raises: ProtocolError for what helps to evade the detector where outputs are withheld."""
    if detail == Detail.CAUSE and "cause" not in service.outputs:
        raise ProtocolError(403, "the cause is not offered here")
    if detail == Detail.PICTURES and set(service.outputs) != set(OUTPUTS):
        raise ProtocolError(403, "maps are not offered where other outputs are withheld: they show the gradient")


def _answer(service: Service, columns: Columns, detail: Detail, comparison: Comparison) -> dict[str, Any]:
    answer: dict[str, Any] = {"model_name": service.name, "model_version": service.version}
    left_out = ("logits",) if comparison else ("logits", "compared")
    for name in service.outputs:
        if name in columns and name not in left_out:
            value = columns[name][0]
            answer[name] = value if isinstance(value, str) else value.item()
    names = service.facts.parameters.get("class_names") or []
    if "label" in answer:
        answer["class_name"] = names[answer["label"]] if 0 <= answer["label"] < len(names) else None
    if "cause" in answer:
        answer["cause"] = answer["cause"] or None
    if detail == Detail.PICTURES:
        shown = pydantic_core.from_json(columns["detail"][0])
        classes = {*shown["csm_classes"], *(each["class"] for each in shown["maps"])}
        shown["class_names"] = {str(c): names[c] for c in sorted(classes) if c < len(names)}
        answer["detail"] = shown
    return answer
