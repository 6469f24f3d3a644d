"""What scoring whole data sources costs beside the detector: utilisation, memory by length, the way to 10^9."""

import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.memory import peak_resident
from benchmarks.page import Page
from benchmarks.shipped import Suite
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.data import Source, open_source
from gradgeo.detector.detector import Detector
from gradgeo.errors import require
from gradgeo.scoring import PART, score
from gradgeo.scoring.ray_engine import RayEngine

BATCH = 64
CASES = ("digits", "cifar10")
EVIDENCE = ("fast", "full")
FIT = 1000  # inputs that detectors are fitted on
SHORT = 2000  # inputs at most of what is measured beside the run itself
LENGTHS = (10_000, 100_000)  # of the data that memory is measured on; fewer where a column has fewer than 1,000
TARGET = 10**9
WORKERS = (1, 16, 256)
SMALL = 8  # pixels of a side of the images that memory is measured on


def run(suite: Suite) -> Page:
    """Wall times, one thread for the model; every ratio within one run."""
    page = Page("Scoring at any size")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _throughput(page, suite, Path(folder))
            _memory(page, suite.inputs, Path(folder))
    finally:
        torch.set_num_threads(threads)
    _toward(page)
    return page


def _throughput(page: Page, suite: Suite, folder: Path) -> None:
    page.say(
        f"`gradgeo score` over test sets: one process, one thread for the model, batches of {BATCH}, parts of {PART}. "
        "Utilisation: the share of the wall time, from the first read to the last write, within the detector. End to "
        f"end: wall time an input over that of the detector alone, which scores the same batches (at most {SHORT} "
        f"inputs) read before. Ray: how many times faster two workers are on the same {SHORT} inputs, their start "
        "included and without it (from the first part to the last)."
    )
    rows = [_row(page, suite, suite[name], evidence, folder) for name in suite.wanted(CASES) for evidence in EVIDENCE]
    heading = ["data", "evidence", "inputs", "inputs/s", "utilisation", "end to end", "bytes a row", "Ray", "started"]
    page.table(heading, rows)


def _row(page: Page, suite: Suite, classifier: ClassifierUnderTest, evidence: str, folder: Path) -> list[str]:
    source = suite.source(classifier.name, limit=suite.inputs)
    learn = min(classifier.half, FIT)
    detector = Detector(classifier.model, evidence=evidence).fit(classifier.x[:learn], classifier.y[:learn])
    out = folder / f"{classifier.name}-{evidence}"
    result = score(detector, source, out, batch_size=BATCH)
    short = suite.source(classifier.name, limit=min(suite.inputs, SHORT))
    alone = _alone(detector, short) / length_of(short)
    values: dict[str, Any] = {
        "inputs": result.rows,
        "per_second": result.rows / result.seconds,
        "utilisation": result.utilisation,
        "end_to_end": result.seconds / result.rows / alone,
        "bytes_a_row": sum(part.stat().st_size for part in out.glob("*.parquet")) / result.rows,
    }
    if find_spec("ray"):
        values |= _on_ray(detector, suite, classifier, short, result.seconds / result.rows, out)
    page.data.setdefault("throughput", {})[f"{classifier.name} {evidence}"] = values
    times = [f"{values[name]:.2f}" if name in values else "" for name in ("ray", "ray_started")]
    return [
        *(classifier.name, evidence, str(result.rows), f"{values['per_second']:.0f}", f"{result.utilisation or 0:.1%}"),
        *(f"{values['end_to_end']:.2f}", f"{values['bytes_a_row']:.0f}", *times),
    ]


def length_of(source: Source) -> int:
    """How many items a source of known length has."""
    assert source.size is not None
    return source.size


def _alone(detector: Detector, source: Source) -> float:
    """Wall seconds of the detector on batches that have been read."""
    read = [torch.stack([item.x for item in batch if item.x is not None]) for batch in source.batches(BATCH)]
    began = time.perf_counter()
    for x in read:
        detector.judge(x, explain=True)
    return time.perf_counter() - began


@dataclass(frozen=True)
class Opened:
    """What each worker of Ray opens."""

    folder: Path
    name: str
    detector: Path
    limit: int

    def __call__(self) -> tuple[Detector, Source]:
        """The detector and the data."""
        suite = Suite(self.folder)
        return Detector.load(self.detector, suite[self.name].model), suite.source(self.name, limit=self.limit)


