"""The OpenAPI document, and what a fuzzer that reads it gets out of the server."""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from gradgeo.serve.limits import Limits
from gradgeo.serve.server import Server
from helpers.serving import request, served

schemathesis = pytest.importorskip("schemathesis")


@pytest.fixture(scope="module")
def server() -> Any:
    with served(limits=Limits(delay=0)) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    return request(server, "GET", "/openapi.json")[1]


def test_it_describes_every_route_and_what_it_refuses(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == {
        "/v2/health/live",
        "/v2/health/ready",
        "/v2",
        "/metrics",
        "/v1/judge",
        *(
            f"/v2/models/{{name}}{version}{end}"
            for version in ("", "/versions/{version}")
            for end in ("", "/ready", "/infer")
        ),
    }
    infer = document["paths"]["/v2/models/{name}/infer"]["post"]
    assert {"200", "400", "408", "413", "415", "429", "500", "503", "504"} <= set(infer["responses"])
    assert "422" not in infer["responses"]
    assert {"InferRequest", "RequestInput", "InferResponse"} <= set(document["components"]["schemas"])


POINTS = [
    ("get", "/v2/health/live"),
    ("get", "/v2/health/ready"),
    ("get", "/v2"),
    ("get", "/metrics"),
    ("post", "/v1/judge"),
    ("get", "/v2/models/{name}"),
    ("get", "/v2/models/{name}/ready"),
    ("post", "/v2/models/{name}/infer"),
    ("post", "/v2/models/{name}/versions/{version}/infer"),
]


@pytest.mark.simulation
@pytest.mark.grid
@pytest.mark.parametrize(("method", "path"), POINTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_fuzzer_finds_no_fault(server: Server, method: str, path: str) -> None:
    """Whatever the schema allows, or not: no 5xx, no status, type or body that the document does not state."""
    base = "http://{}:{}".format(*server.address)
    schema = schemathesis.openapi.from_url(f"{base}/openapi.json")
    checks = schemathesis.checks
    wanted = [
        checks.not_a_server_error,
        *(
            check
            for check in checks.CHECKS.get_all()
            if check.__name__
            in (
                "status_code_conformance",
                "content_type_conformance",
                "response_headers_conformance",
                "response_schema_conformance",
                "negative_data_rejection",
                "unsupported_method",
            )
        ),
    ]
    assert len(wanted) == 7
    answered = []
    for mode in schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE:
        operation = schema[path][method]
        if mode is schemathesis.GenerationMode.NEGATIVE and method == "get":
            continue  # nothing to get wrong

        @settings(
            max_examples=15,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            if "name" in case.path_parameters and len(answered) % 2:
                case.path_parameters["name"] = "m"  # as deep as the body
            response = case.call()
            answered.append(response.status_code)
            case.validate_response(response, checks=wanted)

        ask()
    assert answered
