"""Image files at the server against tensors of the same pictures: rates in turn, within one run."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pydantic_core
import torch
from numpy.typing import NDArray

from benchmarks.page import Page
from benchmarks.serving import CLIENTS, FITTED, Served, serving
from benchmarks.shipped import Suite
from gradgeo.data.models import load_model
from gradgeo.data.preprocess import Preprocess
from gradgeo.detector.detector import Detector
from gradgeo.errors import DataError, require
from gradgeo.serve import byte_tensors
from gradgeo.serve.inference import DetectorLoader
from gradgeo.serve.web.preparation import FileReader, file_reader

CASES = ("digits", "cifar10")
ROUNDS = 5
"""Of tensors and files in turn, so that whatever else the machine does falls on both."""

SIDE = 256
"""Pixels of the pictures' sides, as those of cameras are larger than what small models take."""

Request = tuple[bytes, dict[str, str]]


@dataclass(frozen=True)
class Rates:
    """Of one detector, inputs a second in each round."""

    tensors: list[float]
    files: list[float]
    decoding: list[float]
    """Seconds for one file, alone in this process."""

    @property
    def ratios(self) -> list[float]:
        """Of each round: the rate with files over what tensors and decoding, one after the other, would give."""
        rounds = zip(self.tensors, self.files, self.decoding, strict=True)
        return [files * (1 / tensors + decoding) for tensors, files, decoding in rounds]


def run(suite: Suite) -> Page:
    """JPEG bytes against binary tensors of the same pictures, to the same server, in turn."""
    page = Page("Image files at the server")
    rows = []
    for name in suite.wanted(CASES):
        for preset in ("lite", "full"):
            rates = _measured(suite, name, preset)
            page.data.setdefault("rates", {})[f"{name}, {preset}"] = vars(rates) | {"ratios": rates.ratios}
            share = [f"{of(rates.ratios):.2f}" for of in (median, min, max)]
            cost = median(d * t for d, t in zip(rates.decoding, rates.tensors, strict=True))
            rows.append([name, preset, f"{cost:.2f}", share[0], f"{share[1]} to {share[2]}"])
    page.say(
        f"{CLIENTS} clients on loopback send one picture a request to one worker: as a binary tensor, and as the JPEG "
        f"of {SIDE} x {SIDE} pixels that it was decoded from, resized and normalised on the server, a BYTES tensor. "
        f"{ROUNDS} rounds of {suite.inputs} requests each, tensors and files in turn. 'Decoding' is what decoding and "
        "preparing one file takes alone, in units of the time of one tensor. 'Ratio' is the rate with "
        "files over 1 / (time of a tensor + decoding): above 1 where the process that decodes works beside the model."
    )
    page.table(["classifier", "detector", "decoding", "ratio (median)", "ratio (rounds)"], rows)
    return page


def _measured(suite: Suite, name: str, preset: str) -> Rates:
    classifier = suite[name]
    rows = torch.nonzero(classifier.correct[: classifier.half])[:FITTED, 0]
    shape = tuple(classifier.x.shape[1:])
    notes = {"preprocess": Preprocess(size=(shape[1], shape[2]), channels=shape[0]).as_dict()}
    prepare = file_reader(shape, np.dtype(np.float32), notes["preprocess"], 10**7)
    if isinstance(prepare, str):
        raise DataError(prepare)
    files = _jpegs(classifier.x[classifier.half : classifier.half + 64].numpy())
    as_tensors = [_tensor(prepare([file])) for file in files]
    as_files = [_file(file) for file in files]
    found = Rates([], [], [])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "detector.gradgeo"
        Detector(classifier.model, evidence=preset).fit(classifier.x[rows]).save(path, notes=notes)
        with serving(DetectorLoader(path, partial(load_model, suite.spec(name)), 1)) as server:
            for requests in (as_tensors, as_files):  # starts the process that decodes
                _rate(server, requests, 2 * CLIENTS)
            for _ in range(ROUNDS):
                found.tensors.append(_rate(server, as_tensors, suite.inputs))
                found.files.append(_rate(server, as_files, suite.inputs))
                found.decoding.append(_decoding(prepare, files))
    return found


def _jpegs(x: NDArray[Any]) -> list[bytes]:
    """Pictures (N, C, H, W) in [0, 1] as JPEG files, enlarged."""
    pillow = require("PIL.Image", "images")
    files = []
    for image in (x * 255).round().clip(0, 255).astype(np.uint8):
        picture = pillow.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))  # (H, W) or (H, W, 3)
        stream = BytesIO()
        picture.resize((SIDE, SIDE), pillow.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        files.append(stream.getvalue())
    return files


def _tensor(x: NDArray[Any]) -> Request:
    return _request(list(x.shape), "FP32", x.tobytes())


def _file(file: bytes) -> Request:
    return _request([1], "BYTES", byte_tensors.write([file]))


def _request(shape: list[int], datatype: str, binary: bytes) -> Request:
    tensor = {
        "name": "input",
        "shape": shape,
        "datatype": datatype,
        "parameters": {"binary_data_size": len(binary)},
    }
    text = pydantic_core.to_json({"inputs": [tensor]})
    return text + binary, {"Inference-Header-Content-Length": str(len(text))}


def _rate(server: Served, requests: list[Request], count: int) -> float:
    """Answers a second. Raises: DataError for a request that is refused."""

    def client(first: int) -> None:
        connection = HTTPConnection(*server.address, timeout=120)
        for number in range(first, count, CLIENTS):
            connection.request("POST", "/v2/models/m/infer", *requests[number % len(requests)])
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise DataError(f"a request was refused: {answer.decode()}")
        connection.close()

    began = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(client, range(CLIENTS)))
    return count / (time.perf_counter() - began)


def _decoding(prepare: FileReader, files: list[bytes]) -> float:
    began = time.perf_counter()
    for file in files:
        prepare([file])
    return (time.perf_counter() - began) / len(files)