def _on_ray(
    detector: Detector, suite: Suite, classifier: ClassifierUnderTest, source: Source, per_input: float, out: Path
) -> dict[str, float]:
    """How many times faster two workers are than one process, with and without their start."""
    file, size = out.with_suffix(".gradgeo"), length_of(source)
    detector.save(file)
    times: list[float] = []
    began = time.perf_counter()
    score(
        detector,
        source,
        out.with_name(f"{out.name}-ray"),
        batch_size=BATCH,
        part_size=max(1, size // 16),
        engine=RayEngine(Opened(suite.folder, classifier.name, file, size), jobs=2),
        progress=lambda inputs: times.append(time.perf_counter()) if inputs else None,
    )
    started = (times[-1] - times[0]) / (len(times) - 1) * len(times) if len(times) > 1 else times[0] - began
    return {
        "ray": per_input * size / (time.perf_counter() - began),
        "ray_started": per_input * size / max(started, 1e-9),
    }


# Memory


def _memory(page: Page, inputs: int, folder: Path) -> None:
    page.say(
        f"Peak resident memory of a process that scores {SMALL} x {SMALL} images by a tiny model, one evidence, MiB: "
        "what is there before the data is opened, and the peak. Ten times the data should not take more."
    )
    short, long = (length * min(inputs, 1000) // 1000 for length in LENGTHS)
    rows = []
    for kind, write in KINDS.items():
        peaks = []
        for size in (short, long):
            data = write(folder / f"{kind}-{size}", size)
            peaks.append(_peak(data, folder / f"{kind}-{size}-out"))
        (before, first), (_, second) = peaks
        page.data.setdefault("memory", {})[kind] = {"before": before, short: first, long: second}
        rows.append([kind, f"{before:.0f}", f"{first:.0f}", f"{second:.0f}", f"{(second - first) / first:+.1%}"])
    page.table(["data", "before", f"{short:,} inputs", f"{long:,} inputs", "more"], rows)


def _images(size: int) -> Iterator[NDArray[np.uint8]]:
    random = np.random.RandomState(0)
    for _ in range(size):
        yield random.randint(0, 256, (SMALL, SMALL), np.uint8)


def _png(image: NDArray[np.uint8]) -> bytes:
    stream = BytesIO()
    require("PIL.Image", "images").fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def _write_folder(place: Path, size: int) -> Path:
    for i, image in enumerate(_images(size)):
        inside = place / f"{i // 1000:05d}"
        if i % 1000 == 0:
            inside.mkdir(parents=True)
        (inside / f"{i:09d}.png").write_bytes(_png(image))
    return place


def _write_npy(place: Path, size: int) -> Path:
    file = place.with_suffix(".npy")
    array = np.lib.format.open_memmap(file, "w+", np.uint8, (size, SMALL, SMALL))
    for i, image in enumerate(_images(size)):
        array[i] = image
    return file


def _write_parquet(place: Path, size: int) -> Path:
    arrow, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    file, images = place.with_suffix(".parquet"), _images(size)
    schema = arrow.schema([("image", arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())]))])
    with parquet.ParquetWriter(file, schema) as writer:
        for _ in range(0, size, 1000):
            rows = [
                {"image": {"bytes": _png(image), "path": None}} for _, image in zip(range(1000), images, strict=False)
            ]
            writer.write_table(arrow.Table.from_pylist(rows, schema))
    return file


def _write_tar(place: Path, size: int) -> Path:
    file = place.with_suffix(".tar")
    with tarfile.open(file, "w") as tar:
        for i, image in enumerate(_images(size)):
            data = _png(image)
            entry = tarfile.TarInfo(f"{i:09d}.png")
            entry.size = len(data)
            tar.addfile(entry, BytesIO(data))
            tar.members = []  # type: ignore[attr-defined]  # which it would keep
    return file


KINDS: dict[str, Callable[[Path, int], Path]] = {
    "folder": _write_folder,
    "npy": _write_npy,
    "parquet": _write_parquet,
    "tar": _write_tar,
}


def _peak(data: Path, out: Path) -> tuple[float, float]:
    """MiB of a process of its own before and after it has scored `data`."""
    code = "import sys; from benchmarks import scoring; scoring.measured(sys.argv[1], sys.argv[2])"
    done = subprocess.run([sys.executable, "-c", code, str(data), str(out)], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    return before, after


def measured(data: str, out: str) -> None:
    """Score `data` by a tiny model and print the peak memory before and after, MiB."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SMALL * SMALL, 8), nn.Tanh(), nn.Linear(8, 4)).eval()
    x = torch.rand(300, 1, SMALL, SMALL)
    detector = Detector(model, evidence=["confidence"], batch_size=256).fit(x)
    detector.judge(x, explain=True)
    for name in ("PIL.Image", "pyarrow.parquet"):
        require(name, "images,parquet")
    before = peak_resident()
    score(detector, open_source(data), out, batch_size=256)
    print(before, peak_resident())


# On paper


def _toward(page: Page) -> None:
    page.say(
        f"On paper, not measured: {TARGET:,} inputs at the rates above, were every worker as fast as this one and the "
        "files as fast to read. Parts are independent and a worker is sent numbers alone: it shares nothing but the "
        "file system, and one that dies costs the part it was at. With parts of 65,536 there "
        f"are {-(-TARGET // 65_536):,} of them. Price: worker-hours times what an hour costs."
    )
    rows = []
    for name, values in page.data.get("throughput", {}).items():
        hours = TARGET / values["per_second"] / 3600
        terabytes = TARGET * values["bytes_a_row"] / 1e12
        rows.append([name, *(f"{hours / workers:,.0f}" for workers in WORKERS), f"{hours:,.0f}", f"{terabytes:.2f}"])
    page.table(
        [
            "rate of",
            *(f"hours, {workers} worker{'s' * (workers > 1)}" for workers in WORKERS),
            "worker-hours",
            "TB out",
        ],
        rows,
    )
