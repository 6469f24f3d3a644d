"""The routes: the Open Inference Protocol version 2 over REST, metrics, and the OpenAPI document."""

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from gradgeo._version import __version__
from gradgeo.serve import bodies, protocol
from gradgeo.serve.bodies import HEADER_LENGTH
from gradgeo.serve.client import unless_gone
from gradgeo.serve.errors import ProtocolError
from gradgeo.serve.schemas import (
    Error,
    InferRequest,
    InferResponse,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
)
from gradgeo.serve.service import EXTENSIONS, Service
from gradgeo.serve.web.judge import add_judge
from gradgeo.serve.web.page import add_page

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(service: Callable[[], Service], lifespan: Lifespan | None = None, *, page: bool = True) -> FastAPI:
    """The application, with or without its page for people.

    `service` is called at each request, because there is none before the lifespan has begun.
    """
    app = FastAPI(
        title="gradgeo", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False
    )
    app.add_exception_handler(ProtocolError, _protocol_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _failed)
    _health(app, service)
    _models(app, service)
    add_judge(app, service)
    if page:
        add_page(app, service)
    _describe(app)
    return app


def _health(app: FastAPI, service: Callable[[], Service]) -> None:
    @app.get("/v2/health/live", response_model=Live)
    async def live() -> Any:
        """Whether the process answers."""
        return {"live": True}

    @app.get("/v2/health/ready", response_model=Ready, responses={503: {"model": Ready}})
    async def ready() -> Any:
        """Whether the server takes requests: not while it drains or has no worker."""
        ready = service().ready
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    @app.get("/v2", response_model=ServerMetadata)
    async def server() -> Any:
        """What this server is."""
        return {"name": "gradgeo", "version": __version__, "extensions": EXTENSIONS}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service().metrics_text(), media_type=CONTENT_TYPE_LATEST)


def _models(app: FastAPI, service: Callable[[], Service]) -> None:
    async def named(name: str) -> Service:
        service().find(name, None)
        return service()

    async def pinned(name: str, version: str) -> Service:
        service().find(name, version)
        return service()

    _model(app, "/v2/models/{name}", named)
    _model(app, "/v2/models/{name}/versions/{version}", pinned)


def _model(app: FastAPI, path: str, lookup: Callable[..., Coroutine[Any, Any, Service]]) -> None:
    missing: dict[int | str, dict[str, Any]] = {404: {"model": Error}}
    here = Annotated[Service, Depends(lookup)]

    @app.get(path, response_model=ModelMetadata, responses=missing)
    async def model(service: here) -> Any:
        """What the model takes and gives, and which detector it is."""
        return service.model_metadata()

    @app.get(f"{path}/ready", response_model=ModelReady, responses={**missing, 503: {"model": ModelReady}})
    async def model_ready(service: here) -> Any:
        """Whether the model takes requests."""
        return JSONResponse({"name": service.name, "ready": service.ready}, 200 if service.ready else 503)

    @app.post(
        f"{path}/infer",
        response_model=InferResponse,
        responses={
            200: {"content": BINARY, "description": "The outputs, binary ones behind the JSON."},
            **{status: {"model": Error, "description": text} for status, text in REFUSALS.items()},
        },
        openapi_extra=INFER,
    )
    async def infer(request: Request, service: here) -> Response:
        """Logits and verdicts of inputs, as JSON or binary tensors."""
        return await _infer(service, request)


REFUSALS = {
    400: "The request is not what the metadata of the model ask for.",
    403: "The request comes from a page of another site.",
    404: "No such model or version.",
    408: "The body did not come in time.",
    413: "The body or the JSON in it is too long, or has too many rows.",
    415: "The body is compressed, or of another type than JSON and binary tensors.",
    421: "The server is asked by a name that is not its own.",
    429: "Too much is waiting already.",
    500: "The model fails on these inputs.",
    503: "The server has no worker, or is going down.",
    504: "No answer in time.",
}

NOWHERE = (
    "nothing is at this path. One image file or text goes to POST /v1/judge, tensors go to POST /v2/models/NAME/infer; "
    "GET /v2/health/ready tells whether the server is ready, /openapi.json describes all paths."
)

BINARY: dict[str, Any] = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

INFER: dict[str, Any] = {
    "parameters": [
        {
            "name": HEADER_LENGTH,
            "in": "header",
            "required": False,
            "description": "Length of the JSON where binary tensors follow it.",
            "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
        }
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}}, **BINARY},
    },
}


async def _infer(service: Service, request: Request) -> Response:
    inference = await bodies.read(service, request)
    columns = await unless_gone(request, service.answer(inference))
    service.note(request.state.request, inference.x, columns, inference.comparison)
    request.state.rows, request.state.untrusted = len(inference.x), _untrusted(columns)
    text, length = protocol.write(inference, columns, name=service.name, version=service.version)
    if length is None:
        return Response(text, media_type="application/json")
    return Response(text, media_type="application/octet-stream", headers={HEADER_LENGTH: str(length)})


def _untrusted(columns: protocol.Columns) -> int | None:
    return int((~columns["trusted"]).sum()) if "trusted" in columns else None  # type: ignore[operator]


def _error(status: int, message: str, headers: Any = None) -> JSONResponse:
    return JSONResponse({"error": message}, status, headers)


async def _protocol_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProtocolError)
    return _error(error.status, error.message, error.headers)


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    text = str(error.detail)
    if error.status_code == 404:
        text = NOWHERE
    elif error.status_code == 405:
        text = f"expected the method {(error.headers or {}).get('Allow', 'of the route')}, got {request.method}"
    return _error(error.status_code, text, error.headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    names = ", ".join(str(fault["loc"][-1]) for fault in error.errors())
    return _error(400, f"expected {names} of the query to be as /openapi.json describes")


async def _failed(request: Request, error: Exception) -> JSONResponse:
    return _error(500, "the server failed on this request")


def _describe(app: FastAPI) -> None:
    """Add the schema of the request, which the route reads itself, to the OpenAPI document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes)
            _, more = models_json_schema([(InferRequest, "validation")], ref_template="#/components/schemas/{model}")
            document["components"]["schemas"] |= more["$defs"]
            for path in document["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
