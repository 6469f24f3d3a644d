"""How soon a server says that it is alive while it reads the longest bodies."""

import contextlib
import io
import json
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.page import Page
from benchmarks.serving import Served, status_of
from benchmarks.soak import clients
from benchmarks.soak.processes import client, served
from benchmarks.soak.requests import filled
from gradgeo.data.preprocess import Preprocess
from gradgeo.detector.detector import Detector
from gradgeo.errors import require
from gradgeo.serve import byte_tensors
from gradgeo.serve.limits import Limits

SECONDS = 8.0
"""For which health is probed beside each kind of body."""

SHAPE = (3, 224, 224)
"""Of the inputs of the server whose longest bodies are read."""

SOON = 100.0
"""Milliseconds within which health should answer."""


def quantiles(health: dict[str, list[float]]) -> dict[str, float]:
    """The median, the 99th per cent and the most of what a prober saw, and the most that it woke too late."""
    took = np.array(health["ms"])
    return {
        "probes": len(took),
        "median": float(np.median(took)),
        "p99": float(np.quantile(took, 0.99)),
        "most": float(took.max()),
        "late": float(np.max(health["late_ms"])),
    }


def told(found: dict[str, float]) -> str:
    """`quantiles` in words."""
    return (
        f"{found['probes']} answers, median {found['median']:.1f} ms, 99 % within {found['p99']:.1f} ms, the slowest "
        f"{found['most']:.0f} ms; the process that asks woke up to {found['late']:.0f} ms too late from its own pauses"
    )


def net() -> nn.Module:
    """A classifier of images (3, 224, 224) that takes no time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10)).eval()


def longest_bodies(shape: tuple[int, ...] = SHAPE) -> dict[str, tuple[bytes, str]]:
    """The longest bodies of each sort that a server takes by default, each with the length of its JSON, or none."""
    limits, entries = Limits(), int(np.prod(shape))
    x = np.zeros((limits.rows, *shape))
    size = {"binary_data_size": x.nbytes}
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP64", "parameters": size}
    asked = {"inputs": [tensor], "outputs": [{"name": "label", "parameters": {"binary_data": True}}]}
    text = json.dumps(asked).encode()
    padded = text + b" " * (limits.body_bytes(entries) - x.nbytes - len(text))
    file = picture(limits.file)
    of_file = byte_tensors.write([file])
    tensor = {"name": "input", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(of_file)}}
    text_of_file = json.dumps({**asked, "inputs": [tensor]}).encode()
    return {
        "JSON of numbers": (filled(b"0", limits.json), "none"),
        "JSON of empty lists": (filled(b"[]", limits.json), "none"),
        "a binary tensor": (text + x.tobytes(), str(len(text))),
        "a binary tensor behind the longest JSON": (padded + x.tobytes(), str(len(padded))),
        "an image file": (text_of_file + of_file, str(len(text_of_file))),
    }


def picture(longest: int) -> bytes:
    """A bitmap file of noise, square, of nearly as many bytes as `longest`."""
    side = int(((longest - 1024) / 3) ** 0.5) // 4 * 4  # rows of whole words, so that none is filled up
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    stream = io.BytesIO()
    require("PIL.Image", "images").fromarray(pixels).save(stream, "bmp")
    return stream.getvalue()


def report(page: Page, folder: Path, inputs: int) -> None:
    """Probe a server of images beside each sort of longest body; `inputs` plays no part."""
    file = folder / "images.gradgeo"
    generator = torch.Generator().manual_seed(0)
    notes = {"preprocess": Preprocess(size=SHAPE[1:]).as_dict()}
    detector = Detector(net(), evidence=["confidence"]).fit(torch.rand(100, *SHAPE, generator=generator))
    detector.save(file, notes=notes)
    page.say(
        f"How soon a server says that it is alive, asked every {1000 * clients.PAUSE:.0f} ms from a process of its own "
        f"while another process sends it the longest bodies of a sort that it takes, one after the other, for "
        f"{SECONDS:.0f} s; a model of images of 3 x 224 x 224, limits as by default. 'Late' is how much too late the "
        f"process that asks woke from its own pauses: what the machine kept it waiting. Meant: within {SOON:.0f} ms."
    )
    rows = []
    with served(folder, file, "--model", f"{__file__}:net") as server:
        bodies = {"none": (b"", "none"), **longest_bodies()}
        for name, (body, header) in bodies.items():
            (folder / "body").write_bytes(body)
            statuses = probed(server, folder / "body", header)
            page.data.setdefault("health", {})[name] = {"bytes": len(body), **statuses}
            cells = [f"{statuses['health'][key]:.1f}" for key in ("median", "p99", "most", "late")]
            sent = ", ".join(f"{count} x {status}" for status, count in statuses["sent"].items())
            rows.append([name, f"{len(body) / 1e6:.1f}", sent, *cells])
    page.table(["body", "MB", "answers", "median, ms", "99 %, ms", "slowest, ms", "late, ms"], rows)


def probed(server: Served, body: Path, header: str, seconds: float | None = None) -> dict[str, Any]:
    """Health while bodies are sent; without them where the file is empty."""
    with contextlib.ExitStack() as stack:
        posted = None
        if body.stat().st_size:
            warm = HTTPConnection(*server.address, timeout=120)  # starts the process that parses
            status_of(warm, body.read_bytes(), {"Inference-Header-Content-Length": header} if header != "none" else {})
            warm.close()
            posted = stack.enter_context(client("post", server, str(body), header))
        ended = stack.enter_context(client("probe", server))
        time.sleep(SECONDS if seconds is None else seconds)
        health = ended()
        return {"health": quantiles(health), "sent": posted() if posted else {}}
