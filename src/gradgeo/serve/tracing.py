"""A trace of each request, where OpenTelemetry's interface is installed and something collects its traces.

`opentelemetry-instrument gradgeo serve ...` sets that up by OpenTelemetry's environment variables; without it spans
go nowhere and cost microseconds. A span holds what a line of the log holds, and nothing of an input.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

SCOPE = "gradgeo.serve"


class Span:
    """The server's part of a trace, which goes on with that of the client where its headers name one.

    Args:
        headers: of the request.
        method, path: of the request.
    """

    def __init__(self, headers: Mapping[bytes, bytes], method: str, path: str) -> None:
        self._span: Any = None
        try:
            trace, propagate = import_module("opentelemetry.trace"), import_module("opentelemetry.propagate")
        except ImportError:
            return
        carried = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
        attributes = {"http.request.method": method, "url.path": path}
        self._span = trace.get_tracer(SCOPE).start_span(
            f"{method} {path}",
            context=propagate.extract(carried),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
        )

    def end(self, status: int, **fields: Any) -> None:
        """End it, with the status of the answer and what else the log says."""
        if self._span is None:
            return
        self._span.set_attribute("http.response.status_code", status)
        for name, value in fields.items():
            self._span.set_attribute(f"gradgeo.{name}", value)
        if status >= 500:
            trace = import_module("opentelemetry.trace")
            self._span.set_status(trace.Status(trace.StatusCode.ERROR))
        self._span.end()
