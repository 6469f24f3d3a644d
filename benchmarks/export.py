"""Exported detectors: how nearly a file gives the detector's outputs, and what a verdict costs in it.

`python -m benchmarks.export --seeds 20` asks whether a detector of each shipped classifier is exported whatever example
the check draws and whatever kernels the processor has; with `--onnx` it converts each to ONNX and runs the file.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks.page import Page
from benchmarks.shipped import Suite
from benchmarks.timing import timed
from gradgeo import export
from gradgeo.bench.scenarios import smooth_blobs
from gradgeo.classifier.wrapper import Classifier
from gradgeo.detector.detector import Detector
from gradgeo.errors import ExportError, require
from gradgeo.export.agreement import SCORES, Agreement, Runner, compare, joined, verify_outputs
from gradgeo.export.gradient_check import verify_gradients
from gradgeo.export.module import DetectorModule
from gradgeo.export.traced import TracedClassifier

ROUNDS = 7
BATCH = 32
SIZES = (1, 16)

TRAINED = (("mnist", "full"), ("fashion", "full"), ("cifar10", "full"), ("cifar100", "fast"), ("ecg5000", "full"))
"""Classifiers and the evidence that their detectors are exported with."""

UNTRAINED = ("mobilenet_v3_small", "resnet18", "vit")
"""Architectures of torchvision with random weights, on 64 x 64 images of smooth noise, evidence "fast"."""

FEW = 300
"""Trusted inputs of a detector whose export alone is looked at."""

LEVELS = {
    "the processor's own": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "SSE4": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}
"""Kernels of other processors, by what makes PyTorch, oneDNN and MKL choose them."""


@dataclass(frozen=True)
class _Exported:
    """A detector and the inputs that it is compared on."""

    name: str
    evidence: str
    detector: Detector
    x: Tensor


def run(suite: Suite) -> Page:
    """ONNX in onnxruntime and pt2 in PyTorch against `Detector`, in one run with one thread."""
    page = Page("Exported detectors")
    page.say(
        "Each detector is written by `gradgeo.export.onnx` and `.pt2` and compared with itself on inputs of the half "
        f"of the data that it was not fitted on, {BATCH} at a time. Logits and scores: difference relative to the "
        f'larger of 1 and their size. "Flipped": scores more than {SCORES} apart, as where a gradient entry within '
        "rounding of zero has the other sign in the other runtime."
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = [_rows(page, build(), Path(folder)) for build in _wanted(suite)]
    finally:
        torch.set_num_threads(threads)
    page.table(
        ["classifier", "evidence", "inputs", "logits", "scores, median", "largest", "flipped", "verdicts that differ"],
        [agreement for agreement, _, _ in rows],
    )
    page.say(
        "What a batch costs, ms: medians of process times of interleaved calls with one thread, so that ratios within "
        "a row hold on a busy machine."
    )
    page.table(
        ["classifier", "evidence", "N", "`Detector.predict`", "pt2", "ONNX", "predict / ONNX"],
        [row for _, latency, _ in rows for row in latency],
    )
    page.say("What it takes to write the files:")
    page.table(["classifier", "evidence", "ONNX bytes", "pt2 bytes"], [sizes for _, _, sizes in rows])
    return page


def _wanted(suite: Suite) -> list[Callable[[], _Exported]]:
    trained = [partial(_trained, suite, name, evidence) for name, evidence in TRAINED if suite.wanted([name])]
    return [*trained, *(partial(_untrained, name, suite.inputs) for name in suite.wanted(UNTRAINED))]


def _trained(suite: Suite, name: str, evidence: str, *, fit_on: int = 2000) -> _Exported:
    classifier = suite[name]
    fit = slice(0, min(classifier.half, fit_on))
    detector = Detector(classifier.model, evidence=evidence).fit(classifier.x[fit], classifier.y[fit])
    return _Exported(name, evidence, detector, classifier.x[classifier.half : classifier.half + suite.inputs])


def _untrained(name: str, inputs: int) -> _Exported:
    vision: Any = require("torchvision", "torchvision").models
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = (
            vision.VisionTransformer(64, 16, 4, 4, 64, 128, num_classes=10)
            if name == "vit"
            else getattr(vision, name)(num_classes=10)
        ).eval()
        for head in (m for m in model.modules() if isinstance(m, nn.Linear)):  # some begin with zeros
            nn.init.normal_(head.weight, std=head.in_features**-0.5)
    with torch.no_grad():
        detector = Detector(model, evidence="fast").fit(smooth_blobs(200, (3, 64, 64), generator))
    return _Exported(name, "fast", detector, smooth_blobs(min(inputs, 200), (3, 64, 64), generator))


def _rows(page: Page, exported: _Exported, folder: Path) -> tuple[list[str], list[list[str]], list[str]]:
    detector, x, name = exported.detector, exported.x, (exported.name, exported.evidence)
    files = {form: folder / f"{'-'.join(name)}.{form}" for form in ("onnx", "pt2")}
    for form, file in files.items():
        getattr(export, form)(detector, x[:16], file)
    runners: dict[str, Runner] = {"onnx": opened(files["onnx"]), "pt2": torch.export.load(files["pt2"]).module()}
    parts = [compare(detector, runners["onnx"], part) for part in x.split(BATCH)]
    whole = joined(parts)
    flipped, differ = whole.flipped, int((~whole.verdicts).sum())
    data: dict[str, Any] = {
        "inputs": len(x), "logits": whole.logits, "median": float(whole.scores.median()), "flipped": flipped,
        "largest": float(whole.scores.max()), "verdicts_differ": differ, "ms": {},
        "bytes": {form: file.stat().st_size for form, file in files.items()},
    }  # fmt: skip
    latency = []
    for n in SIZES:
        ways: dict[str, Callable[[], object]] = {
            "predict": partial(detector.predict, x[:n]),
            "pt2": partial(runners["pt2"], x[:n]),
            "onnx": partial(runners["onnx"], x[:n]),
        }
        with torch.no_grad():
            times = timed(ways, ROUNDS)
        ms = data["ms"][n] = {way: median(samples) for way, samples in times.items()}
        ratio = median(p / o for p, o in zip(times["predict"], times["onnx"], strict=True))
        latency.append([*name, str(n), *(f"{ms[way]:.1f}" for way in ways), f"{ratio:.2f}"])
    page.data.setdefault("classifiers", {})["/".join(name)] = data
    agreement = [f"{data[key]:.1e}" for key in ("logits", "median", "largest")]
    return (
        [*name, str(len(x)), *agreement, str(flipped), str(differ)],
        latency,
        [*name, *(f"{data['bytes'][form]:,}" for form in ("onnx", "pt2"))],
    )


def opened(file: Path) -> Runner:
    """An ONNX file in onnxruntime, on one thread of the CPU."""
    runtime: Any = require("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, map(torch.from_numpy, session.run(None, {"input": x.numpy()})), strict=True))


def seeds(suite: Suite, count: int, *, form: str = "") -> Iterator[str]:
    """For each shipped classifier a sentence: for how many random examples its "paper" detector would be exported.

    With 100 classes it is the "fast" detector, as in the table: a graph with the maps of all classes is too large.
    Each example goes through the two checks that can refuse it, of gradients and of outputs. The graph that is run for
    the outputs is that of PyTorch, which all formats convert; with `form` the file in this format.
    """
    for name, evidence in TRAINED:
        if suite.wanted([name]):
            chosen = "fast" if evidence == "fast" else "paper"
            yield _refusals(name, partial(_trained, suite, name, chosen, fit_on=FEW), count, form)


def _refusals(name: str, build: Callable[[], _Exported], count: int, form: str) -> str:
    built = build()
    detector, classifier = built.detector, Classifier.of(built.detector.model)
    traced = TracedClassifier.of(classifier, classifier.prepare(built.x[:5]).x)
    found, refused = [], []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        run: Runner = DetectorModule(detector, traced.graphs, built.x[:5])
        if form:
            file = Path(folder) / f"{name}.{form}"
            export.write(detector, built.x[:16], file, form)
            run = opened(file) if form == "onnx" else torch.export.load(file).module()
        for seed in range(count):
            x = torch.rand(BATCH, *detector.input_shape_, generator=torch.Generator().manual_seed(seed))
            try:
                verify_gradients(traced, classifier, x)
                found.append(verify_outputs(detector, run, x, "the graph"))
            except ExportError as error:
                refused.append(f"seed {seed}: {error}")
    return f"{name}: exported for {len(found)} of {count} seeds{_summary(found)}{''.join(f'; {r}' for r in refused)}"


def _summary(found: list[Agreement]) -> str:
    if not found:
        return ""
    whole = joined(found)
    return (
        f", scores {float(whole.scores.median()):.1e} apart in the median and {float(whole.scores.max()):.1e} at most, "
        f"{whole.flipped} of {len(whole.scores)} more than {SCORES}, {int((~whole.verdicts).sum())} other verdicts"
    )


def main(
    data: Annotated[Path, typer.Option("--data", "-d", help="Folder with data/ and models/.", envvar="GRADGEO_DATA")],
    count: Annotated[int, typer.Option("--seeds", min=1, help="Random examples of each classifier.")] = 20,
    cases: Annotated[str | None, typer.Option(help="Classifiers, with commas; default all.")] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Convert to ONNX and run the file.")] = False,
    own: Annotated[bool, typer.Option("--own", help="Only with the kernels that this process has.")] = False,
) -> None:
    """Whether detectors of the shipped classifiers are exported on any processor."""
    if own:
        torch.set_num_threads(1)
        only = tuple(cases.split(",")) if cases else None
        for line in seeds(Suite(data, inputs=BATCH, only=only), count, form="onnx" if onnx else ""):
            print(line, flush=True)
        return
    for level, variables in LEVELS.items():
        print(f"{level}:", flush=True)
        command = [sys.executable, "-m", "benchmarks.export", *sys.argv[1:], "--own"]
        subprocess.run(command, env=os.environ | variables, check=True)


if __name__ == "__main__":
    typer.run(main)
