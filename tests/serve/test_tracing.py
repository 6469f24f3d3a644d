"""Traces of OpenTelemetry: one span a request, part of the client's trace, without a word of an input."""

from typing import Any

import numpy as np
import pytest

from helpers.serving import SHAPE, asking, request, served

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_request_is_a_span_of_the_clients_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    sdk: Any = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exported = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    with served() as server:
        body = asking(np.zeros((1, *SHAPE)))
        assert request(server, "POST", "/v2/models/m/infer", body, {"traceparent": PARENT})[0] == 200
        request(server, "POST", "/v2/models/m/infer", b"{")
    first, second = exported.get_finished_spans()
    assert f"{first.context.trace_id:x}" in PARENT
    assert first.attributes["http.response.status_code"] == 200
    assert (first.attributes["gradgeo.rows"], first.attributes["gradgeo.untrusted"]) == (1, 1)
    assert f"{second.context.trace_id:x}" not in PARENT
    assert second.attributes["http.response.status_code"] == 400


def test_without_the_library_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.trace", None)
    with served() as server:
        assert request(server, "GET", "/v2")[0] == 200
