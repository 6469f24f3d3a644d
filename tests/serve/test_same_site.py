"""Which Host and Origin the server answers to: pages of other sites must not use it through a user's browser."""

import numpy as np
import pytest

from gradgeo.serve.same_site import SameSite
from helpers.serving import SHAPE, asking, request, served

PATH = "/v2/models/m/infer"


def status(bound: str, allowed: list[str] | None, host: str, origin: str | None = None) -> int | None:
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin is not None else [])
    refusal = SameSite(bound, allowed).refusal(headers)
    return None if refusal is None else refusal[0]


@pytest.mark.parametrize(
    ("bound", "allowed", "host", "origin", "expected"),
    [
        ("127.0.0.1", None, "localhost:8000", None, None),
        ("127.0.0.1", None, "LOCALHOST.:8000", None, None),
        ("localhost", None, "127.0.0.1", None, None),
        ("::1", None, "[::1]:8000", None, None),
        ("127.0.0.2", None, "127.0.0.2:8000", None, None),
        ("127.0.0.1", None, "evil.example", None, 421),
        ("127.0.0.1", None, "localhost.evil.example", None, 421),
        ("127.0.0.1", None, "", None, 421),
        ("0.0.0.0", None, "10.0.0.5:8000", None, None),  # what a proxy or an orchestrator calls it is not known
        ("0.0.0.0", ["api.example"], "api.example:443", None, None),
        ("0.0.0.0", ["api.example"], "10.0.0.5:8000", None, 421),
        ("127.0.0.1", ["*"], "evil.example", None, None),
        ("0.0.0.0", ["fe80::1"], "[fe80::1]:8000", None, None),
        ("127.0.0.1", None, "localhost:8000", "http://localhost:8000", None),
        ("127.0.0.1", None, "localhost:8000", "http://localhost:3000", 403),
        ("127.0.0.1", None, "localhost:8000", "http://evil.example", 403),
        ("127.0.0.1", None, "localhost:8000", "null", 403),
        ("0.0.0.0", None, "10.0.0.5:8000", "http://evil.example", 403),
        ("0.0.0.0", ["api.example", "10.0.0.5"], "10.0.0.5:8000", "https://api.example", None),
        ("0.0.0.0", ["*"], "10.0.0.5:8000", "https://evil.example", 403),
    ],
)
def test_hosts_and_origins(
    bound: str, allowed: list[str] | None, host: str, origin: str | None, expected: int | None
) -> None:
    assert status(bound, allowed, host, origin) == expected


def test_a_foreign_page_gets_nothing_but_health() -> None:
    body = asking(np.ones((1, *SHAPE)))
    with served() as server:
        code, told, _ = request(server, "POST", PATH, body, {"Host": "evil.example"})
        assert code == 421
        assert "--allowed-host" in told["error"]
        code, told, _ = request(server, "POST", PATH, body, {"Origin": "http://evil.example"})
        assert code == 403
        assert "Origin of another site" in told["error"]
        assert request(server, "GET", "/metrics", headers={"Host": "evil.example"})[0] == 421
        assert request(server, "GET", "/v2/health/live", headers={"Host": "10.0.0.5"})[0] == 200  # of an orchestrator
    with served(allowed_hosts=["api.example"]) as server:
        assert request(server, "POST", PATH, body, {"Host": "api.example", "Origin": "https://api.example"})[0] == 200
        assert request(server, "POST", PATH, body)[0] == 421
