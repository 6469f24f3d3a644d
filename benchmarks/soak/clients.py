"""Clients of a server in processes of their own, of the standard library alone, so that they start at once and wait for
no interpreter lock but their own: `clients.py probe HOST PORT` and `clients.py post HOST PORT FILE HEADER`.

Each goes on until its stdin is closed, and prints what it saw as JSON.
"""

import json
import select
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

PAUSE = 0.01
"""Seconds between two probes."""


def going() -> bool:
    """Whether stdin is open still."""
    return not select.select([sys.stdin], [], [], 0)[0]


def probe(host: str, port: int) -> dict[str, list[float]]:
    """Milliseconds that the server took to say that it is alive, and that this process woke too late from its pauses:
    what the machine, not the server, kept it waiting."""
    connection = HTTPConnection(host, port, timeout=60)
    took, late = [], []
    while going():
        began = time.perf_counter()
        connection.request("GET", "/v2/health/live")
        response = connection.getresponse()
        response.read()
        ended = time.perf_counter()
        if response.status != 200:
            raise RuntimeError(f"health answers {response.status}")
        time.sleep(PAUSE)
        took.append(1000 * (ended - began))
        late.append(1000 * (time.perf_counter() - ended - PAUSE))
    return {"ms": took, "late_ms": late}


def post(host: str, port: int, file: str, header: str) -> dict[str, int]:
    """How often each status was the answer to the body in `file`, with JSON of `header` bytes before binary tensors."""
    connection = HTTPConnection(host, port, timeout=120)
    body, counts = Path(file).read_bytes(), dict[str, int]()
    headers = {"Inference-Header-Content-Length": header} if header != "none" else {}
    while going():
        connection.request("POST", "/v2/models/m/infer", body, headers)
        response = connection.getresponse()
        response.read()
        counts[str(response.status)] = counts.get(str(response.status), 0) + 1
    return counts


if __name__ == "__main__":
    task, host, port, *rest = sys.argv[1:]
    found = probe(host, int(port)) if task == "probe" else post(host, int(port), *rest)
    print(json.dumps(found))
